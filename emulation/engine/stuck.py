"""Why nothing moves: the wait-for chain of a deadlock, told as a story."""

from collections.abc import Collection, Sequence

from emulation.engine.contract import UNSET, Describe
from emulation.engine.state import LaneState, Op, Take
from emulation.errors import DeadlockError
from emulation.ops import END, Edge, Pool


def explain(ops: Sequence[Op], takes: Sequence[Take], lanes: Sequence[LaneState], free: Sequence[int],
            pools: Sequence[Pool], watched: Collection[int], describe: Describe) -> DeadlockError:
    """Follow who waits for whom from the first operation that cannot go on, until it closes or ends."""
    at = min((serial for serial in watched if ops[serial].end_ps == UNSET), default=None)
    if at is None:
        at = next(op.serial for op in ops if op.end_ps == UNSET)
    story, seen = [], {at}
    while True:
        reason, blocker = _blocked_by(ops[at], ops, takes, lanes, free, pools, describe)
        story.append(f"{describe(at)} waits for {reason}")
        if blocker is None or blocker in seen:
            break
        seen.add(blocker)
        at = blocker
    return DeadlockError("nothing is in flight and nothing can start: " + "; ".join(story))


def _blocked_by(op: Op, ops: Sequence[Op], takes: Sequence[Take], lanes: Sequence[LaneState],
                free: Sequence[int], pools: Sequence[Pool], describe: Describe) -> tuple[str, int | None]:
    for edge in op.waits:
        if not _happened(ops, edge):
            return f"the {_edge_name(edge)} of {describe(edge.op)}", edge.op
    for lane, _ in op.holds:
        state = lanes[lane]
        if state.lane.in_order and state.queue[0] != op.serial:
            return f"its turn in lane {state.lane.name!r}, whose head is {describe(state.queue[0])}", state.queue[0]
    for k, (_, pool, needs, _) in enumerate(op.takes):
        needs += sum(amount for _, other, _, amount in op.takes[:k] if other == pool)
        if free[pool] < needs:
            holders = [take for take in takes if take.pool == pool and take.taken and not take.given and take.amount]
            lack = f"{needs} free of pool {pools[pool].name!r} ({free[pool]} of {pools[pool].capacity} are free"
            if not holders:
                return f"{lack}, and no operation holds the rest)", None
            held = f"{lack}; held by " + ", ".join(dict.fromkeys(describe(take.op) for take in holders[:4]))
            for take in holders:
                for edge in take.release.edges if take.release else ():
                    if not _happened(ops, edge):
                        return f"{held}, until the {_edge_name(edge)} of {describe(edge.op)})", edge.op
            return f"{held}, which no plan releases)", None
    return "nothing (an error of the engine: please report it)", None


def _happened(ops: Sequence[Op], edge: Edge) -> bool:
    op = ops[edge.op]
    return (op.end_ps if edge.edge == END else op.start_ps) != UNSET


def _edge_name(edge: Edge) -> str:
    return "end" if edge.edge == END else "start"
