"""The compiled engine's state as the records that the story of a deadlock is told from."""

from collections import deque
from collections.abc import Collection, Sequence

from emulation.engine import compiled_layout as c
from emulation.engine.compiled_layout import NONE, Ints, Tables
from emulation.engine.contract import Describe
from emulation.engine.state import LaneState, Op, Release, Take
from emulation.engine.stuck import explain
from emulation.errors import DeadlockError
from emulation.ops import END, START, Edge, Lane, Pool


def tell(s: Ints, t: Tables, lanes: Sequence[Lane], pools: Sequence[Pool], watched: Collection[int],
         describe: Describe) -> DeadlockError:
    """Why nothing moves, in the words of `stuck`."""
    first = int(s[c.FIRST])
    awaited = _awaited(s, t)
    told: list[Op] = [Op(serial, 0, 0, 0, [], [], [], start_ps=0, end_ps=0) for serial in range(first)]
    for row in range(s[c.OPS]):
        meta, low = int(t.ops[row, c.META]), int(t.ops[row, c.WHERE]) & c.LOW_HALF
        low_take = int(t.firsts[row]) >> c.HALF_SHIFT
        told.append(Op(
            first + row, int(t.ops[row, c.ORDER]) >> c.PRIORITY_SHIFT,
            int(t.more[row, c.QUANTUM]) if meta & c.STOPS else 0, int(t.ops[row, c.REST]),
            [(int(lane), int(hold_ps)) for lane, hold_ps in
             t.holds[low:low + (meta & c.COUNT), [c.LANE, c.HOLD_PS]]],
            awaited.get(row, []),
            [(int(handle), int(pool), int(needs), int(amount)) for handle, pool, needs, amount in
             t.takes[low_take:low_take + (meta >> c.TAKE_SHIFT & c.COUNT), [c.HANDLE, c.POOL, c.NEEDS, c.AMOUNT]]],
            start_ps=int(t.starts[row]), end_ps=int(t.ends[row])))
    edges = {int(t.releases[row, c.RELEASED]): awaited.get(~row, []) for row in range(s[c.RELEASES])}
    told_takes = []
    for row in t.takes[:s[c.TAKES]].tolist():
        release = Release(row[c.HANDLE], edges.get(row[c.HANDLE], [])) if row[c.PROMISED] else None
        told_takes.append(
            Take(row[c.TAKER], row[c.POOL], row[c.AMOUNT], bool(row[c.TAKEN]), bool(row[c.GIVEN]), release))
    told_lanes = [LaneState(lane, queue=deque([] if head == NONE else [first + head]))
                  for lane, head in zip(lanes, t.lanes[:, c.HEAD].tolist(), strict=True)]
    return explain(told, told_takes, told_lanes, t.pools[:, c.FREE].tolist(), pools, watched, describe)


def _awaited(s: Ints, t: Tables) -> dict[int, list[Edge]]:
    """Edges that have not happened, by who waits for them (an operation's row, or ~release), as they were named."""
    found: list[tuple[int, int, Edge]] = []
    for row in range(s[c.OPS]):
        on_start = int(t.more[row, c.ON_START]) if t.ops[row, c.META] & c.AWAITED else 0
        for link, edge in ((on_start, START), (int(t.ops[row, c.ON_END]), END)):
            while link:
                node = (link >> c.NODE_SHIFT) - 1
                found.append((node, (link & c.WAITER_MASK) - c.HALF, Edge(int(s[c.FIRST]) + row, edge)))
                link = int(t.nodes[node]) if not link & c.LAST_LINK else 0
    waits: dict[int, list[Edge]] = {}
    for _, waiter, at in sorted(found):
        waits.setdefault(waiter, []).append(at)
    return waits
