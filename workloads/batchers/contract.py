"""What a batcher is. Pure: it reads the queues and returns the next step's tokens; the driver may refuse them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Sequences:
    """Requests in one state, in order of arrival; all columns [n].

    number: which request. home: which home its cache lies on, counted from 0. arrival_ps: when it came. cached: its
    positions in the cache. todo: tokens that are known and not computed yet: of the prompt, after a pre-emption also
    of the answer, and in decode the one token made last. decoding: that one token is all. emitted: tokens of the
    answer so far. blocks: KV blocks that it holds by itself. spared: blocks of a shared prefix that it would not have
    to take.
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

    def __len__(self) -> int:
        return len(self.number)


@dataclass(frozen=True)
class Queues:
    """What a batcher sees: the requests that have come and are not finished, and what a step may take.

    waiting: hold no cache; the new and the pre-empted. running: hold a cache. max_batch: how many may run at once.
    token_budget: tokens that a step may compute. block_tokens: positions in a KV block. free_blocks [homes].
    clock: tells the time in picoseconds at which the step would start; a batcher that calls it says `clock = True`,
    since the run must then be timed up to here first.
    """

    waiting: Sequences
    running: Sequences
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

    preempt: running requests that lose their cache and wait again; they compute everything anew. An empty batch is
    allowed only while nothing has come that could run.
    """

    number: Ints
    tokens: Ints
    preempt: Ints = field(default_factory=_none)


class Batcher(Protocol):
    """A batcher; its parameters are the fields of its dataclass. clock: whether it looks at the time."""

    clock: ClassVar[bool]

    def batch(self, queues: Queues) -> Batch:
        """The next step."""
