"""What both engines promise, and the checks that they share. No scheduling here."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from graphlib import CycleError as GraphCycle
from graphlib import TopologicalSorter
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from emulation.errors import CycleError, PlanError
from emulation.ops import END, HIGHEST, START, Lane, Ops, Pool

Ints = NDArray[np.int64]
Describe = Callable[[int], str]

UNSET = -1
"""The start or end of an operation that has not happened."""


class Spans(NamedTuple):
    """start_ps, end_ps: a row an operation; UNSET where it has not happened."""

    start_ps: Ints
    end_ps: Ints


class Occupancy(NamedTuple):
    """One row for each stretch in which an operation held a lane: lane, op, from, to (picoseconds)."""

    lane: Ints
    op: Ints
    from_ps: Ints
    to_ps: Ints


class Retired(NamedTuple):
    """What `retire` hands over: spans of the operations from serial `first` on, and stretches of occupancy."""

    first: int
    spans: Spans
    occupancy: Occupancy


class Engine(Protocol):
    """Runs operations in emulated time. Incremental: submit, run to a decision op, submit more."""

    @property
    def lanes(self) -> Sequence[Lane]: ...

    @property
    def pools(self) -> Sequence[Pool]: ...

    @property
    def now_ps(self) -> int: ...

    @property
    def first_serial(self) -> int:
        """Serial of the oldest operation that was not retired: row 0 of `spans`."""

    @property
    def next_serial(self) -> int: ...

    @property
    def next_take(self) -> int: ...

    def submit(self, ops: Ops) -> None:
        """Accept operations; they may start at `now_ps` or later. Refuses cycles and unknown references."""

    def run(self, until: Collection[int] = ()) -> tuple[int, ...]:
        """Advance until an operation named in `until` has ended; return those that have, in order of serial.

        Stops after the ends and releases of that instant and before its starts, so that work submitted then
        competes as if it had always been there. With no `until`: run until nothing is left, and return ().
        Raises DeadlockError with the wait-for chain when nothing is in flight and work remains.
        """

    def advance(self, to_ps: int) -> None:
        """Advance through all that happens before `to_ps` and stop there (an arrival, a fault), before its starts.

        To advance to `now_ps` changes nothing; to advance to earlier is a ValueError.
        """

    def free(self, pool: int) -> int:
        """What is free in a pool now."""

    def resize(self, capacities: Mapping[int, int]) -> None:
        """Give pools other capacities, while no operation waits for them. What is taken stays taken: where that is more
        than there is now, nothing more is taken until enough was given back."""

    def spans(self) -> Spans:
        """Of all operations from `first_serial` on."""

    def occupancy(self) -> Occupancy:
        """Every stretch that has ended and was not retired; holds of one operation come in order of lane."""

    def retire(self) -> Retired:
        """Hand over and forget the oldest operations, up to the first that has not ended, and all ended stretches.

        A long run stays small if it retires now and then. Later plans may name what was retired: its edges have
        happened, and its takes are held until they are released.
        """

    def backlog_ps(self, lane: int) -> int:
        """Work of submitted, unfinished operations on a lane, per server (picoseconds, rounded up)."""


def resized(pools: Sequence[Pool], capacities: Mapping[int, int]) -> tuple[Pool, ...]:
    """The pools with other capacities."""
    return tuple(replace(pool, capacity=capacities.get(i, pool.capacity)) for i, pool in enumerate(pools))


def check(ops: Ops, lanes: Sequence[Lane], pools: Sequence[Pool], next_serial: int, next_take: int,
          is_released: Callable[[int], bool], describe: Describe) -> None:
    """Refuse operations that no engine could run: bad references, impossible takes, cycles."""
    if ops.first != next_serial or ops.first_take != next_take:
        raise PlanError(f"operations were built to start at serial {ops.first} and take {ops.first_take}, "
                        f"but the engine is at {next_serial} and {next_take}: build them after the last submit")
    end = ops.first + len(ops)
    for column in (ops.wait_edge, ops.release_edge):
        bad = column[(column != START) & (column != END)]
        if len(bad):
            raise PlanError(f"a plan names edge {int(bad[0])} of an operation: an edge is {START} or {END}")
    for name, column, limit in (("lane", ops.hold_lane, len(lanes)), ("pool", ops.take_pool, len(pools)),
                                ("operation", ops.wait_op, end), ("operation", ops.release_op, end),
                                ("take", ops.release_take, next_take + ops.takes)):
        bad = column[(column < 0) | (column >= limit)]
        if len(bad):
            raise PlanError(f"a plan names {name} {int(bad[0])}, but there are {limit} so far")
    _check_priorities(ops, describe)
    _check_holds(ops, lanes, describe)
    _check_takes(ops, pools, is_released, describe)
    _check_cycles(ops, lanes, describe)


def check_until(until: Collection[int], submitted: int) -> tuple[int, ...]:
    """The serials to stop at, sorted; refuses one that nobody submitted."""
    watched = tuple(sorted(set(until)))
    for serial in watched:
        if not 0 <= serial < submitted:
            raise PlanError(f"cannot run until operation {serial}: only {submitted} were submitted")
    return watched


def _check_priorities(ops: Ops, describe: Describe) -> None:
    far = np.flatnonzero((ops.priority < -HIGHEST) | (ops.priority > HIGHEST))
    if len(far):
        raise PlanError(f"{describe(ops.first + int(far[0]))} has priority {ops.priority[far[0]]}: {HIGHEST} is the "
                        "most there is, either way")


def _check_holds(ops: Ops, lanes: Sequence[Lane], describe: Describe) -> None:
    if (ops.hold_ps < 0).any() or (ops.length_ps < 0).any() or (ops.quantum_ps < 0).any():
        raise PlanError("a plan holds a negative duration: durations are whole picoseconds, zero or more")
    row = np.repeat(np.arange(len(ops)), np.diff(ops.hold_ptr))
    short = np.flatnonzero(ops.hold_ps > ops.length_ps[row])
    if len(short):
        i = row[short[0]]
        raise PlanError(f"{describe(ops.first + int(i))} is {ops.length_ps[i]} ps long, but holds a lane for "
                        f"{ops.hold_ps[short[0]]} ps: an operation is as long as its longest hold, or longer")
    key = row * len(lanes) + ops.hold_lane
    if len(np.unique(key)) < len(key):
        held, times = np.unique(key, return_counts=True)
        op, lane = divmod(int(held[times > 1][0]), len(lanes))
        raise PlanError(f"{describe(ops.first + op)} names lane {lanes[lane].name!r} twice: "
                        "an operation holds one server of a lane")


def _check_takes(ops: Ops, pools: Sequence[Pool], is_released: Callable[[int], bool], describe: Describe) -> None:
    for row in range(ops.takes):
        pool, needs, amount = pools[ops.take_pool[row]], int(ops.take_needs[row]), int(ops.take_amount[row])
        op = ops.first + int(np.searchsorted(ops.take_ptr, row, side="right")) - 1
        before = sum(int(ops.take_amount[k]) for k in range(int(ops.take_ptr[op - ops.first]), row)
                     if ops.take_pool[k] == ops.take_pool[row])
        if not 0 <= amount <= needs <= pool.capacity - before:
            raise PlanError(f"{describe(op)} needs {needs} and takes {amount} of pool {pool.name!r}, "
                            f"which holds {pool.capacity} and of which it took {before} already: "
                        "it takes at most what it needs, and needs at most what is left")
    seen: set[int] = set()
    for handle in ops.release_take.tolist():
        if handle in seen or is_released(handle):
            raise PlanError(f"take {handle} is released twice: a take has one release")
        seen.add(handle)


def _check_cycles(ops: Ops, lanes: Sequence[Lane], describe: Describe) -> None:
    """Nodes are starts and ends; an in-order lane adds an edge from one start to the next."""
    backward = ops.wait_op < ops.first + np.repeat(np.arange(len(ops)), np.diff(ops.wait_ptr))
    if backward.all():
        return
    graph: dict[tuple[int, int], list[tuple[int, int]]] = {}
    head: dict[int, int] = {}
    for i in range(len(ops)):
        op = ops.first + i
        starts_after = [(edge.op, edge.edge) for edge in ops.waits_of(i) if edge.op >= ops.first]
        for lane, _ in ops.holds_of(i):
            if lanes[lane].in_order:
                if lane in head:
                    starts_after.append((head[lane], START))
                head[lane] = op
        graph[op, START] = starts_after
        graph[op, END] = [(op, START)]
    try:
        TopologicalSorter(graph).prepare()
    except GraphCycle as found:
        ring = list(found.args[1])
        names = " waits for ".join(f"the {'end' if edge else 'start'} of {describe(op)}" for op, edge in reversed(ring))
        raise CycleError(f"operations wait for each other: {names}") from None
