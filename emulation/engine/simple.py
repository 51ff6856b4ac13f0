"""A simple plan in the compiled engine (`compiled_simple_rows` says what is): kept aside when it is submitted to an
engine that holds nothing else, and run to its end in one call if it is run to its end."""

from collections.abc import Sequence
from typing import Self

import numpy as np

from emulation.engine.compiled_simple import DONE, FEW, STATE, WAYS, Board, run_rows
from emulation.engine.compiled_simple_rows import (
    HALVES,
    KIND,
    MOST_LANES,
    MOST_RANKS,
    NONE,
    RANKS,
    RUNNING,
    SET_SHIFT,
    SETS,
    SETS_A_LANE,
    SIMPLE,
    TAKE_WORDS,
    WORDS,
    Halves,
    Ints,
    Rows,
    load_rows,
)
from emulation.engine.contract import UNSET, Occupancy, Spans
from emulation.engine.play import columns_of
from emulation.ops import Ops

AT_LEAST = 512
"""Operations below which the engine's own rows are as fast."""

MOST_RUNNING = WAYS**3
"""Servers of all lanes: places in the tree of events."""


class SimplePlan:
    """Operations that were not run yet (`has_run` False), or all of which have ended."""

    def __init__(self, ops: Ops, scalars: Ints, rows: Rows) -> None:
        self.ops, self.has_run, self.end_ps = ops, False, 0
        self._s, self._rows = scalars, rows
        self._spans = Spans(*np.empty((2, 0), np.int64))
        self._order = np.empty(0, np.int32)

    @classmethod
    def of(cls, ops: Ops, servers: Ints, capacity: Ints, at_least: int = AT_LEAST) -> Self | None:
        """None where the operations are fewer than that, not simple or not right. servers [lanes]: 0 of a lane that is
        in order; capacity [pools]."""
        n, n_lanes = len(ops), len(servers)
        if n < at_least or not n_lanes:
            return None
        running = min(n, int(servers.sum()))
        if running > MOST_RUNNING:
            return None
        buckets = 1 << (2 * SETS_A_LANE * n_lanes).bit_length()
        words, halves = _cut([WORDS * (n + 2), TAKE_WORDS * ops.takes, MOST_RANKS],
                             [len(ops.wait_op) + 2, n, n + 1, MOST_LANES * (SETS_A_LANE * n_lanes + 1), buckets])
        halves[0][-1] = 0  # looked at ahead, and no more than that
        rows = Rows(words[0], words[0].view(np.int32), halves[0], halves[1], halves[2], words[1], halves[3], halves[4],
                    words[2], servers, capacity)
        scalars = np.array([0, 0, (n + 1).bit_length(), running, ops.first, ops.first_take], np.int64)
        try:
            simple = load_rows(scalars, rows, columns_of(ops)) == SIMPLE
        except TypeError:  # columns of another kind of number
            return None
        return cls(ops, scalars, rows) if simple else None

    def run(self, since_ps: int) -> bool:
        """Run all to its end, from `since_ps` on; False where the queues are too far from their order for that."""
        n, lanes, pools = len(self.ops), len(self._rows.servers), len(self._rows.capacity)
        sets, ranks, running = (int(self._s[i]) for i in (SETS, RANKS, RUNNING))
        roots = 1 if running <= WAYS**2 else WAYS
        tops = WAYS * roots
        words, halves = _cut(
            [STATE, sets * ranks, sets * ranks, sets + 1, lanes, pools, -(-running // WAYS) * WAYS, tops,
             roots, sets, n, n],
            [sets * ranks, sets + 1, lanes + 2, MOST_LANES * sets, pools, running, n + 1, sets + FEW + 1, n])
        state, head_key, last_key, key, idle, free, events, tops_at, roots_at, heap, start_ps, end_ps = words
        tail, blocked, lane_ptr, lane_sets, waits, slots, fresh, candidates, order = halves
        board = Board(state, head_key, last_key, tail, key, blocked, lane_ptr, lane_sets, idle, free, waits, events,
                           tops_at, roots_at, slots, fresh, candidates, heap, order, start_ps, end_ps)
        self.has_run = run_rows(self._s, self._rows, board, since_ps) == DONE
        if self.has_run:
            self._spans, self._order = Spans(start_ps, end_ps), order
            self.end_ps = int(end_ps[order[-1]])
        return self.has_run

    def spans(self) -> Spans:
        """Of all operations."""
        if not self.has_run:
            return Spans(*np.full((2, len(self.ops)), UNSET, np.int64))
        return Spans(self._spans.start_ps.copy(), self._spans.end_ps.copy())

    def occupancy(self) -> Occupancy:
        """Every stretch, as they ended."""
        order = self._order.astype(np.int64)
        sets = self._rows.halves[HALVES * order + KIND] >> SET_SHIFT
        lanes = self._rows.sets[:MOST_LANES * int(self._s[SETS])].reshape(-1, MOST_LANES)[sets]
        row, column = np.nonzero(lanes != NONE)
        op = order[row]
        return Occupancy(lanes[row, column].astype(np.int64), self.ops.first + op, self._spans.start_ps[op],
                         self._spans.end_ps[op])

    @property
    def kept_bytes(self) -> int:
        """Memory of what it keeps."""
        return sum(column.nbytes for column in (*self._rows, *self._spans, self._order))


def _cut(words: Sequence[int], halves: Sequence[int]) -> tuple[list[Ints], list[Halves]]:
    """Columns of so many int64 and so many int32, each from a line of the cache on, out of one piece of memory."""
    line = 8
    sizes = [-(-size // line) * line for size in (*words, *(-(-size // 2) for size in halves))]
    at = np.cumsum([0, *sizes]).tolist()
    raw = np.empty(at[-1] + line, np.int64)
    shift = -(raw.ctypes.data // raw.itemsize) % line
    return ([raw[shift + at[i]:shift + at[i] + size] for i, size in enumerate(words)],
            [raw[shift + at[len(words) + i]:shift + at[len(words) + i + 1]].view(np.int32)[:size]
             for i, size in enumerate(halves)])
