"""`decode_first`: every running answer gets its next token; prompts get what is left."""

from dataclasses import dataclass
from typing import ClassVar

from workloads.batchers._fill import answers, steps_of
from workloads.batchers.contract import Batch, Queues


@dataclass(frozen=True)
class Batcher:
    """Decodes first, then prompts under way, then waiting ones, in chunks: a prompt never stops an answer
    (Sarathi-Serve, arXiv 2403.02310).

    exclusive: prompts are computed until the batch is full, and then nobody starts before its last answer is ready
    (batching by request, as that paper calls decode-prioritising): steady answers, long queues.
    """

    exclusive: bool = False
    clock: ClassVar[bool] = False

    def batch(self, queues: Queues) -> Batch:
        decoding = queues.running.decoding
        if not self.exclusive:
            return steps_of(queues, decoding, ~decoding)
        if (decoding & (queues.running.emitted > 1)).any():
            return answers(queues)
        prompts = steps_of(queues, ~decoding)
        return prompts if len(prompts.number) else answers(queues)
