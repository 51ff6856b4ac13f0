"""All operations of a run in columns: what they waited for, what they held and when. Read from a scheduler."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from actors.scheduler import Batch, Scheduler, StepTimes
from cluster.observe.submitted import Kept, Submitted
from emulation.engine.contract import Engine, Occupancy, Spans
from emulation.lowering.emit import Labels
from emulation.machine import Machine
from emulation.ops import END, Lane, Ops, Pool

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Flight:
    """Columns over all operations, by serial; `*_ptr` delimit ragged ones.

    last_wait, last_wait_ps [ops]: the wait that happened last (-1: it waits for nothing). submitted_ps, behind: when
    an operation was submitted, and the decision op that this followed (-1: none).
    owners: the device that each lane belongs to, "links" where only links name it. slots: pools before those of memory.
    rows: occupancy, sorted by lane, then time. release_*: one row a release; its last edge and when that happened.
    is_whole: whether these are all operations of the run, and not its first ones only. marks: (instant, what happened
    then), by instant: faults. steps: of the whole run, where they were told.
    """

    lanes: Sequence[Lane]
    owners: Sequence[str]
    slots: int
    pools: Sequence[Pool]
    labels: Labels
    start_ps: Ints
    end_ps: Ints
    rows: Occupancy
    submitted_ps: Ints
    behind: Ints
    hold_ptr: Ints
    hold_lane: Ints
    wait_ptr: Ints
    wait_op: Ints
    wait_edge: Ints
    last_wait: Ints
    last_wait_ps: Ints
    take_op: Ints
    take_pool: Ints
    take_amount: Ints
    release_take: Ints
    release_op: Ints
    release_ps: Ints
    is_whole: bool = True
    marks: tuple[tuple[int, str], ...] = ()
    steps: tuple[StepTimes, ...] = ()

    @property
    def horizon_ps(self) -> int:
        """When the last operation ended."""
        return int(self.end_ps.max(initial=0))

    @cached_property
    def servers(self) -> Ints:
        """The server of its lane that each row of `rows` is shown on: the lowest that is free."""
        out = np.zeros(len(self.rows.lane), np.int64)
        for number, lane in enumerate(self.lanes):
            if lane.servers == 1:
                continue
            free_ps = [0] * lane.servers
            lo, hi = np.searchsorted(self.rows.lane, [number, number + 1])
            spans = zip(self.rows.from_ps[lo:hi].tolist(), self.rows.to_ps[lo:hi].tolist(), strict=True)
            for i, (from_ps, to_ps) in enumerate(spans):
                server = next(s for s, free in enumerate(free_ps) if free <= from_ps)
                free_ps[server] = to_ps
                out[lo + i] = server
        return out


def read_flight(scheduler: Scheduler) -> Flight:
    """The operations of a finished run; a run that is not finished is a ValueError."""
    machine = scheduler.setting.machine
    return flight_of(scheduler.engine, scheduler.batches, scheduler.labels, lane_owners(machine), len(machine.pools))


def flight_of(engine: Engine, batches: Sequence[Batch], labels: Sequence[Labels], owners: Sequence[str],
              slots: int) -> Flight:
    """What was submitted to an engine, in columns, with when it ran."""
    spans = engine.spans()
    if (spans.end_ps < 0).any():
        raise ValueError("operations are still in flight: finish the scheduler before its run is read")
    one = np.ones(1, np.int64)
    submitted = [Submitted(b.ops, label, len(b.ops) * one, len(b.ops.release_take) * one, b.at_ps * one, b.after * one)
                 for b, label in zip(batches, labels, strict=True)]
    return _columns_of(engine.lanes, engine.pools, submitted, spans, engine.occupancy(), owners, slots)


def kept_flight(kept: Kept, machine: Machine, pools: Sequence[Pool], is_whole: bool) -> Flight:
    """The first operations of a run, as far as a collector kept them."""
    spans = Spans._make([np.concatenate(column) for column in zip(*(r.spans for r in kept.retired), strict=True)])
    stretches = zip(*(r.occupancy for r in kept.retired), strict=True)
    rows = Occupancy._make([np.concatenate(column) for column in stretches])
    flight = _columns_of(machine.lanes, pools, kept.submitted, spans, rows, lane_owners(machine), len(machine.pools))
    return flight if is_whole else replace(flight, is_whole=False)


def _columns_of(lanes: Sequence[Lane], pools: Sequence[Pool], submitted: Sequence[Submitted], spans: Spans,
                taken: Occupancy, owners: Sequence[str], slots: int) -> Flight:
    ops, labels = [each.ops for each in submitted], [each.labels for each in submitted]
    order = np.lexsort((taken.op, taken.to_ps, taken.from_ps, taken.lane))
    at_ps, after = (np.concatenate([np.empty(0, np.int64), *(np.repeat(getattr(each, name), np.diff(
        each.batch_end, prepend=0)) for each in submitted)]) for name in ("at_ps", "after"))
    take_ptr, release_take = pointers(ops, "take_ptr"), _column(ops, "release_take")
    wait_ptr, wait_op, wait_edge = pointers(ops, "wait_ptr"), _column(ops, "wait_op"), _column(ops, "wait_edge")
    last_wait, last_wait_ps = _last_edges(wait_ptr, wait_op, wait_edge, spans)
    took = np.repeat(np.arange(len(take_ptr) - 1), np.diff(take_ptr))
    release_op, release_ps = _last_edges(pointers(ops, "release_ptr"), _column(ops, "release_op"),
                                         _column(ops, "release_edge"), spans)
    # A release is due no earlier than its plan came, nor than what it gives back was taken.
    came_ps, came_after = (np.concatenate([np.empty(0, np.int64), *(np.repeat(getattr(each, name), np.diff(
        each.release_end, prepend=0)) for each in submitted)]) for name in ("at_ps", "after"))
    for op, ps in ((came_after, came_ps),
                   (took[release_take], spans.start_ps[took[release_take]])):
        later = ps > release_ps
        release_op, release_ps = np.where(later, op, release_op), np.where(later, ps, release_ps)
    return Flight(
        lanes=lanes, owners=owners, slots=slots, pools=pools,
        labels=Labels._make([np.concatenate([np.empty(0, np.int64), *(label[i] for label in labels)])
                             for i in range(len(Labels._fields))]),
        start_ps=spans.start_ps, end_ps=spans.end_ps, rows=Occupancy(*(column[order] for column in taken)),
        submitted_ps=at_ps, behind=after,
        hold_ptr=pointers(ops, "hold_ptr"), hold_lane=_column(ops, "hold_lane"),
        wait_ptr=wait_ptr, wait_op=wait_op, wait_edge=wait_edge, last_wait=last_wait, last_wait_ps=last_wait_ps,
        take_op=took, take_pool=_column(ops, "take_pool"), take_amount=_column(ops, "take_amount"),
        release_take=release_take, release_op=release_op, release_ps=release_ps)


def slot_peaks(pools: int, take_pool: Ints, take_ps: Ints, free_pool: Ints, free_ps: Ints) -> Ints:
    """The most slots of each of the first pools that were taken at once for any time, [pools]; each take is of one."""
    pool = np.concatenate([free_pool, take_pool])
    ps, change = np.concatenate([free_ps, take_ps]), np.repeat([-1, 1], [len(free_pool), len(take_pool)])
    peaks = np.zeros(pools, np.int64)
    few = pool < pools
    if few.any():
        pool, ps, change = pool[few], ps[few], change[few]
        order = np.lexsort((change, ps, pool))  # at one instant what is free goes before what is taken
        held = np.cumsum(change[order])
        first = np.searchsorted(pool[order], np.arange(pools))
        before = np.where(first > 0, held[np.maximum(first - 1, 0)], 0)
        np.maximum.at(peaks, pool[order], held - before[pool[order]])
    return peaks


def lane_owners(machine: Machine) -> list[str]:
    """The device that each lane belongs to, the first that names it; "links" where only links do."""
    owner = ["links"] * len(machine.lanes)
    for device in reversed(machine.devices):
        issuer = (device.issuer.lane,) if device.issuer else ()
        for lane in (*device.lanes, *device.copy_lanes, *issuer):
            owner[lane] = device.name
    return owner


def _column(ops: Sequence[Ops], name: str) -> Ints:
    return np.concatenate([np.empty(0, np.int64), *(getattr(each, name) for each in ops)])


def pointers(ops: Sequence[Ops], name: str) -> Ints:
    """One CSR column of pointers over the rows of all."""
    lengths = [np.diff(getattr(each, name)) for each in ops]
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate([np.empty(0, np.int64), *lengths]))])


def _last_edges(ptr: Ints, op: Ints, edge: Ints, spans: Spans) -> tuple[Ints, Ints]:
    """(operation, instant) of the edge of each row that happened last; of several the first listed, (-1, 0) of none."""
    row = np.repeat(np.arange(len(ptr) - 1), np.diff(ptr))
    happened = np.where(edge == END, spans.end_ps[op], spans.start_ps[op])
    latest = np.full(len(ptr) - 1, -1, np.int64)
    np.maximum.at(latest, row, happened)
    at = np.flatnonzero(happened == latest[row])[::-1]
    last = np.full(len(ptr) - 1, -1, np.int64)
    last[row[at]] = op[at]
    return last, np.maximum(latest, 0)
