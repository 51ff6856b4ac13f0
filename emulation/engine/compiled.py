"""The compiled twin of `spec`: the same spans, occupancy and errors, from columns and kernels that numba compiles.

State lies in arrays of int64 (`compiled_layout`): a row an operation, a hold, a take, a release, a lane, a pool.
Kernels are compiled when they are first imported and kept on disk: later imports only load them.
"""

from collections.abc import Collection, Sequence

import numpy as np

from emulation.engine import compiled_layout as c
from emulation.engine.compiled_loop import run_loop, settle
from emulation.engine.compiled_retire import compact, ended_prefix
from emulation.engine.compiled_story import tell
from emulation.engine.compiled_submit import append
from emulation.engine.compiled_table import Ints
from emulation.engine.contract import UNSET, Describe, Occupancy, Retired, Spans, check, check_until
from emulation.errors import PlanError
from emulation.ops import Lane, Ops, Pool

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
        self._lane = np.full((len(self.lanes), c.LANE_COLUMNS), c.NONE, np.int64)
        self._lane[:, [c.HELD, c.LEFT, c.SINCE, c.CLAIM, c.SHADE, c.QUEUE_OPEN, c.SHADOW_OPEN, c.ACTIVE]] = 0
        self._lane[:, c.SERVERS] = [lane.servers for lane in self.lanes]
        self._lane[:, c.IN_ORDER] = [lane.in_order for lane in self.lanes]
        self._pool = np.zeros((len(self.pools), c.POOL_COLUMNS), np.int64)
        self._pool[:, [c.POOL_QUEUE, c.ASIDE]] = c.NONE
        self._pool[:, [c.LEAST, c.ASIDE_LEAST]] = c.FAR
        self._pool[:, c.FREE] = self._pool[:, c.CAPACITY] = [pool.capacity for pool in self.pools]
        self._op = np.empty((0, c.OP_COLUMNS), np.int64)
        self._hold = np.empty((0, c.HOLD_COLUMNS), np.int64)
        self._state, self._node = np.empty(0, np.int64), np.empty(0, np.int64)
        self._take = np.empty((0, c.TAKE_COLUMNS), np.int64)
        self._release = np.empty((0, c.RELEASE_COLUMNS), np.int64)
        self._log = np.empty((0, c.LOG_COLUMNS), np.int64)
        self._event = np.empty((0, c.EVENT_COLUMNS), np.int64)
        self._heap = np.empty((0, c.CANDIDATE_COLUMNS), np.int64)
        self._list = np.empty((0, c.LISTS), np.int64)
        self._make_room(256, 256, 256, 64, 64)

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
        return int(self._pool[pool, c.FREE])

    def spans(self) -> Spans:
        return self._spans(self._retired, int(self._s[c.OPS]))

    def _spans(self, low: int, high: int) -> Spans:
        return Spans(self._op[low:high, c.START_PS].copy(), self._op[low:high, c.END_PS].copy())

    def occupancy(self) -> Occupancy:
        rows = self._log[:self._s[c.LOGGED]].copy()
        return Occupancy(rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3])

    def backlog_ps(self, lane: int) -> int:
        state = self._lane[lane]
        running_ps = int(state[c.HELD]) * self.now_ps - int(state[c.SINCE])
        return -((running_ps - int(state[c.LEFT])) // self.lanes[lane].servers)

    def submit(self, ops: Ops) -> None:
        if ops.first != self.next_serial or ops.first_take != self.next_take:
            self._refuse(ops)
        self._make_room(len(ops), len(ops.hold_lane), len(ops.wait_op) + len(ops.release_op) + len(ops.release_take),
                        ops.takes, len(ops.release_take))
        columns = (ops.priority, ops.quantum_ps, ops.length_ps, ops.hold_ptr, ops.hold_lane, ops.hold_ps, ops.wait_ptr,
                   ops.wait_op, ops.wait_edge, ops.take_ptr, ops.take_pool, ops.take_needs, ops.take_amount,
                   ops.release_take, ops.release_ptr, ops.release_op, ops.release_edge)
        state = (self._s, self._op, self._state, self._hold, self._node, self._take, self._release, self._lane,
                 self._pool, self._list)
        try:
            outcome = append(*state, *columns)
        except TypeError:
            outcome = append(*state, *(np.array(column, np.int64) for column in columns))
        if outcome == c.TOO_WIDE:
            raise PlanError(f"an operation of a plan has more than {c.COUNT} lanes or takes: split it")
        if outcome == c.REFUSED:
            self._refuse(ops)

    def _refuse(self, ops: Ops) -> None:
        check(ops, self.lanes, self.pools, self.next_serial, self.next_take, self._is_released, self._describe)
        raise AssertionError("the compiled engine refused a plan that the shared check accepts: please report it")

    def _is_released(self, handle: int) -> bool:
        if handle >= self.next_take:
            return False
        rows = np.flatnonzero(self._take[:self._s[c.TAKES], c.HANDLE] == handle)
        return not len(rows) or bool(self._take[rows[0], c.PROMISED])

    def run(self, until: Collection[int] = ()) -> tuple[int, ...]:
        watched = check_until(until, self.next_serial)
        first, op = int(self._s[c.FIRST]), self._op
        rows = [serial - first for serial in watched]
        reached = tuple(row + first for row in rows if row < 0 or op[row, c.END_PS] != UNSET)
        if reached:
            return reached
        op[rows, c.META] |= c.WATCHED
        outcome = self._run_to(c.FAR)
        op[rows, c.META] &= ~c.WATCHED
        if outcome == c.STOPPED:
            ended = sorted(self._list[:self._s[c.REACHED_N], c.REACHED].tolist())
            self._s[c.REACHED_N] = 0
            return tuple(row + first for row in ended)
        if self._s[c.UNENDED]:
            raise tell(self._s, self._op, self._hold, self._node, self._take, self._release, self._lane, self.lanes,
                       self._pool, self.pools, watched, self._describe)
        return ()

    def advance(self, to_ps: int) -> None:
        if to_ps < self.now_ps:
            raise ValueError(f"cannot advance to {to_ps} ps: it is {self.now_ps} ps already")
        self._run_to(to_ps)
        self._s[c.NOW] = to_ps
        while not settle(self._s, self._op, self._state, self._hold, self._node, self._take, self._release, self._lane,
                         self._pool, self._log, self._event, self._list):
            self._grow_log()

    def _run_to(self, to_ps: int) -> int:
        while True:
            outcome = run_loop(self._s, self._op, self._state, self._hold, self._node, self._take, self._release,
                               self._lane, self._pool, self._log, self._event, self._heap, self._list, to_ps)
            if outcome != c.LOG_FULL:
                return int(outcome)
            self._grow_log()

    def retire(self) -> Retired:
        low = self._retired
        high = ended_prefix(self._s, self._op, low)
        retired = Retired(self.first_serial, self._spans(low, high), self.occupancy())
        self._s[c.LOGGED] = 0
        self._retired = high
        if high >= max(FORGET_AT_LEAST, int(self._s[c.OPS]) // 2):
            compact(self._s, self._op, self._state, self._hold, self._node, self._take, self._release, self._lane,
                    self._pool, self._event, self._list, high)
            self._retired = 0
        return retired

    @property
    def kept_bytes(self) -> int:
        """Memory of all that the engine keeps."""
        return sum(rows.nbytes for rows in (self._op, self._state, self._hold, self._node, self._take, self._release,
                                            self._log, self._event, self._heap, self._list))

    # room

    def _make_room(self, ops: int, holds: int, nodes: int, takes: int, releases: int) -> None:
        """Rows for so many more; kernels never allocate."""
        s = self._s
        ops, holds, nodes = ops + int(s[c.OPS]), holds + int(s[c.HOLDS]), nodes + int(s[c.NODES])
        takes, releases = takes + int(s[c.TAKES]), releases + int(s[c.RELEASES])
        self._node, self._take = _grown(self._node, nodes), _grown(self._take, takes)
        if ops <= len(self._op) and holds <= len(self._hold) and releases <= len(self._release):
            return
        self._op, self._state = _grown(self._op, ops), _grown(self._state, ops)
        self._hold = _grown(self._hold, holds)
        self._release = _grown(self._release, releases)
        self._event = _grown(self._event, len(self._op) + len(self._hold))
        self._heap = _grown(self._heap, len(self._op) + 2 * len(self.lanes) + len(self.pools))
        width = max(len(self._op), len(self._release), len(self.lanes) + len(self.pools))
        self._list = _grown(self._list, width)

    def _grow_log(self) -> None:
        self._log = _grown(self._log, int(self._s[c.LOGGED] + 2 * self._s[c.HOLDS]))
        self._s[c.LOG_ROOM] = len(self._log)


def _grown(rows: Ints, least: int) -> Ints:
    """The rows, with room for so many; where that is more than there was, for twice what there was."""
    if least <= len(rows):
        return rows
    wider = np.empty((max(least, 2 * len(rows)), *rows.shape[1:]), np.int64)
    wider[:len(rows)] = rows
    return wider
