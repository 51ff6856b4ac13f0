"""The specification of the timing engine: short, readable, and what the compiled twin is held to.

At one instant: all ends, then releases, then a pass of starts, repeated until nothing changes. A pass goes over the
candidates in (priority, ready time, serial); what becomes ready in it is for the next one. A blocked candidate is
passed over and reserves nothing, except that in an in-order lane the head blocks, and that a candidate which waits
for nothing but lower-priority work to make way claims its lanes against lower-priority work.

A holder makes way at its quantum boundary or at the end of its hold. It stops in the pass, when a candidate whose
full lanes all have such a holder finds it at a boundary; nobody stops for one that got its lanes otherwise. What
stops leaves all its lanes, keeps its place, and resumes with the rest of each hold (they may differ: a slow link
behind a fast one). In an in-order lane nobody makes way, nor in another for one behind it in an in-order lane; what
stopped for another lane is the head again.
"""

import heapq
from bisect import insort
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from emulation.engine.contract import UNSET, Describe, Occupancy, Retired, Spans, check, check_until, resized
from emulation.engine.state import LaneState, Op, Release, Take
from emulation.engine.stuck import explain
from emulation.ops import END, START, Edge, Lane, Ops, Pool


class SpecEngine:
    """`Engine`, straight from the contract."""

    def __init__(self, lanes: Sequence[Lane], pools: Sequence[Pool] = (), describe: Describe = "op {}".format) -> None:
        self.lanes, self.pools, self._describe = tuple(lanes), tuple(pools), describe
        self._now_ps = self._first = 0
        self._ops: list[Op] = []
        self._takes: list[Take] = []
        self._lane = [LaneState(lane) for lane in self.lanes]
        self._free = [pool.capacity for pool in self.pools]
        self._ready: dict[int, Op] = {}
        self._events: list[tuple[int, int, int, int]] = []
        self._waiting: dict[Edge, list[Op | Release]] = defaultdict(list)
        self._due_releases: list[Release] = []
        self._log: list[tuple[int, int, int, int]] = []
        self._unended = 0
        self._left_ps = [0] * len(self.lanes)

    @property
    def now_ps(self) -> int:
        return self._now_ps

    @property
    def first_serial(self) -> int:
        return self._first

    @property
    def next_serial(self) -> int:
        return len(self._ops)

    @property
    def next_take(self) -> int:
        return len(self._takes)

    def free(self, pool: int) -> int:
        return self._free[pool]

    def resize(self, capacities: Mapping[int, int]) -> None:
        for pool, capacity in capacities.items():
            self._free[pool] += capacity - self.pools[pool].capacity
        self.pools = resized(self.pools, capacities)

    def spans(self) -> Spans:
        ops = self._ops[self._first:]
        return Spans(np.array([op.start_ps for op in ops], np.int64), np.array([op.end_ps for op in ops], np.int64))

    def retire(self) -> Retired:
        first, spans, occupancy = self._first, self.spans(), self.occupancy()
        self._first = next((op.serial for op in self._ops[first:] if op.end_ps == UNSET), len(self._ops))
        self._log = []
        return Retired(first, Spans(*(column[:self._first - first] for column in spans)), occupancy)

    def occupancy(self) -> Occupancy:
        rows = np.array(self._log, np.int64).reshape(-1, 4)
        return Occupancy(rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3])

    def backlog_ps(self, lane: int) -> int:
        running_ps = sum(self._now_ps - since for since in self._lane[lane].holders.values())
        return -(-(self._left_ps[lane] - running_ps) // self.lanes[lane].servers)

    def submit(self, ops: Ops) -> None:
        check(ops, self.lanes, self.pools, self.next_serial, self.next_take,
              lambda handle: handle < len(self._takes) and self._takes[handle].release is not None, self._describe)
        for i in range(len(ops)):
            op = Op(ops.first + i, int(ops.priority[i]), int(ops.quantum_ps[i]), int(ops.length_ps[i]),
                    sorted(ops.holds_of(i)), ops.waits_of(i), ops.takes_of(i))
            self._ops.append(op)
            self._takes.extend(Take(op.serial, pool, amount) for _, pool, _, amount in op.takes)
            for lane, hold_ps in op.holds:
                self._left_ps[lane] += hold_ps
                if self.lanes[lane].in_order:
                    self._lane[lane].queue.append(op.serial)
        self._unended += len(ops)
        for op in self._ops[ops.first:]:
            self._await(op, op.waits)
        for handle, edges in ops.releases():
            release = Release(handle, edges)
            self._takes[handle].release = release
            self._await(release, [*edges, Edge(self._takes[handle].op, START)])

    def run(self, until: Collection[int] = ()) -> tuple[int, ...]:
        watched = check_until(until, len(self._ops))
        reached = tuple(serial for serial in watched if self._ops[serial].end_ps != UNSET)
        while not (reached or (reached := self._instant(watched))):
            if self._events:
                self._now_ps = self._events[0][0]
            elif self._unended:
                raise explain(self._ops, self._takes, self._lane, self._free, self.pools, watched, self._describe)
            else:
                break
        return reached

    def advance(self, to_ps: int) -> None:
        if to_ps < self._now_ps:
            raise ValueError(f"cannot advance to {to_ps} ps: it is {self._now_ps} ps already")
        while self._now_ps < to_ps:
            self._instant(())
            self._now_ps = min(to_ps, self._events[0][0]) if self._events else to_ps
        self._end_due(())
        self._release_due()

    def _instant(self, watched: Collection[int]) -> tuple[int, ...]:
        """Ends, releases, starts at `now`, until nothing changes or a watched operation ended."""
        while True:
            reached = self._end_due(watched)
            self._release_due()
            if reached:
                return tuple(sorted(reached))
            started = self._start_ready()
            if not (started or (self._events and self._events[0][0] == self._now_ps)):
                return ()

    # ends and releases

    def _end_due(self, watched: Collection[int]) -> list[int]:
        reached = []
        while self._events and self._events[0][0] <= self._now_ps:
            _, serial, turn, lane = heapq.heappop(self._events)
            op = self._ops[serial]
            if turn != op.turn or lane == _ALARM:
                continue
            if lane == _END:
                op.end_ps = self._now_ps
                self._unended -= 1
                self._happened(Edge(serial, END))
                if serial in watched:
                    reached.append(serial)
            else:
                self._leave(op, lane)
                op.holds = [hold for hold in op.holds if hold[0] != lane]
        return reached

    def _leave(self, op: Op, lane: int) -> None:
        since = self._lane[lane].holders.pop(op.serial)
        self._left_ps[lane] -= self._now_ps - since
        self._log.append((lane, op.serial, since, self._now_ps))

    def _stop(self, op: Op) -> None:
        """The rest keeps its place: among the candidates, and at the head of in-order lanes."""
        ran = self._now_ps - op.resumed_ps
        for lane, _ in op.holds:
            self._leave(op, lane)
            if self.lanes[lane].in_order:
                insort(self._lane[lane].queue, op.serial)
        op.holds = [(lane, hold_ps - ran) for lane, hold_ps in op.holds]
        op.rest_ps -= ran
        op.turn += 1
        self._ready[op.serial] = op

    def _release_due(self) -> None:
        due, self._due_releases = self._due_releases, []
        for release in due:
            take = self._takes[release.handle]
            take.given = True
            self._free[take.pool] += take.amount

    def _await(self, waiter: Op | Release, edges: Sequence[Edge]) -> None:
        for edge in edges:
            at = self._ops[edge.op].start_ps if edge.edge == START else self._ops[edge.op].end_ps
            if at == UNSET:
                waiter.pending += 1
                self._waiting[edge].append(waiter)
        if waiter.pending == 0:
            self._unblocked(waiter)

    def _happened(self, edge: Edge) -> None:
        for waiter in self._waiting.pop(edge, ()):
            waiter.pending -= 1
            if waiter.pending == 0:
                self._unblocked(waiter)

    def _unblocked(self, waiter: Op | Release) -> None:
        if isinstance(waiter, Release):
            self._due_releases.append(waiter)
        else:
            waiter.ready_ps = self._now_ps
            self._ready[waiter.serial] = waiter

    # starts

    def _start_ready(self) -> bool:
        changed = False
        claims: dict[int, int] = {}
        for op in sorted(self._ready.values(), key=lambda op: op.order):
            if not self._may_start(op) or any(claims.get(lane, op.priority) < op.priority for lane, _ in op.holds):
                continue
            full = [lane for lane, _ in op.holds if self._lane[lane].full]
            victims = self._victims(op, full)
            for victim in victims:
                if self._boundary_ps(victim) == self._now_ps:
                    self._stop(victim)
                    changed = True
            if not any(self._lane[lane].full for lane in full):
                self._start(op)
                changed = True
            elif victims:
                claims.update((lane, op.priority) for lane, _ in op.holds if lane not in claims)
        return changed

    def _may_start(self, op: Op) -> bool:
        """It is the head of its in-order lanes, and pools have what it needs (the rest of one that stopped has it)."""
        if any(self._lane[lane].queue[0] != op.serial for lane, _ in op.holds if self.lanes[lane].in_order):
            return False
        if op.start_ps != UNSET:
            return True
        need: dict[int, int] = defaultdict(int)
        for _, pool, needs, amount in op.takes:
            if self._free[pool] - need[pool] < needs:
                return False
            need[pool] += amount
        return True

    def _victims(self, op: Op, full: list[int]) -> list[Op]:
        """For every full lane the first holder to make way for `op`; nobody, if there is a lane where none does."""
        victims = {}
        turns = [lane for lane, _ in op.holds if self.lanes[lane].in_order]
        for lane in full:
            weaker = [holder for serial in self._lane[lane].holders
                      if (holder := self._ops[serial]).quantum_ps and holder.priority > op.priority
                      and not any(serial in self._lane[turn].holders for turn in turns)]
            if not weaker or self.lanes[lane].in_order:
                return []
            way_ps = {op.serial: min(self._boundary_ps(op), op.resumed_ps + dict(op.holds)[lane]) for op in weaker}
            victim = min(weaker, key=lambda op: (way_ps[op.serial], -op.priority, -op.serial))
            victims[victim.serial] = victim
            if victim.alarm_ps != way_ps[victim.serial]:
                victim.alarm_ps = way_ps[victim.serial]
                heapq.heappush(self._events, (victim.alarm_ps, victim.serial, victim.turn, _ALARM))
        return list(victims.values())

    def _boundary_ps(self, op: Op) -> int:
        """The next quantum boundary: at least one quantum after it was set going."""
        return op.resumed_ps + max(1, -((op.resumed_ps - self._now_ps) // op.quantum_ps)) * op.quantum_ps

    def _start(self, op: Op) -> None:
        del self._ready[op.serial]
        op.resumed_ps = self._now_ps
        for lane, hold_ps in op.holds:
            self._lane[lane].holders[op.serial] = self._now_ps
            if self.lanes[lane].in_order:
                self._lane[lane].queue.popleft()
            heapq.heappush(self._events, (self._now_ps + hold_ps, op.serial, op.turn, lane))
        heapq.heappush(self._events, (self._now_ps + op.rest_ps, op.serial, op.turn, _END))
        if op.start_ps != UNSET:
            return
        op.start_ps = self._now_ps
        for handle, pool, _, amount in op.takes:
            self._free[pool] -= amount
            self._takes[handle].taken = True
        self._happened(Edge(op.serial, START))


_END, _ALARM = 1 << 62, -1
