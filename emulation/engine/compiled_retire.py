"""Forgetting ended operations: the rows that are left move to the front and are renumbered."""

from emulation.engine import compiled_layout as c
from emulation.engine.compiled_layout import NONE
from emulation.engine.compiled_moves import next_of_node, node_of, waiter_of
from emulation.engine.compiled_table import (
    Ints,
    as_column,
    as_events,
    as_holds,
    as_lanes,
    as_lists,
    as_ops,
    as_pools,
    as_releases,
    as_takes,
    inner,
    kernel,
)


@kernel("int64(int64[::1], int64[:,::1], int64)")
def ended_prefix(scalars: Ints, op_rows: Ints, op: int) -> int:
    """How many operations, from the oldest on, have ended, if the oldest `op` have."""
    s, ops = as_column(scalars), as_ops(op_rows)
    while op < s[c.OPS] and ops[op, c.END_PS] != NONE:
        op += 1
    return op


@inner
def shift(rows: Ints, columns: int, n: int, gone: int, to: int) -> int:
    """Move rows `gone` to n down to `to`; how many rows there are then."""
    for row in range(gone, n):
        for column in range(columns):
            rows[to + row - gone, column] = rows[row, column]
    return to + n - gone


@inner
def lower(rows: Ints, row: int, column: int, by: int) -> None:
    if rows[row, column] != NONE:
        rows[row, column] -= by


@kernel("void(int64[::1], int64[:,::1], int64[::1], int64[:,::1], int64[::1], "
        + ", ".join(["int64[:,::1]"] * 6) + ", int64)")
def compact(scalars: Ints, op_rows: Ints, state_rows: Ints, hold_rows: Ints, node_rows: Ints, take_rows: Ints,
            release_rows: Ints, lane_rows: Ints, pool_rows: Ints, event_rows: Ints, list_rows: Ints, gone: int) -> None:
    """Forget the oldest `gone` operations, their holds and waits, takes given back and releases done."""
    s, ops, holds = as_column(scalars), as_ops(op_rows), as_holds(hold_rows)
    states = as_column(state_rows)
    nodes, takes = as_column(node_rows), as_takes(take_rows)
    releases, lanes = as_releases(release_rows), as_lanes(lane_rows)
    pools, events = as_pools(pool_rows), as_events(event_rows)
    lists = as_lists(list_rows)
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
            for column in range(c.TAKE_COLUMNS):
                takes[kept, column] = takes[row, column]
            kept += 1
    s[c.TAKE_FIRST] += takes_gone - s[c.TAKES_OLD]
    s[c.TAKES_OLD] = kept
    s[c.TAKES] = shift(takes, c.TAKE_COLUMNS, s[c.TAKES], takes_gone, kept)
    s[c.FIRST] += gone
    s[c.OPS] = shift(ops, c.OP_COLUMNS, s[c.OPS], gone, 0)
    s[c.HOLDS] = shift(holds, c.HOLD_COLUMNS, s[c.HOLDS], holds_gone, 0)
    for node in range(nodes_gone, s[c.NODES]):
        link, waiter = next_of_node(nodes[node]), waiter_of(nodes[node])
        nodes[node - nodes_gone] = node_of(link - nodes_gone if link != NONE else NONE,
                                           waiter - gone if waiter >= 0 else waiter + releases_gone)
    s[c.NODES] -= nodes_gone
    s[c.RELEASES] = shift(releases, c.RELEASE_COLUMNS, s[c.RELEASES], releases_gone, 0)

    for op in range(left):
        states[op] = states[gone + op]
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
    for release in range(s[c.RELEASES]):
        releases[release, c.RELEASE_NODE] -= nodes_gone
    for lane in range(s[c.N_LANES]):
        for column in (c.QUEUE, c.SHADOW, c.STOPPABLE, c.HEAD):
            lower(lanes, lane, column, gone)
        lanes[lane, c.TAIL] -= holds_gone
    for pool in range(s[c.N_POOLS]):
        lower(pools, pool, c.POOL_QUEUE, gone)
    for k in range(s[c.EVENTS]):
        events[k, c.WHO] -= gone
        if 0 <= events[k, c.WHAT] < c.LAST:
            events[k, c.WHAT] -= holds_gone
    for k in range(s[c.FRESH_N]):
        lists[k, c.FRESH] -= gone
    for k in range(s[c.CLAIM_N]):
        lists[k, c.CLAIMERS] -= gone
