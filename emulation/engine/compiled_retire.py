"""Forgetting ended operations: the rows that are left move to the front and are renumbered."""

from emulation.engine import compiled_layout as c
from emulation.engine.compiled_layout import NONE, Tables
from emulation.engine.compiled_rows import hold_of, link_of, node_of, take_of, waiter_of
from emulation.engine.compiled_table import Ints, as_column, inner, kernel, tables


@kernel("int64(int64[::1], int64[::1], int64)")
def ended_prefix(scalars: Ints, memory: Ints, op: int) -> int:
    """How many operations, from the oldest on, have ended, if the oldest `op` have."""
    s = as_column(scalars)
    t = tables(s, memory)
    while op < s[c.OPS] and t.ends[op] != NONE:
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


@inner
def lowered(link: int, nodes: int, ops: int, releases: int) -> int:
    """A link when so many nodes, operations and releases are forgotten."""
    if link == 0:
        return 0
    waiter = waiter_of(link)
    return link_of(node_of(link) - nodes, link & c.LAST_LINK, waiter - ops if waiter >= 0 else waiter + releases)


@inner
def move_takes(s: Ints, t: Tables, gone: int) -> int:
    """Of the oldest `gone` takes those not given back stay, at the front; how many."""
    kept = 0
    for row in range(gone):
        if not t.takes[row, c.GIVEN]:
            for column in range(c.TAKE_COLUMNS):
                t.takes[kept, column] = t.takes[row, column]
            kept += 1
    s[c.TAKE_FIRST] += gone - s[c.TAKES_OLD]
    s[c.TAKES_OLD] = kept
    s[c.TAKES] = shift(t.takes, c.TAKE_COLUMNS, s[c.TAKES], gone, kept)
    return kept


@inner
def move_nodes(s: Ints, t: Tables, gone: int, ops_gone: int, releases_gone: int) -> None:
    for node in range(gone, s[c.NODES]):
        t.nodes[node - gone] = lowered(t.nodes[node], gone, ops_gone, releases_gone)
    s[c.NODES] -= gone


@kernel("void(int64[::1], int64[::1], int64)")
def compact(scalars: Ints, memory: Ints, gone: int) -> None:
    """Forget the oldest `gone` operations, their holds and waits, takes given back and releases done."""
    s = as_column(scalars)
    t = tables(s, memory)
    left = s[c.OPS] - gone
    holds_gone, takes_gone, nodes_gone = s[c.HOLDS], s[c.TAKES], s[c.NODES]
    if left > 0:
        holds_gone, takes_gone, nodes_gone = hold_of(t, gone), take_of(t, gone), t.firsts[gone] & c.LOW_HALF
    releases_gone = 0
    while releases_gone < s[c.RELEASES] and t.releases[releases_gone, c.PENDING] == 0:
        releases_gone += 1
    if releases_gone < s[c.RELEASES]:
        nodes_gone = min(nodes_gone, t.releases[releases_gone, c.RELEASE_NODE])
    kept = move_takes(s, t, takes_gone)
    move_nodes(s, t, nodes_gone, gone, releases_gone)
    s[c.FIRST] += gone
    shift(t.more, c.MORE_COLUMNS, s[c.OPS], gone, 0)
    s[c.OPS] = shift(t.ops, c.OP_COLUMNS, s[c.OPS], gone, 0)
    shift(t.turns, c.HOLD_COLUMNS, s[c.HOLDS], holds_gone, 0)
    s[c.HOLDS] = shift(t.holds, c.HOLD_COLUMNS, s[c.HOLDS], holds_gone, 0)
    s[c.RELEASES] = shift(t.releases, c.RELEASE_COLUMNS, s[c.RELEASES], releases_gone, 0)
    for op in range(left):
        t.states[op], t.starts[op], t.ends[op] = t.states[gone + op], t.starts[gone + op], t.ends[gone + op]
        t.ops[op, c.WHERE] -= holds_gone
        t.firsts[op] = t.firsts[gone + op] - ((takes_gone - kept) << c.HALF_SHIFT) - nodes_gone
        lower(t.ops, op, c.CHILD, gone)
        lower(t.ops, op, c.SIBLING, gone)
        t.ops[op, c.ON_END] = lowered(t.ops[op, c.ON_END], nodes_gone, gone, releases_gone)
        if t.ops[op, c.META] & c.AWAITED:
            t.more[op, c.ON_START] = lowered(t.more[op, c.ON_START], nodes_gone, gone, releases_gone)
    for row in range(s[c.HOLDS]):
        lower(t.turns, row, c.TURN, gone)
        lower(t.turns, row, c.PEER, gone)
    for release in range(s[c.RELEASES]):
        t.releases[release, c.RELEASE_NODE] -= nodes_gone
    for lane in range(s[c.N_LANES]):
        for column in (c.SHADOW, c.STOPPABLE, c.HEAD):
            lower(t.lanes, lane, column, gone)
        t.lanes[lane, c.TAIL] -= holds_gone
    for lanes in range(s[c.SETS_N]):
        lower(t.sets, lanes, c.QUEUE, gone)
    for pool in range(s[c.N_POOLS]):
        lower(t.pools, pool, c.POOL_QUEUE, gone)
    for k in range(s[c.EVENTS]):
        t.events[k, c.WHAT] -= gone << c.WHO_SHIFT
    for k in range(s[c.FRESH_N]):
        t.lists[k, c.FRESH] -= gone
    for k in range(s[c.CLAIM_N]):
        t.lists[k, c.CLAIMERS] -= gone
