"""Where the time went: of every lane, and of every step along its critical path. Whole picoseconds that add up.

Each operation has one edge that let it start: the wait that happened last, the plan that brought it, the work that
left its lane, the release that made room. Following those edges back from an operation gives a path without holes,
so an idle stretch before it, or a step that it ends, divides exactly into what ran on the path meanwhile.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.scheduler import StepTimes
from cluster.observe.digest import mix_digest
from cluster.observe.flight import Flight, slot_peaks
from cluster.observe.series.slices import Rows, plain_rows, sliced
from cluster.observe.submitted import Sliced
from emulation.lowering.crossing import CROSSING
from emulation.lowering.emit import CAUSES, KINDS

Ints = NDArray[np.int64]

COPY = {"none": "copy", "demand": "demand load", "prefetch": "prefetch", "dispatch": "dispatch", "return": "return",
        "stream": "stream", "recovery": "recovery"}
"""Cause of a copy -> what it is called here."""

_COPY_KIND = KINDS.index("copy")
LABELS = (*KINDS, *(COPY[cause] for cause in CAUSES), "behind prefetch", "memory", "lane", "arrival", "no work",
          "unexplained")
"""What time goes to: a kind of work, a copy by its cause, and

behind prefetch: a prefetch kept the lane that a load needed. memory: a release of memory was waited for. lane: another
lane that the operation needs was taken. arrival: no request was there. no work: nothing more came for the lane.
"""

_BEHIND, _MEMORY, _LANE, _ARRIVAL, _NO_WORK, _UNEXPLAINED = range(len(KINDS) + len(CAUSES), len(LABELS))

ROOT, WAIT, PLAN, FREED, ROOM, ORDER = range(6)
"""How an operation came to start: unknown; an edge it waited for; its plan came; a lane was left; memory was given
back; the one before it in an in-order lane started, or went on."""


class Paths(NamedTuple):
    """For each operation the operation that let it start (-1: none), when, and how."""

    op: Ints
    at_ps: Ints
    via: Ints


def work_label(flight: Flight) -> Ints:
    """What each operation is, as an index into LABELS."""
    kind, cause = flight.labels.kind, flight.labels.cause
    label: Ints = np.where(kind == _COPY_KIND, len(KINDS) + cause, kind)
    return label


def paths(flight: Flight) -> Paths:
    """What let each operation start. Of several edges at that instant: a wait, then the plan, a lane, memory, order."""
    n, start = len(flight.start_ps), flight.start_ps
    found = Paths(np.full(n, -1, np.int64), np.zeros(n, np.int64), np.full(n, ROOT, np.int64))

    def note(ops: Ints, by: Ints, at_ps: Ints, via: int) -> None:
        fresh = found.via[ops] == ROOT
        first = np.flatnonzero(fresh)[::-1]
        for column, values in zip(found, (by, at_ps, np.full(len(ops), via)), strict=True):
            column[ops[first]] = values[first]

    waited = np.flatnonzero((flight.last_wait >= 0) & (flight.last_wait_ps == start))
    note(waited, flight.last_wait[waited], start[waited], WAIT)
    planned = np.flatnonzero(flight.submitted_ps == start)
    behind = flight.behind[planned]
    note(planned, behind, np.where(behind < 0, 0, flight.end_ps[behind]), PLAN)
    hold_op = np.repeat(np.arange(n), np.diff(flight.hold_ptr))
    rows = flight.rows
    held = rows.to_ps > start[rows.op]
    holding = (hold_op, flight.hold_lane, start[hold_op])
    op, by = _matches(holding, (rows.op[held], rows.lane[held], rows.to_ps[held]), start)
    note(op, by, start[op], FREED)
    given = flight.release_op >= 0
    op, by = _matches((flight.take_op, flight.take_pool, start[flight.take_op]),
                      (flight.release_op[given], flight.take_pool[flight.release_take][given],
                       flight.release_ps[given]), start)
    causal = (start[by] < start[op]) | (by < op)
    note(op[causal], by[causal], start[op[causal]], ROOM)
    in_order_lane = np.array([lane.in_order for lane in flight.lanes], np.bool_)
    in_order = in_order_lane[flight.hold_lane]
    order = np.lexsort((hold_op[in_order], flight.hold_lane[in_order]))
    op, lane = hold_op[in_order][order], flight.hold_lane[in_order][order]
    follows = np.flatnonzero((lane[1:] == lane[:-1]) & (start[op[1:]] == start[op[:-1]])) + 1
    note(op[follows], op[follows - 1], start[op[follows]], ORDER)
    again = in_order_lane[rows.lane] & (rows.from_ps > start[rows.op])
    op, by = _matches(holding, (rows.op[again], rows.lane[again], rows.from_ps[again]), start)
    note(op, by, start[op], ORDER)
    return found


def _matches(wanted: tuple[Ints, Ints, Ints], offered: tuple[Ints, Ints, Ints], start: Ints) -> tuple[Ints, Ints]:
    """(op, by) of each wanted (op, place, instant) for which one is offered there and then, the first to have begun."""
    instants = np.unique(offered[2])
    if not len(instants):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    key = offered[1] * len(instants) + np.searchsorted(instants, offered[2])
    order = np.lexsort((offered[0], start[offered[0]], key))
    rank = np.minimum(np.searchsorted(instants, wanted[2]), len(instants) - 1)
    sought = wanted[1] * len(instants) + rank
    at = np.minimum(np.searchsorted(key[order], sought), len(key) - 1)
    hit = (instants[rank] == wanted[2]) & (key[order][at] == sought)
    return wanted[0][hit], offered[0][order][at[hit]]


class Walker:
    """Divides stretches of time by what ran on the path to an operation."""

    def __init__(self, flight: Flight) -> None:
        self.flight, self.paths = flight, paths(flight)
        self._label = work_label(flight)
        self._trunk()

    def _via_label(self, op: Ints, via: Ints) -> Ints:
        """What is said of the time that the path spends in `op`, left by an edge of kind `via`."""
        label = self._label[op]
        prefetch = (label == len(KINDS) + CAUSES.index("prefetch")) & (via == FREED)
        out: Ints = np.where(via == ROOM, _MEMORY, np.where(prefetch, _BEHIND, label))
        return out

    @staticmethod
    def _hole_label(via: Ints) -> Ints:
        """What is said of the time between the edge and the start: only a plan may come later than its edge."""
        out: Ints = np.where(via == PLAN, _ARRIVAL, _UNEXPLAINED)
        return out

    def _trunk(self) -> None:
        """The path to the operation that ends last, once for all: where others run into it, sums answer."""
        by = self.paths.op.tolist()
        trunk = [int(np.argmax(self.flight.end_ps))] if by else []
        while trunk and by[trunk[-1]] >= 0:
            trunk.append(by[trunk[-1]])
            if len(trunk) > len(by):
                raise RuntimeError("the operations that let each other start form a ring")
        ops = np.array(trunk[::-1], np.int64)
        self._on_trunk = np.zeros(len(by), np.bool_)
        self._on_trunk[ops] = True
        start, (_, at_ps, via) = self.flight.start_ps, self.paths
        bounds, labels = [np.zeros(1, np.int64)], []
        if len(ops):
            # root | in ops[0], hole | in ops[1], hole | ... up to the start of the last
            later = ops[1:]
            bounds += [start[ops[:1]], np.stack([at_ps[later], start[later]], axis=1).ravel()]
            labels = [self._hole_label(via[ops[:1]]),
                      np.stack([self._via_label(ops[:-1], via[later]), self._hole_label(via[later])], axis=1).ravel()]
        self._bounds = np.concatenate(bounds)
        self._labels = np.concatenate([*labels, np.full(1, _UNEXPLAINED)])
        self._used, column = np.unique(self._labels, return_inverse=True)
        self._column = column
        self._sums = np.zeros((len(self._bounds), len(self._used)), np.int64)
        self._sums[np.arange(1, len(self._bounds)), column[:-1]] = np.diff(self._bounds)
        np.cumsum(self._sums, axis=0, out=self._sums)

    def _sums_at(self, at_ps: Ints) -> Ints:
        """Time on the trunk before an instant, [instants, used labels]."""
        i = np.searchsorted(self._bounds, at_ps, side="right") - 1
        out: Ints = self._sums[i].copy()
        out[np.arange(len(i)), self._column[i]] += at_ps - self._bounds[i]
        return out

    def divide(self, ops: Ints, from_ps: Ints, owner: Ints, out: Ints, at_start: bool) -> None:
        """Add to out[owner, label] the time from each `from_ps` to the start of its operation, or to its end.

        at_start: the first stretch says what the operation waited for; a lane taken elsewhere is then called so.
        """
        start = self.flight.start_ps
        if not at_start:
            until = self.flight.end_ps[ops]
            np.add.at(out, (owner, self._label[ops]), until - np.maximum(start[ops], from_ps))
        first = at_start
        while True:
            active = start[ops] > from_ps
            ops, from_ps, owner = ops[active], from_ps[active], owner[active]
            if not first:
                met = self._on_trunk[ops]
                rows = self._sums_at(start[ops[met]]) - self._sums_at(from_ps[met])
                for column, label in enumerate(self._used.tolist()):
                    np.add.at(out[:, label], owner[met], rows[:, column])
                ops, from_ps, owner = ops[~met], from_ps[~met], owner[~met]
            if not len(ops):
                return
            by, at_ps, via = (column[ops] for column in self.paths)
            at_ps = np.maximum(at_ps, from_ps)
            np.add.at(out, (owner, self._hole_label(via)), start[ops] - at_ps)
            rooted = by >= 0
            ops, by, at_ps, via, from_ps, owner = (c[rooted] for c in (ops, by, at_ps, via, from_ps, owner))
            label = np.where(first & (via == FREED), _LANE, self._via_label(by, via))
            np.add.at(out, (owner, label), np.maximum(at_ps - np.maximum(start[by], from_ps), 0))
            ops, first = by, False


class Use(NamedTuple):
    """Time of each lane by LABELS: [lanes, labels] of work and of idleness. A row's sum is servers * horizon."""

    busy_ps: Ints
    stall_ps: Ints


