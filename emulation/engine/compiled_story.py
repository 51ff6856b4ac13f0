"""The compiled engine's state as the records that the story of a deadlock is told from."""

from collections import deque
from collections.abc import Collection, Sequence

from emulation.engine import compiled_layout as c
from emulation.engine.compiled_layout import NONE
from emulation.engine.compiled_table import Ints
from emulation.engine.contract import Describe
from emulation.engine.state import LaneState, Op, Release, Take
from emulation.engine.stuck import explain
from emulation.errors import DeadlockError
from emulation.ops import END, START, Edge, Lane, Pool


def tell(s: Ints, ops: Ints, holds: Ints, nodes: Ints, takes: Ints, releases: Ints, lane_rows: Ints,
         lanes: Sequence[Lane], pool_rows: Ints, pools: Sequence[Pool], watched: Collection[int],
         describe: Describe) -> DeadlockError:
    """Why nothing moves, in the words of `stuck`."""
    first = int(s[c.FIRST])
    awaited = _awaited(s, ops, nodes)
    told: list[Op] = [Op(serial, 0, 0, 0, [], [], [], start_ps=0, end_ps=0) for serial in range(first)]
    for row in range(s[c.OPS]):
        meta, low, low_take = int(ops[row, c.META]), int(ops[row, c.HOLD]), int(ops[row, c.TAKE])
        told.append(Op(
            first + row, int(ops[row, c.PRIORITY]), int(ops[row, c.QUANTUM]), int(ops[row, c.REST]),
            [(int(lane), int(hold_ps)) for lane, hold_ps in
             holds[low:low + (meta & c.COUNT), [c.LANE, c.HOLD_PS]]],
            awaited.get(row, []),
            [(int(handle), int(pool), int(needs), int(amount)) for handle, pool, needs, amount in
             takes[low_take:low_take + (meta >> c.TAKE_SHIFT & c.COUNT), [c.HANDLE, c.POOL, c.NEEDS, c.AMOUNT]]],
            start_ps=int(ops[row, c.START_PS]), end_ps=int(ops[row, c.END_PS])))
    edges = {int(releases[row, c.RELEASED]): awaited.get(~row, []) for row in range(s[c.RELEASES])}
    told_takes = []
    for row in takes[:s[c.TAKES]].tolist():
        release = Release(row[c.HANDLE], edges.get(row[c.HANDLE], [])) if row[c.PROMISED] else None
        told_takes.append(
            Take(row[c.TAKER], row[c.POOL], row[c.AMOUNT], bool(row[c.TAKEN]), bool(row[c.GIVEN]), release))
    told_lanes = [LaneState(lane, queue=deque([] if head == NONE else [first + head]))
                  for lane, head in zip(lanes, lane_rows[:, c.HEAD].tolist(), strict=True)]
    return explain(told, told_takes, told_lanes, pool_rows[:, c.FREE].tolist(), pools, watched, describe)


def _awaited(s: Ints, ops: Ints, nodes: Ints) -> dict[int, list[Edge]]:
    """Edges that have not happened, by who waits for them (an operation's row, or ~release), as they were named."""
    found: list[tuple[int, int, Edge]] = []
    for row in range(s[c.OPS]):
        for column, edge in ((c.ON_START, START), (c.ON_END, END)):
            node = int(ops[row, column])
            while node != NONE:
                found.append((node, (int(nodes[node]) & c.WAITER_MASK) - c.HALF, Edge(int(s[c.FIRST]) + row, edge)))
                node = (int(nodes[node]) >> c.NODE_SHIFT) - 1
    waits: dict[int, list[Edge]] = {}
    for _, waiter, at in sorted(found):
        waits.setdefault(waiter, []).append(at)
    return waits
