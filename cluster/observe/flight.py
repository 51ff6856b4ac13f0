"""All operations of a run in columns: what they waited for, what they held and when. Read from a scheduler."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from actors.scheduler import Batch, Scheduler
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
    spans, taken = engine.spans(), engine.occupancy()
    if (spans.end_ps < 0).any():
        raise ValueError("operations are still in flight: finish the scheduler before its run is read")
    ops = [batch.ops for batch in batches]
    order = np.lexsort((taken.op, taken.to_ps, taken.from_ps, taken.lane))
    sizes = [len(each) for each in ops]
    take_ptr, release_take = _pointers(ops, "take_ptr"), _column(ops, "release_take")
    wait_ptr, wait_op, wait_edge = _pointers(ops, "wait_ptr"), _column(ops, "wait_op"), _column(ops, "wait_edge")
    last_wait, last_wait_ps = _last_edges(wait_ptr, wait_op, wait_edge, spans)
    took = np.repeat(np.arange(len(take_ptr) - 1), np.diff(take_ptr))
    release_op, release_ps = _last_edges(_pointers(ops, "release_ptr"), _column(ops, "release_op"),
                                         _column(ops, "release_edge"), spans)
    # A release is due no earlier than its plan came, nor than what it gives back was taken.
    counts = [len(each.release_take) for each in ops]
    for op, ps in ((np.repeat(_of(batches, "after"), counts), np.repeat(_of(batches, "at_ps"), counts)),
                   (took[release_take], spans.start_ps[took[release_take]])):
        later = ps > release_ps
        release_op, release_ps = np.where(later, op, release_op), np.where(later, ps, release_ps)
    return Flight(
        lanes=engine.lanes, owners=owners, slots=slots, pools=engine.pools,
        labels=Labels(*(np.concatenate([np.empty(0, np.int64), *column]) for column in zip(*labels, strict=True))),
        start_ps=spans.start_ps, end_ps=spans.end_ps, rows=Occupancy(*(column[order] for column in taken)),
        submitted_ps=np.repeat(_of(batches, "at_ps"), sizes), behind=np.repeat(_of(batches, "after"), sizes),
        hold_ptr=_pointers(ops, "hold_ptr"), hold_lane=_column(ops, "hold_lane"),
        wait_ptr=wait_ptr, wait_op=wait_op, wait_edge=wait_edge, last_wait=last_wait, last_wait_ps=last_wait_ps,
        take_op=took, take_pool=_column(ops, "take_pool"), take_amount=_column(ops, "take_amount"),
        release_take=release_take, release_op=release_op, release_ps=release_ps)


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


def _pointers(ops: Sequence[Ops], name: str) -> Ints:
    lengths = [np.diff(getattr(each, name)) for each in ops]
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate([np.empty(0, np.int64), *lengths]))])


def _of(batches: Sequence[Batch], name: str) -> Ints:
    return np.array([getattr(batch, name) for batch in batches], np.int64)


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
