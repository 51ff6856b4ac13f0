"""What stands behind every front door: an emulated machine that answers requests as they come.

The machine works on a thread of its own. Front doors live in an asyncio loop: they `submit`, iterate over the answer,
and may cancel it. Times of tokens are the emulated machine's, in picoseconds since it was switched on.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from emulation.errors import MoelabError

Reason = Literal["stop", "length", "cancelled"]
"""Why an answer ended: an end token or a stop text; its limit of tokens; its client left or its deadline passed."""


class BusyError(MoelabError):
    """Too many requests wait already: HTTP 429, gRPC RESOURCE_EXHAUSTED."""


class AskError(MoelabError):
    """A request that cannot be served: HTTP 400, gRPC INVALID_ARGUMENT."""


class StoppedError(MoelabError):
    """The machine is being switched off, or has failed: HTTP 503, gRPC UNAVAILABLE."""


@dataclass(frozen=True)
class Ask:
    """One request: a prompt of token ids, and how its answer is to be made.

    stop: texts that end the answer and are not part of it. ignore_eos: an end token does not end it.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False


@dataclass(frozen=True)
class Token:
    """A token of an answer. index: counted from 0. text: what it adds (empty until a letter is whole)."""

    index: int
    token: int
    text: str
    emulated_ps: int


@dataclass(frozen=True)
class End:
    """The last that an answer tells. scheduled_ps: when its first step began."""

    reason: Reason
    prompt_tokens: int
    output_tokens: int
    arrival_ps: int
    scheduled_ps: int
    first_token_ps: int
    end_ps: int


class Answer(Protocol):
    """Tokens as they are made, then one `End`."""

    number: int

    def __aiter__(self) -> AsyncIterator[Token | End]: ...

    def cancel(self) -> None:
        """Nobody listens any more; may be called at any time and more than once."""


@dataclass(frozen=True)
class Status:
    """How the machine is. dilation: real seconds for an emulated one (clock: wall); None with clock: virtual."""

    state: Literal["starting", "ready", "stopping", "failed"]
    clock: Literal["virtual", "wall"]
    dilation: float | None
    emulated_ps: int
    running: int
    waiting: int
    steps: int
    prompt_tokens: int
    output_tokens: int
    kv_blocks: int
    kv_blocks_used: int
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Identity:
    """What a served machine is, for who watches several: the run that it serves, and versions of what makes it."""

    run: str
    policy: str
    machine: str
    precision: str
    transport: str
    version: str


class Machine(Protocol):
    """An emulated machine that serves one model."""

    identity: Identity

    model: str
    """The name that clients call it by."""
    real_tokens: bool
    """Whether tokens come from real weights; else they are filler, and only their times mean something."""
    context_tokens: int | None

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation: the model's own template, or a plain one."""

    async def submit(self, ask: Ask) -> Answer:
        """Hand in a request. BusyError, AskError or StoppedError where it is not taken."""

    def status(self) -> Status:
        """How it is just now; from any thread."""

    def figures(self) -> Mapping[str, object]:
        """What it has counted so far, as in a result: for metrics."""

    async def inject(self, fault: Mapping[str, object]) -> str:
        """Let a fault happen now, as the `faults` of a run's config write it; returns a sentence that tells it."""

    async def close(self) -> None:
        """Answer nobody any more, stop every thread and process."""
