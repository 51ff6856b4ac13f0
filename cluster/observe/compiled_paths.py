"""The compiled side of `collect`: what let each operation start, and what idle stretches and steps went to.

The rules are those of `attribution`, which stays as the specification; here they run over one chunk of a run at a time.
A chunk begins and ends when nothing is in flight, so what it needs of earlier chunks is the compact path of each
operation, and what happened at the very instant at which it begins.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cluster.observe import attribution as a
from emulation.engine.compiled_addresses import located
from emulation.engine.compiled_bare import bare
from emulation.engine.compiled_table import inner
from emulation.lowering.compiled_ops import kernel
from emulation.lowering.emit import CAUSES, KINDS

Ints = NDArray[Any]
Grid = NDArray[Any]
Small = NDArray[Any]
Tiny = NDArray[Any]

ROOT, WAIT, PLAN, FREED, ROOM, ORDER = a.ROOT, a.WAIT, a.PLAN, a.FREED, a.ROOM, a.ORDER
BEHIND, MEMORY, LANE, ARRIVAL, NO_WORK, UNEXPLAINED = (
    len(KINDS) + len(CAUSES) + i for i in range(6))  # kept code has these numbers in it: touch this file with CAUSES
PREFETCHING = len(KINDS) + CAUSES.index("prefetch")
COPY = KINDS.index("copy")
N_KINDS = len(KINDS)
NONE = -1
LOOK = 8
"""Places beyond a guess that are looked at one by one."""


class History(NamedTuple):
    """Of every operation of the run: when it ran, the operation that let it start and how, and what it is."""

    start_ps: Ints
    end_ps: Ints
    by: Small
    via: Tiny
    label: Tiny


class Chunk(NamedTuple):
    """Operations that ran between two instants of rest. Columns as in `Ops` and `Labels`.

    batch_end, at_ps, after [batches]: rows up to which a batch goes, when it was submitted, and behind which decision.
    op, from_ps, to_ps [stretches]: occupancy, of each lane by time; lane_ptr [lanes + 1]: where a lane's begin.
    free_op, free_ps [releases]: whose end gave memory back, and when, of each pool by time; free_ptr [pools + 1].
    """

    kind: Small
    cause: Small
    hold_ptr: Ints
    hold_lane: Ints
    wait_ptr: Ints
    wait_op: Ints
    wait_edge: Ints
    take_ptr: Ints
    take_pool: Ints
    batch_end: Ints
    at_ps: Ints
    after: Ints
    lane_ptr: Ints
    op: Ints
    from_ps: Ints
    to_ps: Ints
    free_ptr: Ints
    free_op: Ints
    free_ps: Ints


class Before(NamedTuple):
    """What is known of each lane when a chunk begins: whether it is in order, its servers, until when it was held; who
    left it at that instant; the last operation of an in-order lane; the place among its stretches that was last asked
    for."""

    in_order: Ints
    servers: Ints
    until_ps: Ints
    left_by: Ints
    last_op: Ints
    cursor: Ints


@inner
def first_at(instants: Any, low: int, high: int, at_ps: int) -> int:
    """The first place in [low, high) that is not before an instant."""
    while low < high:
        middle = (low + high) // 2
        if instants[middle] < at_ps:
            low = middle + 1
        else:
            high = middle
    return low


@inner
def near(instants: Any, low: int, high: int, at_ps: int, guess: int) -> int:
    """The same, from a guess: what is asked for in nearly ascending order is found there or a few places on."""
    if guess < low or (guess > low and instants[guess - 1] >= at_ps):
        return first_at(instants, low, high, at_ps)
    for i in range(guess, min(guess + LOOK, high)):
        if instants[i] >= at_ps:
            return i
    return first_at(instants, min(guess + LOOK, high), high, at_ps)


@inner
def who_left(h: Any, c: Any, b: Any, row: int, at_ps: int, begin_ps: int) -> int:
    """The operation that left a lane of this one as it started, of several the first to have begun."""
    for k in range(c.hold_ptr[row], c.hold_ptr[row + 1]):
        lane, found = c.hold_lane[k], NONE
        i = near(c.to_ps, c.lane_ptr[lane], c.lane_ptr[lane + 1], at_ps, b.cursor[lane])
        b.cursor[lane] = i
        while i < c.lane_ptr[lane + 1] and c.to_ps[i] == at_ps:
            op = c.op[i]
            if at_ps > h.start_ps[op] and (found == NONE or (h.start_ps[op], op) < (h.start_ps[found], found)):
                found = op
            i += 1
        if at_ps == begin_ps and b.left_by[lane] != NONE:
            found = b.left_by[lane]
        if found != NONE:
            return found
    return NONE


@inner
def who_gave(h: Any, c: Any, row: int, op: int) -> int:
    """The operation whose end gave memory back as this one started; only what came before it counts."""
    at_ps = h.start_ps[op]
    for k in range(c.take_ptr[row], c.take_ptr[row + 1]):
        pool = c.take_pool[k]
        i = first_at(c.free_ps, c.free_ptr[pool], c.free_ptr[pool + 1], at_ps)
        if i < c.free_ptr[pool + 1] and c.free_ps[i] == at_ps:
            by = c.free_op[i]
            if h.start_ps[by] < at_ps or by < op:
                return by
    return NONE


@inner
def who_went_on(h: Any, c: Any, b: Any, row: int, at_ps: int) -> int:
    """The operation of an in-order lane that went on after a stop, as this one started, the first to have begun."""
    for k in range(c.hold_ptr[row], c.hold_ptr[row + 1]):
        lane = c.hold_lane[k]
        if not b.in_order[lane]:
            continue
        found = NONE
        # Stretches lie in order of their ends; on one server that is the order in which they began.
        low = c.lane_ptr[lane]
        i = first_at(c.from_ps, low, c.lane_ptr[lane + 1], at_ps) if b.servers[lane] == 1 else low
        while i < c.lane_ptr[lane + 1] and (c.from_ps[i] == at_ps or b.servers[lane] > 1):
            op = c.op[i]
            begins = c.from_ps[i] == at_ps and at_ps > h.start_ps[op]
            if begins and (found == NONE or (h.start_ps[op], op) < (h.start_ps[found], found)):
                found = op
            i += 1
        if found != NONE:
            return found
    return NONE


@inner
def find_paths(h: Any, c: Any, b: Any, first: int, begin_ps: int) -> None:
    """What let each operation of the chunk start. Of several edges at that instant: a wait, the plan, a lane, memory,
    the order of a stream."""
    batch = 0
    for lane in range(len(b.cursor)):
        b.cursor[lane] = c.lane_ptr[lane]
    for row in range(len(c.kind)):
        h.label[first + row] = N_KINDS + c.cause[row] if c.kind[row] == COPY else c.kind[row]
    for row in range(len(c.kind)):
        op = first + row
        start_ps = h.start_ps[op]
        while row >= c.batch_end[batch]:
            batch += 1
        # In an in-order lane, who is before it there.
        order = order_lane = NONE
        for k in range(c.hold_ptr[row], c.hold_ptr[row + 1]):
            lane = c.hold_lane[k]
            if b.in_order[lane]:
                last = b.last_op[lane]
                if last != NONE and h.start_ps[last] == start_ps and (order == NONE or lane < order_lane):
                    order, order_lane = last, lane
                b.last_op[lane] = op
        by, via = NONE, ROOT
        for k in range(c.wait_ptr[row], c.wait_ptr[row + 1]):
            of = c.wait_op[k]
            if (h.end_ps[of] if c.wait_edge[k] else h.start_ps[of]) == start_ps:
                by, via = of, WAIT
                break
        if via == ROOT and c.at_ps[batch] == start_ps:
            by, via = c.after[batch], PLAN
        if via == ROOT:
            by, via = who_left(h, c, b, row, start_ps, begin_ps), FREED
            if by == NONE:
                by, via = who_gave(h, c, row, op), ROOM
            if by == NONE:
                by, via = order, ORDER
            if by == NONE:
                by = who_went_on(h, c, b, row, start_ps)
            if by == NONE:
                via = ROOT
        h.by[op], h.via[op] = by, via


@inner
def walk(h: Any, op: int, from_ps: int, out: Any, owner: int, at_start: bool) -> None:
    """Add to out[owner, label] the time from `from_ps` to the start of the operation (`attribution.Walker.divide`)."""
    first = at_start
    while h.start_ps[op] > from_ps:
        by, via = h.by[op], h.via[op]
        at_ps = h.start_ps[op]
        if via in (PLAN, ROOT):
            at_ps = 0 if by == NONE else h.end_ps[by]
        at_ps = max(at_ps, from_ps)
        out[owner, ARRIVAL if via == PLAN else UNEXPLAINED] += h.start_ps[op] - at_ps
        if by == NONE:
            return
        label = h.label[by]
        if first and via == FREED:
            label = LANE
        elif via == ROOM:
            label = MEMORY
        elif label == PREFETCHING and via == FREED:
            label = BEHIND
        out[owner, label] += max(at_ps - max(h.start_ps[by], from_ps), 0)
        op = by
        first = False


@inner
def use_lanes(h: Any, c: Any, b: Any, busy_ps: Any, stall_ps: Any) -> None:
    """What each lane of one server did in the chunk, and why it did nothing before each stretch."""
    for lane in range(len(b.in_order)):
        for i in range(c.lane_ptr[lane], c.lane_ptr[lane + 1]):
            op = c.op[i]
            busy_ps[lane, h.label[op]] += c.to_ps[i] - c.from_ps[i]
            if b.servers[lane] > 1:
                continue
            idle_ps = b.until_ps[lane]
            if c.from_ps[i] > idle_ps:
                if c.from_ps[i] > h.start_ps[op]:
                    stall_ps[lane, LANE] += c.from_ps[i] - idle_ps
                else:
                    walk(h, op, idle_ps, stall_ps, lane, True)
            b.until_ps[lane] = c.to_ps[i]


@inner
def look_back(h: Any, c: Any, b: Any, end_ps: int) -> None:
    """Note for the next chunk who leaves each lane at the end of this one, of several the first to have begun."""
    for lane in range(len(b.in_order)):
        found = NONE
        for i in range(c.lane_ptr[lane], c.lane_ptr[lane + 1]):
            op = c.op[i]
            if c.to_ps[i] == end_ps and end_ps > h.start_ps[op] and (
                    found == NONE or (h.start_ps[op], op) < (h.start_ps[found], found)):
                found = op
        b.left_by[lane] = found


def no_history() -> History:
    """Of no operation."""
    none = np.empty(0, np.int64)
    return History(none, none, none.astype(np.int32), none.astype(np.int8), none.astype(np.int8))


_ONE, _GRID = np.zeros(1, np.int64), np.zeros((1, 1), np.int64)
_SMALL, _TINY = np.zeros(1, np.int32), np.zeros(1, np.int8)
_HISTORY = History(_ONE, _ONE, _SMALL, _TINY, _TINY)
_CHUNK = Chunk._make([_SMALL if name in ("kind", "cause") else _ONE for name in Chunk._fields])
_BEFORE = Before._make([_ONE] * len(Before._fields))


_history, _chunk, _before = located(_HISTORY), located(_CHUNK), located(_BEFORE)


@kernel(_GRID, _GRID, _GRID, 1, 1, 1, _ONE, _ONE, _GRID, _GRID, _GRID)
def digest_chunk(history: Grid, chunk: Grid, before: Grid, first: int, begin_ps: int, end_ps: int, step_op: Ints,
                 step_begin_ps: Ints, latency_rows: Grid, busy_rows: Grid, stall_rows: Grid) -> int:
    """Paths of the chunk's operations, from serial `first` on; the latency of its steps, by their last operations; the
    use of its lanes. The first three come as `Addressed.at`."""
    h, c, b = _history(history), _chunk(chunk), _before(before)
    latency_ps, busy_ps, stall_ps = bare(latency_rows), bare(busy_rows), bare(stall_rows)
    find_paths(h, c, b, first, begin_ps)
    for i in range(len(step_op)):
        op = step_op[i]
        latency_ps[i, h.label[op]] += h.end_ps[op] - max(h.start_ps[op], step_begin_ps[i])
        walk(h, op, step_begin_ps[i], latency_ps, i, False)
    use_lanes(h, c, b, busy_ps, stall_ps)
    if end_ps > begin_ps:
        look_back(h, c, b, end_ps)
    return 0


@kernel(_GRID, _ONE, _ONE, _GRID, 1)
def walk_each(history: Grid, ops: Ints, from_ps: Ints, out_rows: Grid, owner: int) -> int:
    """Divide idle stretches of a lane of several servers."""
    h, op, since, out = _history(history), bare(ops), bare(from_ps), bare(out_rows)
    for i in range(len(op)):
        walk(h, op[i], since[i], out, owner, True)
    return 0
