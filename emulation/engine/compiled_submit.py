"""Columns of a plan into the compiled engine's rows: checked first, then linked to what they wait for."""

import numpy as np

from emulation.engine import compiled_layout as c
from emulation.engine.compiled_layout import NONE, Tables
from emulation.engine.compiled_moves import become_ready
from emulation.engine.compiled_rows import hold_of, link_of, take_row
from emulation.engine.compiled_sets import set_of_holds
from emulation.engine.compiled_table import Ints, as_column, inner, kernel, seldom, tables
from emulation.engine.play import Columns
from emulation.ops import HIGHEST


@inner
def copy_holds(s: Ints, t: Tables, first: int, count: int, length_ps: int, at: int, hold_lane: Ints,
               hold_ps: Ints) -> int:
    """In order of lane; flags of the operation, or NONE where they are refused."""
    flags = c.WHOLE
    for k in range(count):
        lane, held_ps = hold_lane[at + k], hold_ps[at + k]
        if lane < 0 or lane >= s[c.N_LANES] or held_ps < 0 or held_ps > length_ps:
            return NONE
        if held_ps != length_ps:
            flags &= ~c.WHOLE
        if t.lanes[lane, c.IN_ORDER]:
            flags |= c.TURNS
        row = first + k
        while row > first and t.holds[row - 1, c.LANE] > lane:
            t.holds[row, c.LANE], t.holds[row, c.HOLD_PS] = t.holds[row - 1, c.LANE], t.holds[row - 1, c.HOLD_PS]
            row -= 1
        if row > first and t.holds[row - 1, c.LANE] == lane:
            return NONE
        t.holds[row, c.LANE], t.holds[row, c.HOLD_PS] = lane, held_ps
    return flags


@inner
def copy_ops(s: Ints, t: Tables, n: int, priority: Ints, quantum_ps: Ints, length_ps: Ints, hold_ptr: Ints,
             hold_lane: Ints, hold_ps: Ints, wait_ptr: Ints, take_ptr: Ints) -> int:
    """Rows past those in use."""
    for i in range(n):
        op = s[c.OPS] + i
        count = hold_ptr[i + 1] - hold_ptr[i]
        count_takes = take_ptr[i + 1] - take_ptr[i]
        if max(count, count_takes) > c.COUNT:
            return c.TOO_WIDE
        if abs(priority[i]) > HIGHEST or length_ps[i] < 0 or quantum_ps[i] < 0:
            return c.REFUSED
        first = s[c.HOLDS] + hold_ptr[i]
        flags = copy_holds(s, t, first, count, length_ps[i], hold_ptr[i], hold_lane, hold_ps)
        if flags == NONE:
            return c.REFUSED
        lanes = set_of_holds(s, t, first, count)
        if lanes == NONE:
            return c.SETS_FULL
        if quantum_ps[i]:
            flags |= c.STOPS
            t.more[op, c.QUANTUM] = quantum_ps[i]
        t.ops[op, c.ORDER] = priority[i] << c.PRIORITY_SHIFT
        t.ops[op, c.WHERE] = lanes << c.HALF_SHIFT | first
        t.ops[op, c.META] = count | count_takes << c.TAKE_SHIFT | flags
        t.ops[op, c.REST] = length_ps[i]
        t.ops[op, c.ON_END] = 0
        t.starts[op] = t.ends[op] = NONE
        t.firsts[op] = (s[c.TAKES] + take_ptr[i]) << c.HALF_SHIFT | (s[c.NODES] + wait_ptr[i])
    return c.ACCEPTED


@inner
def copy_takes(s: Ints, t: Tables, n: int, take_ptr: Ints, take_pool: Ints, take_needs: Ints,
               take_amount: Ints) -> bool:
    for i in range(n):
        for k in range(take_ptr[i], take_ptr[i + 1]):
            pool, needs, amount = take_pool[k], take_needs[k], take_amount[k]
            if pool < 0 or pool >= s[c.N_POOLS]:
                return False
            most = t.pools[pool, c.CAPACITY]
            for other in range(take_ptr[i], k):
                if take_pool[other] == pool:
                    most -= take_amount[other]
            if amount < 0 or amount > needs or needs > most:
                return False
            row = s[c.TAKES] + k
            t.takes[row, c.POOL], t.takes[row, c.NEEDS], t.takes[row, c.AMOUNT] = pool, needs, amount
            t.takes[row, c.TAKER] = s[c.FIRST] + s[c.OPS] + i
            t.takes[row, c.TAKEN] = t.takes[row, c.PROMISED] = t.takes[row, c.GIVEN] = 0
            t.takes[row, c.HANDLE] = s[c.TAKE_FIRST] + row - s[c.TAKES_OLD]
    return True


