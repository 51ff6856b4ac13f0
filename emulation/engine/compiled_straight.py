"""Times operations in the order of their serials: exact where every lane is a stream, or used by one stream only.

Nobody overtakes in an in-order lane, so an operation starts when its edges have happened, its plan has come and the
operations before it have left its lanes: a maximum, with no candidates and no events.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from emulation.engine.compiled_bare import bare
from emulation.engine.compiled_table import inner, kernel
from emulation.engine.play import Columns

Ints = NDArray[np.int64]

NONE = -1
NOW, FIRST, OPS, TAKES, WAITING = range(5)
"""Scalars: the clock, the serial of row 0, rows and take handles in use, releases that are not due yet."""
SCALARS = 5

FREE_PS, GUARD, IN_ORDER = range(3)
"""Of a lane: when it is free, and the in-order lane that all its users hold too."""

FREE, TAKEN_PS = range(2)
"""Of a pool: what is free, and when something was last taken."""

POOL, AMOUNT, TAKER_PS = range(3)
"""Of a take."""

DUE_PS, DUE_POOL, DUE_AMOUNT = range(3)

DONE, NOT_STRAIGHT = range(2)


@inner
def happened_ps(s: Any, start_ps: Any, end_ps: Any, op: int, edge: int) -> int:
    """When an edge happens; of what was handed over, before all that is still to come."""
    row = op - s[FIRST]
    if row < 0:
        return 0
    return end_ps[row] if edge else start_ps[row]


@inner
def follows_guard(lanes: Any, hold_lane: Any, low: int, high: int) -> bool:
    """Whether every lane of the operation is in order, or guarded by one that is and that the operation holds."""
    for k in range(low, high):
        lane = hold_lane[k]
        if lanes[lane, IN_ORDER]:
            continue
        guard = lanes[lane, GUARD]
        found = False
        for other in range(low, high):
            if lanes[hold_lane[other], IN_ORDER] and (guard == NONE or hold_lane[other] == guard):
                guard = hold_lane[other]
                found = True
                break
        if not found:
            return False
        lanes[lane, GUARD] = guard
    return True


@inner
def make_free(s: Any, pools: Any, due: Any, pool: int, at_ps: int) -> None:
    """Give back what is due by then; the rest stays."""
    k = 0
    while k < s[WAITING]:
        if due[k, DUE_POOL] == pool and due[k, DUE_PS] <= at_ps:
            pools[pool, FREE] += due[k, DUE_AMOUNT]
            s[WAITING] -= 1
            last = s[WAITING]
            due[k, DUE_PS], due[k, DUE_POOL] = due[last, DUE_PS], due[last, DUE_POOL]
            due[k, DUE_AMOUNT] = due[last, DUE_AMOUNT]
        else:
            k += 1


@inner
def time_rows(s: Any, start_ps: Any, end_ps: Any, lanes: Any, pools: Any, takes: Any, due: Any, o: Any, low: int,
              high: int, first_release: int, last_release: int) -> int:
    """Time rows [low, high) of the columns and the releases from the first to before the last; NOT_STRAIGHT where the
    order of serials does not tell the times."""
    now = s[NOW]
    for i in range(low, high):
        at = now
        for k in range(o.wait_ptr[i], o.wait_ptr[i + 1]):
            if o.wait_op[k] - s[FIRST] >= s[OPS]:
                return NOT_STRAIGHT
            at = max(at, happened_ps(s, start_ps, end_ps, o.wait_op[k], o.wait_edge[k]))
        first, end = o.hold_ptr[i], o.hold_ptr[i + 1]
        for k in range(first, end):
            at = max(at, lanes[o.hold_lane[k], FREE_PS])
        if not follows_guard(lanes, o.hold_lane, first, end):
            return NOT_STRAIGHT
        for k in range(o.take_ptr[i], o.take_ptr[i + 1]):
            pool, handle = o.take_pool[k], s[TAKES]
            make_free(s, pools, due, pool, at)
            if pools[pool, FREE] < o.take_needs[k] or at < pools[pool, TAKEN_PS]:
                return NOT_STRAIGHT
            pools[pool, FREE] -= o.take_amount[k]
            pools[pool, TAKEN_PS] = at
            takes[handle, POOL], takes[handle, AMOUNT], takes[handle, TAKER_PS] = pool, o.take_amount[k], at
            s[TAKES] = handle + 1
        for k in range(first, end):
            lanes[o.hold_lane[k], FREE_PS] = at + o.hold_ps[k]
        row = s[OPS]
        start_ps[row] = at
        end_ps[row] = at + o.length_ps[i]
        s[OPS] = row + 1
    for r in range(first_release, last_release):
        handle = o.release_take[r]
        at = max(now, takes[handle, TAKER_PS])
        for k in range(o.release_ptr[r], o.release_ptr[r + 1]):
            at = max(at, happened_ps(s, start_ps, end_ps, o.release_op[k], o.release_edge[k]))
        k = s[WAITING]
        due[k, DUE_PS], due[k, DUE_POOL], due[k, DUE_AMOUNT] = at, takes[handle, POOL], takes[handle, AMOUNT]
        s[WAITING] = k + 1
    return DONE


_ONE, _GRID = np.zeros(1, np.int64), np.zeros((1, 1), np.int64)


@kernel(*[_ONE] * 3, *[_GRID] * 4, Columns(*[_ONE] * len(Columns._fields)), *[_ONE] * 4)
def time_batches(scalars: Ints, starts: Ints, ends: Ints, lane_rows: Ints, pool_rows: Ints, take_rows: Ints,
                 due_rows: Ints, columns: Columns, rows: Ints, releases: Ints, decisions: Ints,
                 submitted_ps: Ints) -> int:
    """Time batch by batch, each when the decision before it has ended: rows, releases [batches + 1] say where each
    begins, decisions [batches] whose end lets the next come (NONE: it comes at once). Notes when each was submitted.
    """
    s, start_ps, end_ps, lanes = bare(scalars), bare(starts), bare(ends), bare(lane_rows)
    pools, takes, due, o = bare(pool_rows), bare(take_rows), bare(due_rows), bare(columns)
    for i in range(len(decisions)):
        submitted_ps[i] = s[NOW]
        outcome = time_rows(s, start_ps, end_ps, lanes, pools, takes, due, o, rows[i], rows[i + 1], releases[i],
                            releases[i + 1])
        if outcome != DONE:
            return outcome
        if decisions[i] != NONE:
            s[NOW] = end_ps[decisions[i] - s[FIRST]]
    return DONE


@kernel(*[_ONE] * 4, 1, 1, 1, *[_ONE] * 4)
def note_holds(starts: Ints, hold_ptrs: Ints, hold_lanes: Ints, hold_pss: Ints, low: int, high: int, first: int,
               to_lane: Ints, to_op: Ints, to_from: Ints, to_to: Ints) -> int:
    """Write the holds of rows [low, high), of serials from `first` on: starts [high - low]. Returns how many."""
    start_ps, hold_ptr, hold_lane, hold_ps = bare(starts), bare(hold_ptrs), bare(hold_lanes), bare(hold_pss)
    lane, op, from_ps, to_ps = bare(to_lane), bare(to_op), bare(to_from), bare(to_to)
    at = 0
    for i in range(low, high):
        for k in range(hold_ptr[i], hold_ptr[i + 1]):
            lane[at], op[at], from_ps[at] = hold_lane[k], first + i - low, start_ps[i - low]
            to_ps[at] = from_ps[at] + hold_ps[k]
            at += 1
    return at
