"""A cache of whole experts that serves a layer's active ones in increasing id: who hits, and over whom others come."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.plan import NOBODY

Ints = NDArray[np.int64]
Eviction = Literal["lifo", "fifo", "lru", "belady"]
NEVER = 1 << 40


class Use(NamedTuple):
    """An active expert in turn: whether it was cached, and whom it replaced where it was not (NOBODY: none)."""

    expert: int
    hit: bool
    victim: int


def pass_through(cached: Sequence[int], active: Sequence[int], slots: int, rule: Eviction, *, inactive_first: bool,
                 again: Callable[[int], int] | None = None) -> tuple[list[Use], list[int]]:
    """Serve the active experts one by one, in increasing id (arXiv 2303.06182, G2); and what is cached behind them.

    cached: oldest first, by when each was loaded (lru: last used). again: steps until an expert is next active behind
    this one, NEVER where it is not; belady needs it. inactive_first: what this batch does not need goes before all
    else, oldest first; then the rule decides. Belady's MIN evicts what is used last from here on, whatever it is.
    """
    wanted = set(active)
    row, uses = list(cached), []
    for expert in active:
        hit, victim = expert in row, NOBODY
        if not hit and len(row) >= slots:
            victim = _victim(row, expert, wanted, rule, inactive_first, again)
            row.remove(victim)
        if hit and rule == "lru":
            row.remove(expert)
        if not hit or rule == "lru":
            row.append(expert)
        uses.append(Use(expert, hit, victim))
    return uses, row


def _victim(row: list[int], expert: int, wanted: set[int], rule: Eviction, inactive_first: bool,
            again: Callable[[int], int] | None) -> int:
    if rule == "belady":
        assert again is not None
        next_step = again

        def distance(other: int) -> tuple[int, int]:
            steps = 0 if other in wanted and other > expert else next_step(other)
            return steps, other if steps < NEVER else 0

        return max(row, key=distance)
    idle = [other for other in row if other not in wanted] if inactive_first else []
    if idle:
        return idle[0]
    return row[-1] if rule == "lifo" else row[0]


def first_cached(own: Ints, slots: int, popularity: Ints | None) -> Ints:
    """What a cache holds at first of its unit's experts, as if they had come in increasing id: those that a history
    [experts] names most often, ties to the lower id."""
    counts = np.zeros(len(own)) if popularity is None else popularity[own]
    return np.sort(own[np.argsort(-counts, kind="stable")[:slots]])


def next_active(active: NDArray[np.bool_]) -> Ints:
    """Steps until each expert of each layer is active again behind each step, NEVER where it is not: of a mask
    [steps, moe_layers, experts], the same shape."""
    steps = np.full(active.shape, NEVER, np.int64)
    following = np.full(active.shape[1:], NEVER, np.int64)
    for step in range(len(active) - 1, -1, -1):
        steps[step] = following
        following = np.where(active[step], 1, np.minimum(following + 1, NEVER))
    return steps
