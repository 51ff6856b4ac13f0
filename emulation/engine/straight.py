"""The straight engine: for machines on which every lane is a stream, or used by one stream only.

There the order of serials tells all times, at a few nanoseconds an operation. What it cannot tell it declines with
`NotStraight`; it never guesses. `tests/emulation/test_columns.py` compares it with the specification.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from emulation.engine import compiled_straight as c
from emulation.engine.contract import UNSET, Describe, Occupancy, Retired, Spans, check, check_until
from emulation.engine.play import Program, columns_of
from emulation.ops import Lane, Ops, Pool

Ints = NDArray[np.int64]


NO_HOLDS = Occupancy(*np.empty((len(Occupancy._fields), 0), np.int64))


class NotStraight(Exception):
    """Operations whose times the order of serials does not tell."""


class StraightEngine:
    """`Engine`, and `play` for whole programs."""

    def __init__(self, lanes: Sequence[Lane], pools: Sequence[Pool] = (), describe: Describe = "op {}".format) -> None:
        self.lanes, self.pools, self._describe = tuple(lanes), tuple(pools), describe
        self._s = np.zeros(c.SCALARS, np.int64)
        self._start, self._end = np.zeros(256, np.int64), np.zeros(256, np.int64)
        self._lane = np.full((len(self.lanes), 3), c.NONE, np.int64)
        self._lane[:, c.FREE_PS] = 0
        self._lane[:, c.IN_ORDER] = [lane.in_order and lane.servers == 1 for lane in self.lanes]
        if any(lane.in_order and lane.servers > 1 for lane in self.lanes):
            raise NotStraight("an in-order lane has several servers")
        self._pool = np.zeros((max(1, len(self.pools)), 2), np.int64)
        self._pool[:len(self.pools), c.FREE] = [pool.capacity for pool in self.pools]
        self._take, self._due = np.zeros((64, 3), np.int64), np.zeros((64, 3), np.int64)
        self._kept: list[Ops] = []

    @property
    def now_ps(self) -> int:
        return int(self._s[c.NOW])

    @property
    def first_serial(self) -> int:
        return int(self._s[c.FIRST])

    @property
    def next_serial(self) -> int:
        return int(self._s[c.FIRST] + self._s[c.OPS])

    @property
    def next_take(self) -> int:
        return int(self._s[c.TAKES])

    def submit(self, ops: Ops) -> None:
        check(ops, self.lanes, self.pools, self.next_serial, self.next_take, lambda _: False, self._describe)
        self.play(Program(ops, np.array([0, len(ops)]), np.array([0, len(ops.release_take)]), np.array([c.NONE])))

    def play(self, program: Program) -> Ints:
        """Submit batch by batch, each when the decision before has ended; when each was submitted."""
        ops, at_ps = program.columns, np.empty(len(program.decisions), np.int64)
        self._room(ops)
        outcome = c.time_batches(
            self._s, self._start, self._end, self._lane, self._pool, self._take, self._due,
            columns_of(ops), program.ops, program.releases, program.decisions, at_ps)
        if outcome != c.DONE:
            raise NotStraight("the order of serials does not tell when these operations run")
        self._kept.append(ops)
        return at_ps

    def _room(self, ops: Ops) -> None:
        rows = int(self._s[c.OPS]) + len(ops)
        if rows > len(self._start):
            self._start, self._end = _grown(self._start, rows), _grown(self._end, rows)
        self._take = _grown(self._take, int(self._s[c.TAKES]) + ops.takes)
        self._due = _grown(self._due, int(self._s[c.WAITING]) + len(ops.release_take))

    def run(self, until: Collection[int] = ()) -> tuple[int, ...]:
        watched = check_until(until, self.next_serial)
        first, n = self.first_serial, int(self._s[c.OPS])
        ends = {op: int(self._end[op - first]) if op >= first else 0 for op in watched}
        if reached := tuple(op for op, end_ps in ends.items() if end_ps <= self.now_ps):
            return reached
        if not ends:
            self._s[c.NOW] = max(self.now_ps, int(self._end[:n].max(initial=0)))
            return ()
        self._s[c.NOW] = soonest_ps = min(ends.values())
        return tuple(op for op, end_ps in ends.items() if end_ps == soonest_ps)

    def advance(self, to_ps: int) -> None:
        if to_ps < self.now_ps:
            raise ValueError(f"cannot advance to {to_ps} ps: it is {self.now_ps} ps already")
        self._s[c.NOW] = to_ps

    def free(self, pool: int) -> int:
        now_ps, due = self.now_ps, self._due[:self._s[c.WAITING]]
        late = due[(due[:, c.DUE_POOL] == pool) & (due[:, c.DUE_PS] <= now_ps)]
        if self._pool[pool, c.TAKEN_PS] > now_ps:
            raise NotStraight(f"what is free in pool {self.pools[pool].name!r} before the last take is not kept")
        return int(self._pool[pool, c.FREE] + late[:, c.DUE_AMOUNT].sum())

    def resize(self, capacities: Mapping[int, int]) -> None:
        raise NotStraight("pools of another size")

    def spans(self) -> Spans:
        """Of all operations from `first_serial` on, UNSET where it has not happened by now."""
        return self._spans(int(self._s[c.OPS]))

    def _spans(self, n: int) -> Spans:
        start, end = self._start[:n], self._end[:n]
        return Spans(np.where(start <= self.now_ps, start, UNSET), np.where(end <= self.now_ps, end, UNSET))

    def occupancy(self) -> Occupancy:
        rows = self._holds(self.next_serial)
        ended = rows.to_ps <= self.now_ps
        return Occupancy(*(column[ended] for column in rows))

    def retire(self) -> Retired:
        """As promised, but that stretches come with their operation, when that has ended."""
        n, first = int(self._s[c.OPS]), self.first_serial
        late = self._end[:n] > self.now_ps
        high = int(late.argmax()) if late.any() else n
        retired = Retired(first, Spans(self._start[:high].copy(), self._end[:high].copy()), self._holds(first + high))
        self._start[:n - high], self._end[:n - high] = self._start[high:n].copy(), self._end[high:n].copy()
        self._s[c.FIRST] += high
        self._s[c.OPS] -= high
        self._kept = [ops for ops in self._kept if ops.first + len(ops) > first + high]
        return retired

    def _holds(self, end: int) -> Occupancy:
        """Every hold, ended or not, of what was not retired, up to before the serial `end`."""
        first, parts = self.first_serial, [NO_HOLDS]
        for ops in self._kept:
            low, high = max(first - ops.first, 0), min(end - ops.first, len(ops))
            if low < high:
                holds = int(ops.hold_ptr[high] - ops.hold_ptr[low])
                part = Occupancy(*np.empty((len(NO_HOLDS), holds), np.int64))
                at = ops.first + low - first
                c.note_holds(self._start[at:at + high - low], ops.hold_ptr, ops.hold_lane, ops.hold_ps, low, high,
                             ops.first + low, *part)
                parts.append(part)
        if len(parts) == 2:
            return parts[1]
        return Occupancy(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def backlog_ps(self, lane: int) -> int:
        rows = self._holds(self.next_serial)
        mine = (rows.lane == lane) & (rows.to_ps > self.now_ps)
        left_ps = int((rows.to_ps[mine] - np.maximum(rows.from_ps[mine], self.now_ps)).sum())
        return -(-left_ps // self.lanes[lane].servers)


def _grown(rows: Ints, least: int) -> Ints:
    if least <= len(rows):
        return rows
    wider = np.zeros((max(least, 2 * len(rows)), *rows.shape[1:]), np.int64)
    wider[:len(rows)] = rows
    return wider
