"""Columns of a plan into the compiled engine's rows: checked first, then linked to what they wait for."""

import numpy as np

from emulation.engine import compiled_layout as c
from emulation.engine.compiled_layout import NONE
from emulation.engine.compiled_moves import node_of, take_row
from emulation.engine.compiled_table import (
    Ints,
    as_column,
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


@inner
def copy_ops(s: Ints, ops: Ints, holds: Ints, n: int, priority: Ints, quantum_ps: Ints, length_ps: Ints,
             hold_ptr: Ints, hold_lane: Ints, hold_ps: Ints, wait_ptr: Ints, take_ptr: Ints) -> int:
    """Rows past those in use; holds in order of lane."""
    for i in range(n):
        op = s[c.OPS] + i
        count = hold_ptr[i + 1] - hold_ptr[i]
        count_takes = take_ptr[i + 1] - take_ptr[i]
        if max(count, count_takes) > c.COUNT:
            return c.TOO_WIDE
        if length_ps[i] < 0 or quantum_ps[i] < 0:
            return c.REFUSED
        first = s[c.HOLDS] + hold_ptr[i]
        whole = c.WHOLE
        for k in range(count):
            lane, held_ps = hold_lane[hold_ptr[i] + k], hold_ps[hold_ptr[i] + k]
            if lane < 0 or lane >= s[c.N_LANES] or held_ps < 0 or held_ps > length_ps[i]:
                return c.REFUSED
            if held_ps != length_ps[i]:
                whole = 0
            row = first + k
            while row > first and holds[row - 1, c.LANE] > lane:
                holds[row, c.LANE], holds[row, c.HOLD_PS] = holds[row - 1, c.LANE], holds[row - 1, c.HOLD_PS]
                row -= 1
            if row > first and holds[row - 1, c.LANE] == lane:
                return c.REFUSED
            holds[row, c.LANE], holds[row, c.HOLD_PS] = lane, held_ps
            holds[first + k, c.TURN] = NONE
        ops[op, c.PRIORITY], ops[op, c.QUANTUM], ops[op, c.REST] = priority[i], quantum_ps[i], length_ps[i]
        ops[op, c.HOLD] = first
        ops[op, c.TAKE] = s[c.TAKES] + take_ptr[i]
        ops[op, c.META] = count | count_takes << c.TAKE_SHIFT | whole
        ops[op, c.ON_START] = ops[op, c.ON_END] = NONE
        ops[op, c.START_PS] = ops[op, c.END_PS] = ops[op, c.RESUMED] = NONE
        ops[op, c.NODE] = s[c.NODES] + wait_ptr[i]
    return c.ACCEPTED


@inner
def copy_takes(s: Ints, takes: Ints, pools: Ints, n: int, take_ptr: Ints, take_pool: Ints, take_needs: Ints,
               take_amount: Ints) -> bool:
    for i in range(n):
        for k in range(take_ptr[i], take_ptr[i + 1]):
            pool, needs, amount = take_pool[k], take_needs[k], take_amount[k]
            if pool < 0 or pool >= s[c.N_POOLS]:
                return False
            most = pools[pool, c.CAPACITY]
            for other in range(take_ptr[i], k):
                if take_pool[other] == pool:
                    most -= take_amount[other]
            if amount < 0 or amount > needs or needs > most:
                return False
            row = s[c.TAKES] + k
            takes[row, c.POOL], takes[row, c.NEEDS], takes[row, c.AMOUNT] = pool, needs, amount
            takes[row, c.TAKER] = s[c.FIRST] + s[c.OPS] + i
            takes[row, c.TAKEN] = takes[row, c.PROMISED] = takes[row, c.GIVEN] = 0
            takes[row, c.HANDLE] = s[c.TAKE_FIRST] + row - s[c.TAKES_OLD]
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
def wait_for(s: Ints, ops: Ints, nodes: Ints, serial: int, edge: int, waiter: int, node: int) -> int:
    """1 if the edge is still to happen, and the waiter is in its list; else 0."""
    op = serial - s[c.FIRST]
    if op < 0 or ops[op, c.END_PS if edge else c.START_PS] != NONE:
        return 0
    head = c.ON_END if edge else c.ON_START
    nodes[node] = node_of(ops[op, head], waiter)
    ops[op, head] = node
    return 1


@inner
def link_release(s: Ints, ops: Ints, nodes: Ints, takes: Ints, releases: Ints, lists: Ints, handle: int,
                 release_op: Ints, release_edge: Ints, low: int, high: int) -> None:
    release = s[c.RELEASES]
    node = s[c.NODES]
    releases[release, c.RELEASED], releases[release, c.RELEASE_NODE] = handle, node
    pending = wait_for(s, ops, nodes, takes[take_row(s, takes, handle), c.TAKER], 0, ~release, node + high - low)
    for k in range(low, high):
        pending += wait_for(s, ops, nodes, release_op[k], release_edge[k], ~release, node + k - low)
    releases[release, c.PENDING] = pending
    s[c.RELEASES] += 1
    s[c.NODES] += high - low + 1
    if pending == 0:
        lists[s[c.DUE_N], c.DUE] = handle
        s[c.DUE_N] += 1


@inner
def link_ops(s: Ints, ops: Ints, states: Ints, holds: Ints, nodes: Ints, lanes: Ints, lists: Ints, n: int, n_holds: int,
             n_takes: int, n_waits: int, wait_ptr: Ints, wait_op: Ints, wait_edge: Ints) -> None:
    """Rows past those in use come into use."""
    first = s[c.OPS]
    for i in range(first, first + n):
        for row in range(ops[i, c.HOLD], ops[i, c.HOLD] + (ops[i, c.META] & c.COUNT)):
            lane = holds[row, c.LANE]
            lanes[lane, c.LEFT] += holds[row, c.HOLD_PS]
            if lanes[lane, c.IN_ORDER]:
                if lanes[lane, c.HEAD] == NONE:
                    lanes[lane, c.HEAD] = i
                else:
                    holds[lanes[lane, c.TAIL], c.TURN] = i
                lanes[lane, c.TAIL] = row
    s[c.OPS] += n
    s[c.HOLDS] += n_holds
    s[c.TAKES] += n_takes
    s[c.UNENDED] += n
    for i in range(n):
        op = first + i
        pending = 0
        for k in range(wait_ptr[i], wait_ptr[i + 1]):
            pending += wait_for(s, ops, nodes, wait_op[k], wait_edge[k], op, s[c.NODES] + k)
        states[op] = pending
        if pending == 0:
            states[op] = c.CANDIDATE
            ops[op, c.READY] = s[c.NOW]
            lists[s[c.FRESH_N], c.FRESH] = op
            s[c.FRESH_N] += 1
    s[c.NODES] += n_waits


@kernel("int64(int64[::1], int64[:,::1], int64[::1], int64[:,::1], int64[::1], "
        + ", ".join(["int64[:,::1]"] * 5 + ["int64[::1]"] * 17) + ")")
def append(scalars: Ints, op_rows: Ints, state_rows: Ints, hold_rows: Ints, node_rows: Ints, take_rows: Ints,
           release_rows: Ints, lane_rows: Ints, pool_rows: Ints, list_rows: Ints, priority: Ints, quantum_ps: Ints,
           length_ps: Ints, hold_ptr: Ints, hold_lane: Ints, hold_ps: Ints, wait_ptr: Ints, wait_op: Ints,
           wait_edge: Ints, take_ptr: Ints, take_pool: Ints, take_needs: Ints, take_amount: Ints, release_take: Ints,
           release_ptr: Ints, release_op: Ints, release_edge: Ints) -> int:
    """ACCEPTED, or REFUSED with nothing changed. The arrays have room; `check` tells why a plan is refused."""
    s, ops, holds = as_column(scalars), as_ops(op_rows), as_holds(hold_rows)
    states = as_column(state_rows)
    nodes, takes = as_column(node_rows), as_takes(take_rows)
    releases, lanes = as_releases(release_rows), as_lanes(lane_rows)
    pools, lists = as_pools(pool_rows), as_lists(list_rows)
    waits, edges = as_column(wait_ptr), as_column(wait_op)
    n, n_holds, n_waits, n_takes = len(priority), len(hold_lane), len(wait_op), len(take_pool)
    end = s[c.FIRST] + s[c.OPS] + n
    outcome = copy_ops(s, ops, holds, n, as_column(priority), as_column(quantum_ps), as_column(length_ps),
                       as_column(hold_ptr), as_column(hold_lane), as_column(hold_ps), waits, as_column(take_ptr))
    if outcome != c.ACCEPTED:
        return outcome
    if not (copy_takes(s, takes, pools, n, as_column(take_ptr), as_column(take_pool), as_column(take_needs),
                       as_column(take_amount))
            and are_known(n_waits, end, edges, as_column(wait_edge))
            and are_known(len(release_op), end, as_column(release_op), as_column(release_edge))
            and is_acyclic(s, lanes, n, as_column(hold_ptr), as_column(hold_lane), waits, edges)
            and promise(s, takes, as_column(release_take), len(release_take), s[c.TAKES] + n_takes)):
        return c.REFUSED
    link_ops(s, ops, states, holds, nodes, lanes, lists, n, n_holds, n_takes, n_waits, waits, edges,
             as_column(wait_edge))
    for k in range(len(release_take)):
        link_release(s, ops, nodes, takes, releases, lists, release_take[k], as_column(release_op),
                     as_column(release_edge), release_ptr[k], release_ptr[k + 1])
    return c.ACCEPTED
