"""Forgetting ended operations: the rows that are left move to the front and are renumbered."""

from emulation.engine import compiled_layout as c
from emulation.engine.compiled_layout import NONE, Ints, inner, kernel


@kernel("int64(int64[::1], int64[:,::1], int64)")
def ended_prefix(s: Ints, ops: Ints, op: int) -> int:
    """How many operations, from the oldest on, have ended, if the oldest `op` have."""
    while op < s[c.OPS] and ops[op, c.END_PS] != NONE:
        op += 1
    return op


@inner
def shift(rows: Ints, n: int, gone: int, to: int) -> int:
    """Move rows `gone` to n down to `to`; how many rows there are then."""
    for row in range(gone, n):
        rows[to + row - gone] = rows[row]
    return to + n - gone


@inner
def lower(rows: Ints, row: int, column: int, by: int) -> None:
    if rows[row, column] != NONE:
        rows[row, column] -= by


@kernel("void(int64[::1], int64[:,::1], int64[:,::1], int64[:,::1], int64[:,::1], int64[:,::1], int64[:,::1], "
        "int64[:,::1], int64[:,::1], int64[:,::1], int64)")
def compact(s: Ints, ops: Ints, holds: Ints, nodes: Ints, takes: Ints, releases: Ints, lanes: Ints, pools: Ints,
            events: Ints, lists: Ints, gone: int) -> None:
    """Forget the oldest `gone` operations, their holds and waits, takes given back and releases done."""
    left = s[c.OPS] - gone
    holds_gone, takes_gone, nodes_gone = s[c.HOLDS], s[c.TAKES], s[c.NODES]
    if left > 0:
        holds_gone, takes_gone, nodes_gone = ops[gone, c.HOLD], ops[gone, c.TAKE], ops[gone, c.NODE]
    releases_gone = 0
    while releases_gone < s[c.RELEASES] and releases[releases_gone, c.PENDING] == 0:
        releases_gone += 1
    if releases_gone < s[c.RELEASES]:
        nodes_gone = min(nodes_gone, releases[releases_gone, c.RELEASE_NODE])

    kept = 0
    for row in range(takes_gone):
        if not takes[row, c.GIVEN]:
            takes[kept] = takes[row]
            kept += 1
    s[c.TAKE_FIRST] += takes_gone - s[c.TAKES_OLD]
    s[c.TAKES_OLD] = kept
    s[c.TAKES] = shift(takes, s[c.TAKES], takes_gone, kept)
    s[c.FIRST] += gone
    s[c.OPS] = shift(ops, s[c.OPS], gone, 0)
    s[c.HOLDS] = shift(holds, s[c.HOLDS], holds_gone, 0)
    s[c.NODES] = shift(nodes, s[c.NODES], nodes_gone, 0)
    s[c.RELEASES] = shift(releases, s[c.RELEASES], releases_gone, 0)

    for op in range(left):
        ops[op, c.HOLD] -= holds_gone
        ops[op, c.TAKE] -= takes_gone - kept
        ops[op, c.NODE] -= nodes_gone
        lower(ops, op, c.CHILD, gone)
        lower(ops, op, c.SIBLING, gone)
        lower(ops, op, c.ON_START, nodes_gone)
        lower(ops, op, c.ON_END, nodes_gone)
    for row in range(s[c.HOLDS]):
        lower(holds, row, c.TURN, gone)
        lower(holds, row, c.PEER, gone)
    for node in range(s[c.NODES]):
        lower(nodes, node, c.NEXT, nodes_gone)
        if nodes[node, c.WAITER] >= 0:
            nodes[node, c.WAITER] -= gone
        else:
            nodes[node, c.WAITER] += releases_gone
    for release in range(s[c.RELEASES]):
        releases[release, c.RELEASE_NODE] -= nodes_gone
    for lane in range(len(lanes)):
        for column in (c.QUEUE, c.SHADOW, c.STOPPABLE, c.HEAD):
            lower(lanes, lane, column, gone)
        lanes[lane, c.TAIL] -= holds_gone
    for pool in range(len(pools)):
        lower(pools, pool, c.POOL_QUEUE, gone)
    for k in range(s[c.EVENTS]):
        events[k, c.WHO] -= gone
        if 0 <= events[k, c.WHAT] < c.LAST:
            events[k, c.WHAT] -= holds_gone
    for k in range(s[c.FRESH_N]):
        lists[c.FRESH, k] -= gone
    for k in range(s[c.CLAIM_N]):
        lists[c.CLAIMERS, k] -= gone
