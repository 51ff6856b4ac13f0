"""What a batcher is. Pure: it reads the queues and returns the next step's tokens; the driver may refuse them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
NOWHERE = -1


@dataclass(frozen=True)
class Sequences:
    """Requests in one state, in order of arrival; all columns [n].

    number: which request. home: which home its cache lies on, counted from 0. arrival_ps: when it came. cached: its
    positions in the cache. todo: tokens that are known and not computed yet: of the prompt, after a pre-emption also
    of the answer, and in decode the one token made last. decoding: that one token is all. emitted: tokens of the
    answer so far. blocks: KV blocks that it holds by itself. spared: blocks of a shared prefix that it would not have
    to take. layer: the MoE layer, counted among MoE layers, at which a parked one waits (NOWHERE: it is not parked).
    """

    number: Ints
    home: Ints
    arrival_ps: Ints
    cached: Ints
    todo: Ints
    decoding: Mask
    emitted: Ints
    blocks: Ints
    spared: Ints
    layer: Ints

    def __len__(self) -> int:
        return len(self.number)


@dataclass(frozen=True)
class Queues:
    """What a batcher sees: the requests that have come and are not finished, and what a step may take.

    waiting: hold no cache; the new and the pre-empted. running: hold a cache. parked: hold a cache, and wait within a
    step that is over, where the batcher left them; todo is what would go on. max_batch: how many may run or be parked.
    token_budget: tokens that a step may compute. block_tokens: positions in a KV block. free_blocks [homes].
    clock: tells the time in picoseconds at which the step would start; a batcher that calls it says `clock = True`,
    since the run must then be timed up to here first.
    """

    waiting: Sequences
    running: Sequences
    parked: Sequences
    max_batch: int
    token_budget: int
    block_tokens: int
    free_blocks: Ints
    clock: Callable[[], int]

    def blocks_for(self, of: Sequences, tokens: Ints) -> Ints:
        """How many more KV blocks each needs to compute so many tokens more."""
        more: Ints = -(-(of.cached + tokens) // self.block_tokens) - of.blocks - of.spared
        return np.maximum(more, 0)


def _none() -> Ints:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Batch:
    """The next step: requests in the order of its rows, and the tokens that each computes (at least one).

    preempt: running or parked requests that lose their cache and wait again; they compute everything anew. resume:
    parked ones that go on in this step, in the layer where they are. An empty batch is allowed only while somebody is
    still to come.
    """

    number: Ints
    tokens: Ints
    preempt: Ints = field(default_factory=_none)
    resume: Ints = field(default_factory=_none)


@dataclass(frozen=True)
class AtLayer:
    """What a parking batcher sees at a MoE layer, before its experts run; rows are tokens of the step.

    moe: which layer. sequence, position [tokens]. experts [tokens, top_k]: pairs that are due (DROPPED: none): of a
    token that goes on here those that it was parked with. back [tokens]: it goes on here.
    """

    moe: int
    sequence: Ints
    position: Ints
    experts: Ints
    back: Mask


class Batcher(Protocol):
    """A batcher; its parameters are the fields of its dataclass. clock: whether it looks at the time."""

    clock: ClassVar[bool]

    def batch(self, queues: Queues) -> Batch:
        """The next step."""


class Parking(Batcher, Protocol):
    """A batcher that may hold (token, expert) pairs back at a layer until a later step."""

    def park(self, layer: AtLayer) -> Mask:
        """Which pairs are held back, [tokens, top_k]. A sequence of which any is waits here with all its tokens: its
        other pairs run now, and what is behind this layer, when the batcher lets it resume, the held pairs first."""