@inner
def are_known(edges: int, end: int, op: Ints, edge: Ints) -> bool:
    known = True
    for k in range(edges):
        known &= 0 <= op[k] < end and 0 <= edge[k] <= 1
    return known


@inner
def is_acyclic(s: Ints, lanes: Ints, n: int, hold_ptr: Ints, hold_lane: Ints, wait_ptr: Ints, wait_op: Ints) -> bool:
    """An operation goes after those it waits for, and after the one before it in each in-order lane.

    Whichever edge is waited for, its operation must start first: one node for each operation is enough.
    """
    first = s[c.FIRST] + s[c.OPS]
    forward = False
    for i in range(n):
        for k in range(wait_ptr[i], wait_ptr[i + 1]):
            forward |= wait_op[k] >= first + i
    if not forward:
        return True
    before_it = np.zeros(n, np.int64)
    after_it = np.full(n, -1, np.int64)
    following = np.empty(wait_ptr[n] + hold_ptr[n], np.int64)
    who = np.empty(wait_ptr[n] + hold_ptr[n], np.int64)
    last = np.full(s[c.N_LANES], -1, np.int64)
    edges = 0
    for i in range(n):
        for k in range(wait_ptr[i], wait_ptr[i + 1] + hold_ptr[i + 1] - hold_ptr[i]):
            if k < wait_ptr[i + 1]:
                other = wait_op[k] - first
            else:
                lane = hold_lane[hold_ptr[i] + k - wait_ptr[i + 1]]
                other = last[lane] if lanes[lane, c.IN_ORDER] else -1
                last[lane] = i
            if other >= 0:
                following[edges], who[edges] = after_it[other], i
                after_it[other] = edges
                before_it[i] += 1
                edges += 1
    stack = np.empty(n, np.int64)
    top = 0
    for i in range(n):
        if before_it[i] == 0:
            stack[top] = i
            top += 1
    seen = 0
    while top > 0:
        top -= 1
        seen += 1
        edge = after_it[stack[top]]
        while edge >= 0:
            before_it[who[edge]] -= 1
            if before_it[who[edge]] == 0:
                stack[top] = who[edge]
                top += 1
            edge = following[edge]
    return bool(seen == n)


@inner
def promise(s: Ints, takes: Ints, handles: Ints, count: int, rows: int) -> bool:
    """Each take is released once; one that was forgotten has been."""
    for k in range(count):
        row = take_row(s, takes, handles[k]) if handles[k] >= 0 else NONE
        if row == NONE or row >= rows or takes[row, c.PROMISED]:
            for done in range(k):
                takes[take_row(s, takes, handles[done]), c.PROMISED] = 0
            return False
        takes[row, c.PROMISED] = 1
    return True


@inner
def linked(t: Tables, node: int, waiter: int, link: int) -> int:
    """The link of a new waiter before another link, which moves to a node."""
    t.nodes[node] = link
    return link_of(node, 0 if link else c.LAST_LINK, waiter)


@inner
def wait_for(s: Ints, t: Tables, serial: int, edge: int, waiter: int, node: int) -> int:
    """1 if the edge is still to happen, and the waiter is in its list; else 0."""
    op = serial - s[c.FIRST]
    if op < 0 or t.ops[op, c.META] & (c.ENDED if edge else c.STARTED):
        return 0
    if edge:
        t.ops[op, c.ON_END] = linked(t, node, waiter, t.ops[op, c.ON_END])
    else:
        link = t.more[op, c.ON_START] if t.ops[op, c.META] & c.AWAITED else 0
        t.ops[op, c.META] |= c.AWAITED
        t.more[op, c.ON_START] = linked(t, node, waiter, link)
    return 1


@inner
def link_release(s: Ints, t: Tables, handle: int, release_op: Ints, release_edge: Ints, low: int, high: int) -> None:
    release = s[c.RELEASES]
    node = s[c.NODES]
    t.releases[release, c.RELEASED], t.releases[release, c.RELEASE_NODE] = handle, node
    pending = wait_for(s, t, t.takes[take_row(s, t.takes, handle), c.TAKER], 0, ~release, node + high - low)
    for k in range(low, high):
        pending += wait_for(s, t, release_op[k], release_edge[k], ~release, node + k - low)
    t.releases[release, c.PENDING] = pending
    s[c.RELEASES] += 1
    s[c.NODES] += high - low + 1
    if pending == 0:
        t.lists[s[c.DUE_N], c.DUE] = handle
        s[c.DUE_N] += 1


