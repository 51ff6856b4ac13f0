"""What clients are answered: bodies and chunks of OpenAI's API, and beside them the emulated times."""

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from cluster.serve.contract import End, Machine, Status, StoppedError, Token
from cluster.serve.openai.answers import Answers
from cluster.serve.openai.errors import Refusal, dumped, error_object, refusal
from cluster.serve.openai.schema import ChatRequest, CompletionRequest
from emulation.errors import MoelabError
from emulation.units import PS_PER_S

NOTE = ("the clock is virtual: tokens come as fast as this host works them out, so times that a client measures mean "
        "nothing")
Json = dict[str, object]


def late(timeout_s: float | None) -> Refusal:
    """What a client is told whose time is over."""
    return Refusal(408, f"the answer was not complete within timeout_s, {timeout_s} real seconds")


def clocks(status: Status) -> Json:
    """The machine's clock, as every answer tells it."""
    return {"clock": status.clock, "dilation": status.dilation, **({"note": NOTE} if status.clock == "virtual" else {})}


def times(end: End) -> Json:
    """Emulated times of an answer, in seconds. tpot_s: None of a single token; ttft_s: None where there was none."""
    more = end.output_tokens - 1
    return {"arrival_s": end.arrival_ps / PS_PER_S, "queue_s": (end.scheduled_ps - end.arrival_ps) / PS_PER_S,
            "ttft_s": (end.first_token_ps - end.arrival_ps) / PS_PER_S if more >= 0 else None,
            "tpot_s": (end.end_ps - end.first_token_ps) / PS_PER_S / more if more > 0 else None,
            "e2e_s": (end.end_ps - end.arrival_ps) / PS_PER_S}


@dataclass
class Reply:
    """How one request is answered. prefixes: what is echoed before each answer. prompt_tokens: of each prompt."""

    machine: Machine
    body: CompletionRequest | ChatRequest
    prefixes: Sequence[str]
    prompt_tokens: Sequence[int]
    id: str = field(init=False)
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self._chat = isinstance(self.body, ChatRequest)
        self.id = f"{'chatcmpl' if self._chat else 'cmpl'}-{uuid.uuid4().hex}"

    async def whole(self, answers: Answers) -> Json:
        """The body of an answer that is not streamed."""
        count = len(self.prompt_tokens) * self.body.n
        texts = [self.prefixes[i // self.body.n] for i in range(count)]
        ends: dict[int, End] = {}
        try:
            async for number, item in answers.items(self.body.timeout_s):
                if isinstance(item, End):
                    ends[number] = _served(item)
                else:
                    texts[number] += item.text
        except TimeoutError:
            raise late(self.body.timeout_s) from None
        choices = [self._choice(i, self._message(texts[i]), ends[i].reason) for i in range(count)]
        told = [times(ends[i]) for i in range(count)]
        return {**self._head("chat.completion" if self._chat else "text_completion"), "choices": choices,
                "usage": self._usage(sum(end.output_tokens for end in ends.values())),
                "moelab": {**clocks(self.machine.status()), **(told[0] if count == 1 else {"answers": told})}}

    async def events(self, answers: Answers) -> AsyncIterator[bytes]:
        """Server-sent events: a chunk a token, the usage if it is asked for, and [DONE]; an error ends them too.

        The last token that is allowed waits for the end, so that one chunk tells both.
        """
        try:
            async for chunk in self._chunks(answers):
                yield _event(chunk)
        except TimeoutError:
            yield _event(error_object(late(self.body.timeout_s)))
        except MoelabError as error:
            yield _event(error_object(refusal(error)))
        yield b"data: [DONE]\n\n"

    async def _chunks(self, answers: Answers) -> AsyncIterator[Json]:
        n, most, usage = self.body.n, self.body.limit(), self.body.usage
        made = [0] * (len(self.prompt_tokens) * n)
        held: dict[int, Token] = {}
        begun: dict[int, bool] = {}
        async for number, item in answers.items(self.body.timeout_s):
            if isinstance(item, Token):
                made[number] = item.index + 1
                if item.index == most - 1:
                    held[number] = item
                    continue
            token = held.pop(number, None) if isinstance(item, End) else item
            end = _served(item) if isinstance(item, End) else None
            text = "" if token is None else token.text
            if not begun.setdefault(number, False):
                begun[number], text = True, self.prefixes[number // n] + text
            told: Json = {} if token is None else {"emulated_s": token.emulated_ps / PS_PER_S}
            if end is not None:
                told |= {**clocks(self.machine.status()), **times(end)}
            first = token is not None and token.index == 0
            chunk: Json = {**self._head("chat.completion.chunk" if self._chat else "text_completion"),
                           "choices": [self._choice(number, self._delta(text, first),
                                                None if end is None else end.reason)],
                           "moelab": told}
            if usage.continuous_usage_stats:
                chunk["usage"] = self._usage(made[number], number // n)
            elif usage.include_usage:
                chunk["usage"] = None
            yield chunk
        if usage.include_usage:
            yield {**self._head("chat.completion.chunk" if self._chat else "text_completion"), "choices": [],
                   "usage": self._usage(sum(made))}

    def _head(self, kind: str) -> Json:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.machine.model}

    def _message(self, text: str) -> Json:
        return {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}

    def _delta(self, text: str, first: bool) -> Json:
        if not self._chat:
            return {"text": text}
        return {"delta": {**({"role": "assistant"} if first else {}), "content": text}}

    def _choice(self, index: int, content: Json, reason: str | None) -> Json:
        return {"index": index, **content, "logprobs": None, "finish_reason": reason}

    def _usage(self, output: int, prompt: int | None = None) -> Json:
        tokens = sum(self.prompt_tokens) if prompt is None else self.prompt_tokens[prompt]
        return {"prompt_tokens": tokens, "completion_tokens": output, "total_tokens": tokens + output}


def _served(end: End) -> End:
    """The end of an answer that somebody else has not cut off."""
    if end.reason == "cancelled":
        raise StoppedError("the answer was cut off: the machine is being switched off")
    return end


def _event(chunk: Json) -> bytes:
    return b"data: " + dumped(chunk) + b"\n\n"
