"""Figures of a run while it runs: the operations of finished stretches are worked off and forgotten.

`Collector.add` takes what was submitted; `flush` asks the engine for what has ended. Whenever nothing is in flight, a
chunk is whole: what each of its operations waited for is noted in a few bytes, its lanes' work and idleness and its
steps' latencies are added up, and its columns go. The first operations, up to `keep`, are kept whole for a timeline.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cluster.observe import compiled_paths as c
from cluster.observe import compiled_sums as sums
from cluster.observe.attribution import LABELS, Use
from cluster.observe.digest import array_bytes, sha256
from cluster.observe.flight import pointers, slot_peaks
from cluster.observe.series.slicer import Slicer
from cluster.observe.series.slices import Rows, plain_rows
from cluster.observe.submitted import Kept, Sliced, Submitted
from emulation.engine.compiled_addresses import Addressed
from emulation.engine.contract import Engine, Occupancy, Retired
from emulation.engine.play import Program
from emulation.lowering.emit import Labels
from emulation.lowering.streams import Crossings
from emulation.ops import END, Ops

Ints = NDArray[np.int64]


class Collector:
    """Collects one run on one engine."""

    def __init__(self, engine: Engine, keep: int = 0, slots: int = 0, rows: Rows | None = None,
                 crossing: Crossings | Callable[[], Ints] | None = None) -> None:
        """slots: the engine's first pools that are the machine's own. rows: of the series (by default one a lane).
        crossing: how lanes tell the links that copies cross; or what tells [n, CROSSING] since it was last asked."""
        self._engine, self._keep = engine, keep
        self._slicer = Slicer(rows or plain_rows(len(engine.lanes)), len(engine.pools))
        self._crossing = crossing
        self.slot_peaks = np.zeros(slots, np.int64)
        lanes = engine.lanes
        self.kept = Kept()
        self._kept_history = Addressed(c.no_history())
        self._submitted: list[Submitted] = []
        self._retired: list[Retired] = []
        self._steps: list[tuple[int, int]] = []
        self._take_op, self._take_pool, self._take_amount = np.empty((3, 0), np.int64)
        self._done = self._begin_ps = 0
        none = np.full(len(lanes), c.NONE, np.int64)
        self._before = c.Before(np.array([lane.in_order for lane in lanes], np.int64),
                                np.array([lane.servers for lane in lanes], np.int64), np.zeros(len(lanes), np.int64),
                                none.copy(), none.copy(), none.copy())
        self._before_at = Addressed(self._before).at
        self._server_ps = [np.zeros(lane.servers, np.int64) for lane in lanes]
        self._given = np.empty((3, 0), np.int64)
        self._busy_ps, self._stall_ps = np.zeros((2, len(lanes), len(LABELS)), np.int64)
        self._latency: list[Ints] = []
        self._mix = np.zeros(2, np.int64)

    @property
    def _history(self) -> c.History:
        history: c.History = self._kept_history.table
        return history

    @property
    def horizon_ps(self) -> int:
        """When the last operation so far ended."""
        return self._begin_ps

    @property
    def keeps_all(self) -> bool:
        """Whether what it keeps is the whole run."""
        return self.kept.ops == self._done

    @property
    def end_ps(self) -> Ints:
        """When each operation ended, by serial."""
        return self._history.end_ps[:self._done]

    @property
    def latency_ps(self) -> Ints:
        """Of each step by LABELS, [steps, labels]."""
        return np.concatenate([np.empty((0, len(LABELS)), np.int64), *self._latency])

    @property
    def spans_digest(self) -> str:
        """SHA-256 of two sums over a mix of what each operation was and when it ran."""
        return sha256(array_bytes(self._mix))

    def use(self) -> Use:
        """What every lane did until the horizon, and why it did nothing when it did nothing."""
        stall_ps = self._stall_ps.copy()
        for lane, servers in enumerate(self._before.servers.tolist()):
            last_ps = self._server_ps[lane] if servers > 1 else self._before.until_ps[lane:lane + 1]
            stall_ps[lane, c.NO_WORK] += int((self.horizon_ps - last_ps).sum())
        return Use(self._busy_ps, stall_ps)

    def sliced(self) -> Sliced:
        """In slices of emulated time."""
        return self._slicer.told()

    def batch(self, ops: Ops, labels: Labels, at_ps: int, after: int) -> None:
        """One batch that is being submitted."""
        self.add(Submitted(ops, labels, *(np.array([each], np.int64) for each in (
            len(ops), len(ops.release_take), at_ps, after))))

    def batches(self, program: Program, labels: Labels, at_ps: Ints, after: Ints) -> None:
        """Several batches that were submitted."""
        self.add(Submitted(program.columns, labels, program.ops[1:], program.releases[1:], at_ps, after))

    def add(self, submitted: Submitted) -> None:
        """What is being submitted, in order."""
        self._submitted.append(submitted)

    def step(self, begin_ps: int, end_op: int) -> None:
        """A step ended with this operation."""
        self._steps.append((begin_ps, end_op))

    def flush(self) -> None:
        """Work off what has ended, if that is everything that was submitted."""
        self._retired.append(self._engine.retire())
        first, spans, _ = self._retired[-1]
        if first + len(spans.end_ps) < self._engine.next_serial:
            return
        submitted, retired = self._submitted, self._retired
        self._submitted, self._retired = [], []
        if self.kept.ops < self._keep:
            self.kept.submitted += submitted
            self.kept.retired += retired
            self.kept.ops += sum(len(each.ops) for each in submitted)
        if submitted:
            self._work_off(submitted, retired)

    # a chunk

    def _work_off(self, submitted: Sequence[Submitted], retired: Sequence[Retired]) -> None:
        first, ops = self._done, [s.ops for s in submitted]
        n = sum(len(each) for each in ops)
        self._room(first + n)
        h = self._history
        h.start_ps[first:first + n] = _joined([r.spans.start_ps for r in retired])
        h.end_ps[first:first + n] = _joined([r.spans.end_ps for r in retired])
        end_ps = int(h.end_ps[first:first + n].max(initial=self._begin_ps))
        labels = Labels(*(_joined([s.labels[i] for s in submitted]) for i in range(len(Labels._fields))))
        small = [np.ascontiguousarray(column, np.int32) for column in labels[:-1]]
        kind, cause, device, step, layer, expert = small
        moved = np.ascontiguousarray(labels.bytes, np.int64)
        sums.add_mix(self._mix, first, kind, cause, device, step, layer, expert, moved, h.start_ps[first:first + n],
                     h.end_ps[first:first + n])
        self._slicer.reach(end_ps)
        self._note_takes(ops)
        chunk = c.Chunk._make([
            kind, cause, *self._columns(ops),
            np.concatenate([s.batch_end + (s.ops.first - first) for s in submitted]),
            np.concatenate([s.at_ps for s in submitted]), np.concatenate([s.after for s in submitted]),
            *self._stretches([r.occupancy for r in retired]), *self._freed(submitted, end_ps)])
        step_op = np.array([op for _, op in self._steps], np.int64)
        begins = np.array([begin_ps for begin_ps, _ in self._steps], np.int64)
        latency = np.zeros((len(step_op), len(LABELS)), np.int64)
        c.digest_chunk(self._kept_history.at, Addressed(chunk).at, self._before_at, first, self._begin_ps, end_ps,
                       step_op, begins, latency, self._busy_ps, self._stall_ps)
        self._latency.append(latency)
        slicer = self._slicer
        slicer.busy(chunk.lane_ptr, chunk.from_ps, chunk.to_ps)
        if isinstance(self._crossing, Crossings):
            slicer.copies(self._crossing, small[:3], moved, h.end_ps[first:first + n], chunk.hold_ptr, chunk.hold_lane)
        elif self._crossing is not None:
            slicer.cross(self._crossing(), h.end_ps)
        for lane, servers in enumerate(self._before.servers.tolist()):
            if servers > 1:
                self._several(lane, chunk)
        self._steps, self._begin_ps, self._done = [], end_ps, first + n

    def _columns(self, ops: Sequence[Ops]) -> list[Ints]:
        if len(ops) == 1:
            o = ops[0]
            return [o.hold_ptr, o.hold_lane, o.wait_ptr, o.wait_op, o.wait_edge, o.take_ptr, o.take_pool]
        return [pointers(ops, "hold_ptr"), _joined([o.hold_lane for o in ops]), pointers(ops, "wait_ptr"),
                _joined([o.wait_op for o in ops]), _joined([o.wait_edge for o in ops]), pointers(ops, "take_ptr"),
                _joined([o.take_pool for o in ops])]

    def _stretches(self, occupancy: Sequence[Occupancy]) -> tuple[Ints, Ints, Ints, Ints]:
        lane, op, from_ps, to_ps = (np.ascontiguousarray(_joined([o[i] for o in occupancy])) for i in range(4))
        ptr = np.zeros(len(self._engine.lanes) + 1, np.int64)
        to_op, to_from, to_to = (np.empty(len(op), np.int64) for _ in range(3))
        sums.group_by_lane(lane, op, from_ps, to_ps, ptr, to_op, to_from, to_to, np.zeros(len(ptr), np.int64))
        return ptr, to_op, to_from, to_to

    def _note_takes(self, ops: Sequence[Ops]) -> None:
        """Which operation took what: releases of later chunks name takes by their handles."""
        for o in ops:
            end = o.first_take + o.takes
            if end > len(self._take_op):
                more = np.zeros(max(end, 2 * len(self._take_op)) - len(self._take_op), np.int64)
                self._take_op, self._take_pool, self._take_amount = (np.concatenate([column, more]) for column in (
                    self._take_op, self._take_pool, self._take_amount))
            self._take_op[o.first_take:end] = o.first + np.repeat(np.arange(len(o)), np.diff(o.take_ptr))
            self._take_pool[o.first_take:end] = o.take_pool
            self._take_amount[o.first_take:end] = o.take_amount
            self._slicer.take(o.take_pool, self._history.start_ps[self._take_op[o.first_take:end]], o.take_amount)

    def _freed(self, submitted: Sequence[Submitted], end_ps: int) -> tuple[Ints, Ints, Ints]:
        """Releases of this chunk, and of the instant before it, by pool and instant: pointers, operations, instants."""
        rows = [self._given, *(self._releases(s) for s in submitted if len(s.ops.release_take))]
        if len(self.slot_peaks):
            self._note_slots([s.ops for s in submitted], rows[1:])
        given = np.concatenate(rows, axis=1) if len(rows) > 1 else self._given
        self._given = given[:, given[2] == end_ps]
        pool, op, ps = given
        order = np.lexsort((op, self._history.start_ps[op], ps, pool))
        ptr = np.searchsorted(pool[order], np.arange(len(self._engine.pools) + 1))
        return ptr.astype(np.int64), op[order], ps[order]

    def _note_slots(self, ops: Sequence[Ops], freed: Sequence[Ints]) -> None:
        """How full pools of slots were: nothing is in flight between chunks, and no slot is taken."""
        taken = np.concatenate([np.arange(o.first_take, o.first_take + o.takes) for o in ops])
        pool, _, ps = np.concatenate([np.empty((3, 0), np.int64), *freed], axis=1)
        peaks = slot_peaks(len(self.slot_peaks), self._take_pool[taken], self._history.start_ps[self._take_op[taken]],
                           pool, ps)
        self.slot_peaks = np.maximum(self.slot_peaks, peaks)

    def _releases(self, s: Submitted) -> Ints:
        """Pool, last edge's operation and instant of each release: not before its plan came, nor before its take."""
        o, h = s.ops, self._history
        row = np.repeat(np.arange(len(o.release_take)), np.diff(o.release_ptr))
        happened = np.where(o.release_edge == END, h.end_ps[o.release_op], h.start_ps[o.release_op])
        latest = np.full(len(o.release_take), -1, np.int64)
        np.maximum.at(latest, row, happened)
        last = np.full(len(o.release_take), -1, np.int64)
        at = np.flatnonzero(happened == latest[row])[::-1]
        last[row[at]] = o.release_op[at]
        latest = np.maximum(latest, 0)
        batch = np.searchsorted(s.release_end, np.arange(len(o.release_take)), side="right")
        taker = self._take_op[o.release_take]
        for op, ps in ((s.after[batch], s.at_ps[batch]), (taker, h.start_ps[taker])):
            later = ps > latest
            last, latest = np.where(later, op, last), np.where(later, ps, latest)
        there, pool = last >= 0, self._take_pool[o.release_take]
        self._slicer.take(pool, latest, -self._take_amount[o.release_take])
        return np.stack([pool, last, latest])[:, there]

    def _several(self, lane: int, chunk: c.Chunk) -> None:
        """Idle stretches of a lane of several servers: a stretch goes to the lowest server that is free."""
        low, high = chunk.lane_ptr[lane:lane + 2]
        op, from_ps, to_ps = (column[low:high] for column in (chunk.op, chunk.from_ps, chunk.to_ps))
        free_ps, idle = self._server_ps[lane], []
        for i in np.lexsort((op, to_ps, from_ps)).tolist():
            server = int(np.flatnonzero(free_ps <= from_ps[i])[0])
            if from_ps[i] > free_ps[server]:
                if from_ps[i] > self._history.start_ps[op[i]]:
                    self._stall_ps[lane, c.LANE] += from_ps[i] - free_ps[server]
                else:
                    idle.append((op[i], free_ps[server]))
            free_ps[server] = to_ps[i]
        if idle:
            ops, since = np.array(idle, np.int64).T
            c.walk_each(self._kept_history.at, np.ascontiguousarray(ops), np.ascontiguousarray(since), self._stall_ps,
                        lane)

    def _room(self, ops: int) -> None:
        """Room for so many operations: far ahead, since what is not written yet takes no memory."""
        if ops > len(self._history.start_ps):
            size = max(ops, 8 * len(self._history.start_ps), 1 << 22)
            grown = c.History._make([np.empty(size, column.dtype) for column in self._history])
            for mine, column in zip(grown, self._history, strict=True):
                mine[:self._done] = column[:self._done]
            self._kept_history = Addressed(grown)


def _joined(columns: Sequence[Ints]) -> Ints:
    return columns[0] if len(columns) == 1 else np.concatenate(columns)