def lane_use(walker: Walker, horizon_ps: int) -> Use:
    """What every lane did until the horizon, and why it did nothing when it did nothing."""
    flight, rows = walker.flight, walker.flight.rows
    use = Use(*(np.zeros((len(flight.lanes), len(LABELS)), np.int64) for _ in range(2)))
    np.add.at(use.busy_ps, (rows.lane, work_label(flight)[rows.op]), rows.to_ps - rows.from_ps)
    first_track = np.concatenate([[0], np.cumsum([lane.servers for lane in flight.lanes])]).astype(np.int64)
    track = first_track[rows.lane] + flight.servers
    order = np.lexsort((rows.to_ps, rows.from_ps, track))
    track, op, from_ps, to_ps = (column[order] for column in (track, rows.op, rows.from_ps, rows.to_ps))
    idle_ps = np.concatenate([[0], to_ps[:-1]]) if len(to_ps) else to_ps
    idle_ps = np.where(np.concatenate([[True], track[1:] != track[:-1]])[:len(track)], 0, idle_ps)
    lane = rows.lane[order]
    idle = from_ps > idle_ps
    resumed = idle & (from_ps > flight.start_ps[op])
    np.add.at(use.stall_ps[:, _LANE], lane[resumed], from_ps[resumed] - idle_ps[resumed])
    fresh = idle & ~resumed
    walker.divide(op[fresh], idle_ps[fresh], lane[fresh], use.stall_ps, at_start=True)
    last_ps = np.zeros(first_track[-1], np.int64)
    np.maximum.at(last_ps, track, to_ps)
    of_track = np.repeat(np.arange(len(flight.lanes)), np.diff(first_track))
    np.add.at(use.stall_ps[:, _NO_WORK], of_track, horizon_ps - last_ps)
    return use


