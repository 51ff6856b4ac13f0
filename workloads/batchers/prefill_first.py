"""`prefill_first`: as long as a prompt can be computed, prompts are; answers wait, and go on in steps of their own."""

from dataclasses import dataclass
from typing import ClassVar

from workloads.batchers._fill import answers, steps_of
from workloads.batchers.contract import Batch, Queues


@dataclass(frozen=True)
class Batcher:
    """A step is prefill or decode, never both: the earliest first tokens, at the price of gaps within answers.

    Prompts under way come before waiting ones, each in order of arrival.
    """

    clock: ClassVar[bool] = False

    def batch(self, queues: Queues) -> Batch:
        prompts = steps_of(queues, ~queues.running.decoding)
        return prompts if len(prompts.number) else answers(queues)