@inner
def link_lanes(t: Tables, op: int) -> None:
    """The work of a new operation is added to its lanes, and it goes behind the last in those that are in order."""
    first, meta = hold_of(t, op), t.ops[op, c.META]
    for row in range(first, first + (meta & c.COUNT)):
        lane = t.holds[row, c.LANE]
        t.lanes[lane, c.BALANCE] += t.holds[row, c.HOLD_PS]
        if meta & c.TURNS and t.lanes[lane, c.IN_ORDER]:
            t.turns[row, c.TURN] = NONE
            if t.lanes[lane, c.HEAD] == NONE:
                t.lanes[lane, c.HEAD] = op
            else:
                t.turns[t.lanes[lane, c.TAIL], c.TURN] = op
            t.lanes[lane, c.TAIL] = row


@inner
def link_ops(s: Ints, t: Tables, n: int, n_holds: int, n_takes: int, n_waits: int, wait_ptr: Ints, wait_op: Ints,
             wait_edge: Ints) -> None:
    """Rows past those in use come into use."""
    first = s[c.OPS]
    s[c.OPS] += n
    s[c.HOLDS] += n_holds
    s[c.TAKES] += n_takes
    s[c.UNENDED] += n
    for i in range(n):
        link_lanes(t, first + i)
        pending = 0
        for k in range(wait_ptr[i], wait_ptr[i + 1]):
            pending += wait_for(s, t, wait_op[k], wait_edge[k], first + i, s[c.NODES] + k)
        t.states[first + i] = pending
        if pending == 0:
            become_ready(s, t, first + i)
    s[c.NODES] += n_waits


@seldom
def append_ops(s: Ints, t: Tables, n: int, n_holds: int, n_waits: int, n_takes: int, n_releases: int, n_edges: int,
               o: Columns) -> int:
    """ACCEPTED, or something else with nothing changed."""
    end = s[c.FIRST] + s[c.OPS] + n
    outcome = copy_ops(s, t, n, o.priority, o.quantum_ps, o.length_ps, o.hold_ptr, o.hold_lane, o.hold_ps, o.wait_ptr,
                       o.take_ptr)
    if outcome != c.ACCEPTED:
        return outcome
    if not (copy_takes(s, t, n, o.take_ptr, o.take_pool, o.take_needs, o.take_amount)
            and are_known(n_waits, end, o.wait_op, o.wait_edge)
            and are_known(n_edges, end, o.release_op, o.release_edge)
            and is_acyclic(s, t.lanes, n, o.hold_ptr, o.hold_lane, o.wait_ptr, o.wait_op)
            and promise(s, t.takes, o.release_take, n_releases, s[c.TAKES] + n_takes)):
        return c.REFUSED
    link_ops(s, t, n, n_holds, n_takes, n_waits, o.wait_ptr, o.wait_op, o.wait_edge)
    for k in range(n_releases):
        link_release(s, t, o.release_take[k], o.release_op, o.release_edge, o.release_ptr[k], o.release_ptr[k + 1])
    return c.ACCEPTED


@kernel("int64(int64[::1], int64[::1], " + ", ".join(["int64[::1]"] * len(Columns._fields)) + ")")
def append(scalars: Ints, memory: Ints, priority: Ints, quantum_ps: Ints, length_ps: Ints, hold_ptr: Ints,
           hold_lane: Ints, hold_ps: Ints, wait_ptr: Ints, wait_op: Ints, wait_edge: Ints, take_ptr: Ints,
           take_pool: Ints, take_needs: Ints, take_amount: Ints, release_take: Ints, release_ptr: Ints,
           release_op: Ints, release_edge: Ints) -> int:
    """ACCEPTED, or something else with nothing changed. There is room; `check` tells why a plan is refused."""
    s = as_column(scalars)
    columns = Columns(
        as_column(priority), as_column(quantum_ps), as_column(length_ps), as_column(hold_ptr), as_column(hold_lane),
        as_column(hold_ps), as_column(wait_ptr), as_column(wait_op), as_column(wait_edge), as_column(take_ptr),
        as_column(take_pool), as_column(take_needs), as_column(take_amount), as_column(release_take),
        as_column(release_ptr), as_column(release_op), as_column(release_edge))
    return append_ops(s, tables(s, memory), len(priority), len(hold_lane), len(wait_op), len(take_pool),
                      len(release_take), len(release_op), columns)