class Walked:
    """Figures of a run from its whole flight: what `collect.Collector` gives without keeping it."""

    def __init__(self, flight: Flight, steps: Sequence[StepTimes], rows: Rows | None = None,
                 crossed: Ints | None = None) -> None:
        """rows: of its series (by default one a lane). crossed [n, CROSSING]: what crossed links."""
        self._walker, self._steps, self._rows = Walker(flight), steps, rows or plain_rows(len(flight.lanes))
        self._crossed = np.empty((0, len(CROSSING)), np.int64) if crossed is None else crossed
        self.end_ps, self.horizon_ps = flight.end_ps, flight.horizon_ps

    @property
    def spans_digest(self) -> str:
        """SHA-256 of two sums over a mix of what each operation was and when it ran."""
        flight = self._walker.flight
        return mix_digest(flight.labels, flight.start_ps, flight.end_ps)

    @property
    def latency_ps(self) -> Ints:
        """Of each step by LABELS, [steps, labels]."""
        return step_latency(self._walker, np.array([s.end_op for s in self._steps], np.int64),
                            np.array([s.begin_ps for s in self._steps], np.int64))

    @property
    def slot_peaks(self) -> Ints:
        """The most slots of each of the machine's pools in use at once, [pools]."""
        flight = self._walker.flight
        return slot_peaks(flight.slots, flight.take_pool, flight.start_ps[flight.take_op],
                          flight.take_pool[flight.release_take], flight.release_ps)

    def use(self) -> Use:
        """Of every lane until the horizon."""
        return lane_use(self._walker, self.horizon_ps)

    def sliced(self) -> Sliced:
        """In slices of emulated time."""
        return sliced(self._walker.flight, self._rows, self._crossed)


def step_latency(walker: Walker, end_op: Ints, begin_ps: Ints) -> Ints:
    """Time of each step by LABELS along its critical path, [steps, labels]; a row's sum is the step's time."""
    out = np.zeros((len(end_op), len(LABELS)), np.int64)
    walker.divide(end_op, begin_ps, np.arange(len(end_op)), out, at_start=False)
    return out
