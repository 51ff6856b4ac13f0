"""The compiled twin of `spec`: the same spans, occupancy and errors, from columns and kernels that numba compiles.

State lies in arrays of int64 (`compiled_layout`): a row an operation, a hold, a take, a release, a lane, a pool.
Kernels are compiled when they are first imported and kept on disk: later imports only load them.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from emulation.engine import compiled_layout as c
from emulation.engine.compiled_layout import Ints
from emulation.engine.compiled_loop import run_loop, settle
from emulation.engine.compiled_memory import Memory
from emulation.engine.compiled_play import BATCH, PLAYED, SUBMITTED, play_batches
from emulation.engine.compiled_retire import compact, ended_prefix
from emulation.engine.compiled_story import tell
from emulation.engine.compiled_submit import append
from emulation.engine.contract import UNSET, Describe, Occupancy, Retired, Spans, check, check_until, resized
from emulation.engine.play import Program, columns_of
from emulation.errors import PlanError
from emulation.ops import Lane, Ops, Pool

SETS_AT_FIRST = 256
"""Room for sets of several lanes; there are as many as operations make of the lanes."""

FORGET_AT_LEAST = 4096
"""Retired operations after which rows are moved: moving costs as much as what is left, so it must pay."""


class CompiledEngine:
    """`Engine` on arrays."""

    def __init__(self, lanes: Sequence[Lane], pools: Sequence[Pool] = (), describe: Describe = "op {}".format) -> None:
        self.lanes, self.pools, self._describe = tuple(lanes), tuple(pools), describe
        self._retired = 0
        self._s = np.zeros(c.SCALARS, np.int64)
        self._s[c.ALARM] = c.FAR
        self._s[c.N_LANES], self._s[c.N_POOLS] = len(self.lanes), len(self.pools)
        self._memory = Memory(self._s)
        n_lanes, n_pools = len(self.lanes), len(self.pools)
        self._memory.grow({"lanes": n_lanes, "pools": n_pools, "sets": n_lanes + SETS_AT_FIRST,
                           "members": n_lanes + 3 * SETS_AT_FIRST, "buckets": SETS_AT_FIRST})
        self._make_rows(256, 256, 256, 64, 64)
        self._set_up(self._memory.tables)

    def _set_up(self, t: c.Tables) -> None:
        n = len(self.lanes)
        t.lanes[:] = c.NONE
        t.lanes[:, [c.BALANCE, c.CLAIM, c.SHADE, c.ACTIVE, c.SHADOW_OPEN]] = 0
        t.lanes[:, c.IDLE_SERVERS] = [lane.servers for lane in self.lanes]
        t.lanes[:, c.IN_ORDER] = [lane.in_order for lane in self.lanes]
        t.lanes[:, c.SETS] = np.arange(n)
        t.sets[:n] = c.NONE
        t.sets[:n, c.QUEUE_OPEN] = 0
        t.sets[:n, c.MEMBERS_AT] = np.arange(n)
        t.sets[:n, c.WIDTH] = 1
        t.members[:n] = np.arange(n)[:, None]
        t.members[:n, c.NEXT_MEMBER] = c.NONE
        self._s[c.SETS_N] = self._s[c.MEMBERS_N] = n
        t.pools[:] = 0
        t.pools[:, [c.POOL_QUEUE, c.ASIDE]] = c.NONE
        t.pools[:, [c.LEAST, c.ASIDE_LEAST]] = c.FAR
        t.pools[:, c.FREE] = t.pools[:, c.CAPACITY] = [pool.capacity for pool in self.pools]

    @property
    def now_ps(self) -> int:
        return int(self._s[c.NOW])

    @property
    def first_serial(self) -> int:
        return int(self._s[c.FIRST]) + self._retired

    @property
    def next_serial(self) -> int:
        return int(self._s[c.FIRST] + self._s[c.OPS])

    @property
    def next_take(self) -> int:
        return int(self._s[c.TAKE_FIRST] + self._s[c.TAKES] - self._s[c.TAKES_OLD])

    def free(self, pool: int) -> int:
        return int(self._memory.tables.pools[pool, c.FREE])

    def resize(self, capacities: Mapping[int, int]) -> None:
        for pool, capacity in capacities.items():
            self._memory.tables.pools[pool, [c.FREE, c.CAPACITY]] += capacity - self.pools[pool].capacity
        self.pools = resized(self.pools, capacities)

    def spans(self) -> Spans:
        return self._spans(self._retired, int(self._s[c.OPS]))

    def _spans(self, low: int, high: int) -> Spans:
        return Spans(self._memory.tables.starts[low:high].copy(), self._memory.tables.ends[low:high].copy())

    def occupancy(self) -> Occupancy:
        rows = self._memory.tables.log[:self._s[c.LOGGED]].copy()
        return Occupancy(rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3])

    def backlog_ps(self, lane: int) -> int:
        state, servers = self._memory.tables.lanes[lane], self.lanes[lane].servers
        return -(((servers - int(state[c.IDLE_SERVERS])) * self.now_ps - int(state[c.BALANCE])) // servers)

    def submit(self, ops: Ops) -> None:
        if ops.first != self.next_serial or ops.first_take != self.next_take:
            self._refuse(ops)
        self._make_room(ops)
        columns = columns_of(ops)
        while (outcome := self._append(columns)) == c.SETS_FULL:
            self._grow_sets(ops)
        if outcome == c.TOO_WIDE:
            raise PlanError(f"an operation of a plan has more than {c.COUNT} lanes or takes: split it")
        if outcome == c.REFUSED:
            self._refuse(ops)

    def play(self, program: Program) -> Ints:
        """Submit batch by batch, each when the decision before has ended; when each was submitted."""
        ops, at_ps = program.columns, np.empty(len(program.decisions), np.int64)
        progress, columns = np.zeros(2, np.int64), columns_of(ops)
        batches = [program.ops, program.releases, program.decisions, at_ps, progress]
        self._make_room(ops)
        while (outcome := play_batches(self._s, self._memory.words, *columns, *batches)) != PLAYED:
            if progress[SUBMITTED] and outcome == c.LOG_FULL:
                self._grow_log()
            elif not progress[SUBMITTED] and outcome == c.SETS_FULL:
                self._grow_sets(ops)
            else:  # a batch that is refused, or a decision that cannot end: told as it is for one batch
                batch = int(progress[BATCH])
                if not progress[SUBMITTED]:
                    self.submit(program.batch(batch))
                self.run([int(program.decisions[batch])])
                raise AssertionError("a batch was refused that is accepted by itself: please report it")
        return at_ps

    def _append(self, columns: Sequence[Ints]) -> int:
        try:
            return int(append(self._s, self._memory.words, *columns))
        except TypeError:
            return int(append(self._s, self._memory.words, *(np.array(column, np.int64) for column in columns)))

    def _refuse(self, ops: Ops) -> None:
        check(ops, self.lanes, self.pools, self.next_serial, self.next_take, self._is_released, self._describe)
        raise AssertionError("the compiled engine refused a plan that the shared check accepts: please report it")

    def _is_released(self, handle: int) -> bool:
        if handle >= self.next_take:
            return False
        takes = self._memory.tables.takes
        rows = np.flatnonzero(takes[:self._s[c.TAKES], c.HANDLE] == handle)
        return not len(rows) or bool(takes[rows[0], c.PROMISED])

    def run(self, until: Collection[int] = ()) -> tuple[int, ...]:
        watched = check_until(until, self.next_serial)
        first, t = int(self._s[c.FIRST]), self._memory.tables
        rows = [serial - first for serial in watched]
        reached = tuple(row + first for row in rows if row < 0 or t.ends[row] != UNSET)
        if reached:
            return reached
        for row in rows:
            t.ops[row, c.META] |= c.WATCHED
        outcome = self._run_to(c.FAR)
        t = self._memory.tables
        for row in rows:
            t.ops[row, c.META] &= ~c.WATCHED
        if outcome == c.STOPPED:
            ended = sorted(t.lists[:self._s[c.REACHED_N], c.REACHED].tolist())
            self._s[c.REACHED_N] = 0
            return tuple(row + first for row in ended)
        if self._s[c.UNENDED]:
            raise tell(self._s, t, self.lanes, self.pools, watched, self._describe)
        return ()

    def advance(self, to_ps: int) -> None:
        if to_ps < self.now_ps:
            raise ValueError(f"cannot advance to {to_ps} ps: it is {self.now_ps} ps already")
        self._run_to(to_ps)
        if to_ps > self.now_ps:
            self._s[c.NOW] = to_ps
            self._s[c.INSTANT] += 1
        while not settle(self._s, self._memory.words):
            self._grow_log()

    def _run_to(self, to_ps: int) -> int:
        while True:
            outcome = run_loop(self._s, self._memory.words, to_ps)
            if outcome != c.LOG_FULL:
                return int(outcome)
            self._grow_log()

    def retire(self) -> Retired:
        low = self._retired
        high = ended_prefix(self._s, self._memory.words, low)
        retired = Retired(self.first_serial, self._spans(low, high), self.occupancy())
        self._s[c.LOGGED] = 0
        self._retired = high
        if high >= max(FORGET_AT_LEAST, int(self._s[c.OPS]) // 2):
            compact(self._s, self._memory.words, high)
            self._retired = 0
        return retired

    @property
    def kept_bytes(self) -> int:
        """Memory of all that the engine keeps."""
        return self._memory.words.nbytes

    # room

    def _make_room(self, ops: Ops) -> None:
        """Rows for so much more: no table grows within a kernel."""
        self._make_rows(len(ops), len(ops.hold_lane), len(ops.wait_op) + len(ops.release_op) + len(ops.release_take),
                        ops.takes, len(ops.release_take))

    def _make_rows(self, ops: int, holds: int, nodes: int, takes: int, releases: int) -> None:
        s = self._s[:c.EVENTS].tolist()
        ops, holds, nodes = ops + s[c.OPS], holds + s[c.HOLDS], nodes + s[c.NODES]
        takes, releases = takes + s[c.TAKES], releases + s[c.RELEASES]
        others = len(self.lanes) + len(self.pools)
        self._memory.grow({
            "ops": ops, "states": ops, "starts": ops, "ends": ops, "firsts": ops, "more": ops,
            "holds": holds, "turns": holds,
            "log": holds, "nodes": nodes, "takes": takes, "releases": releases, "events": ops + holds,
            "heap": 2 * ops + 2 * others, "lists": max(ops, releases, others)})

    def _grow_sets(self, ops: Ops) -> None:
        t = self._memory.tables
        self._memory.grow({"sets": 2 * len(t.sets), "members": len(t.members) + len(ops.hold_lane),
                           "buckets": 2 * len(t.buckets)})

    def _grow_log(self) -> None:
        self._memory.grow({"log": int(self._s[c.LOGGED] + self._s[c.HOLDS])})
