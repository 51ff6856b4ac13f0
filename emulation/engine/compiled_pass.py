"""A pass of the compiled engine: who of the candidates starts now.

A blocked candidate lies in one place and is looked at again only when that place changes: in the queue of a lane
that is full of work it cannot stop or is claimed against it, in the queue of a pool that lacks what it needs, or out
of turn in an in-order lane. One that waits for others to make way is a claimer, looked at in every pass, unless an
earlier claimer does all that it would do: then it lies in the shadow of their lane.
"""

from emulation.engine import compiled_layout as c
from emulation.engine.compiled_heaps import (
    before,
    dequeue,
    drop_candidate,
    enqueue,
    meld,
    push_candidate,
    sift_candidate,
)
from emulation.engine.compiled_layout import NONE
from emulation.engine.compiled_moves import advance_turns, claim, make_way, row_of, shades, start
from emulation.engine.compiled_table import Ints, inner


@inner
def parks_at_once(ops: Ints, states: Ints, holds: Ints, lanes: Ints, op: int) -> bool:
    """Whether no order of the pass could let it go; then it lies where it waits."""
    first = ops[op, c.HOLD]
    for row in range(first, first + (ops[op, c.META] & c.COUNT)):
        lane = holds[row, c.LANE]
        if holds[row, c.HOLD_PS] == c.GONE:
            continue
        if lanes[lane, c.IN_ORDER] and lanes[lane, c.HEAD] != op:
            states[op] = c.OUT_OF_TURN
            return True
        if lanes[lane, c.HELD] == lanes[lane, c.SERVERS] and lanes[lane, c.STOPPABLE] == NONE:
            lanes[lane, c.QUEUE] = enqueue(ops, lanes[lane, c.QUEUE], op)
            return True
    return False


@inner
def first_of(ops: Ints, holds: Ints, lanes: Ints, lane: int) -> int:
    """The first in a lane's queue that no other lane holds up whatever this pass does; those before it move there."""
    root = lanes[lane, c.QUEUE]
    while root != NONE and ops[root, c.META] & c.COUNT > 1:
        first, other = ops[root, c.HOLD], NONE
        for row in range(first, first + (ops[root, c.META] & c.COUNT)):
            at = holds[row, c.LANE]
            if lanes[at, c.HELD] == lanes[at, c.SERVERS] and at != lane and lanes[at, c.STOPPABLE] == NONE and (
                    holds[row, c.HOLD_PS] != c.GONE):
                other = at
                break
        if other == NONE:
            break
        rest = dequeue(ops, root)
        lanes[other, c.QUEUE] = enqueue(ops, lanes[other, c.QUEUE], root)
        root = rest
    lanes[lane, c.QUEUE] = root
    return int(root)


@inner
def gather(s: Ints, ops: Ints, states: Ints, holds: Ints, lanes: Ints, pools: Ints, heap: Ints, lists: Ints) -> int:
    """Those to look at: claimers, the newly ready, and the first in each queue whose lane or pool changed."""
    n = 0
    for k in range(s[c.CLAIM_N]):
        push_candidate(heap, n, ops, lists[k, c.CLAIMERS], c.FROM_CLAIMERS)
        n += 1
    s[c.CLAIM_N] = 0
    for k in range(s[c.FRESH_N]):
        op = lists[k, c.FRESH]
        if not parks_at_once(ops, states, holds, lanes, op):
            push_candidate(heap, n, ops, op, c.FROM_FRESH)
            n += 1
    s[c.FRESH_N] = 0
    for k in range(s[c.ACTIVE_N]):
        lane = lists[k, c.ACTIVES]
        if lane < 0:
            pool = ~lane
            pools[pool, c.POOL_ACTIVE] = 0
            pools[pool, c.POOL_OPEN] = 1
            push_candidate(heap, n, ops, pools[pool, c.POOL_QUEUE], 2 * s[c.N_LANES] + pool)
            n += 1
            continue
        lanes[lane, c.ACTIVE] = 0
        root = first_of(ops, holds, lanes, lane)
        if root != NONE:
            lanes[lane, c.QUEUE_OPEN] = 1
            push_candidate(heap, n, ops, root, lane)
            n += 1
        if lanes[lane, c.SHADOW] != NONE:
            lanes[lane, c.SHADOW_OPEN] = 1
            push_candidate(heap, n, ops, lanes[lane, c.SHADOW], s[c.N_LANES] + lane)
            n += 1
    s[c.ACTIVE_N] = 0
    return n


@inner
def blocks(s: Ints, ops: Ints, lanes: Ints, holds: Ints, lane: int, priority: int) -> bool:
    """Whether a lane is claimed against this priority, or full of work that does not make way for it."""
    if lanes[lane, c.CLAIM] == s[c.PASS] and lanes[lane, c.CLAIM_PRIORITY] < priority:
        return True
    if lanes[lane, c.HELD] < lanes[lane, c.SERVERS]:
        return False
    holder = lanes[lane, c.STOPPABLE]
    while holder != NONE and ops[holder, c.PRIORITY] <= priority:
        holder = holds[row_of(ops, holds, holder, lane), c.PEER]
    return bool(holder == NONE)


@inner
def close_pool(ops: Ints, pools: Ints, pool: int) -> None:
    pools[pool, c.POOL_OPEN] = 0
    pools[pool, c.POOL_QUEUE] = meld(ops, pools[pool, c.POOL_QUEUE], pools[pool, c.ASIDE])
    pools[pool, c.ASIDE] = NONE
    pools[pool, c.LEAST] = min(pools[pool, c.LEAST], pools[pool, c.ASIDE_LEAST])
    pools[pool, c.ASIDE_LEAST] = c.FAR


@inner
def leaves_queue(s: Ints, ops: Ints, holds: Ints, lanes: Ints, pools: Ints, op: int, origin: int) -> bool:
    """Take the first of a queue out of it, or close the queue for this pass: what blocks it blocks all after it."""
    n_lanes = s[c.N_LANES]
    if origin >= 2 * n_lanes:
        pool = origin - 2 * n_lanes
        if pools[pool, c.FREE] < pools[pool, c.LEAST]:
            close_pool(ops, pools, pool)
            return False
        pools[pool, c.POOL_QUEUE] = dequeue(ops, op)
    elif origin >= n_lanes:
        lane = origin - n_lanes
        if shades(s, ops, lanes, lane, op) or blocks(s, ops, lanes, holds, lane, ops[op, c.PRIORITY]):
            lanes[lane, c.SHADOW_OPEN] = 0
            return False
        lanes[lane, c.SHADOW] = dequeue(ops, op)
    else:
        if blocks(s, ops, lanes, holds, origin, ops[op, c.PRIORITY]):
            lanes[origin, c.QUEUE_OPEN] = 0
            return False
        lanes[origin, c.QUEUE] = dequeue(ops, op)
    return True


@inner
def next_of(s: Ints, ops: Ints, holds: Ints, lanes: Ints, pools: Ints, origin: int) -> int:
    """Who comes up next of a queue; NONE where the queue is closed for this pass."""
    n_lanes = s[c.N_LANES]
    if origin < n_lanes:
        if lanes[origin, c.HELD] == lanes[origin, c.SERVERS] and lanes[origin, c.STOPPABLE] == NONE:
            lanes[origin, c.QUEUE_OPEN] = 0
            return NONE
        root = first_of(ops, holds, lanes, origin)
        if root == NONE:
            lanes[origin, c.QUEUE_OPEN] = 0
    elif origin < 2 * n_lanes:
        root = lanes[origin - n_lanes, c.SHADOW]
        if root == NONE:
            lanes[origin - n_lanes, c.SHADOW_OPEN] = 0
    else:
        pool = origin - 2 * n_lanes
        root = pools[pool, c.POOL_QUEUE]
        if root == NONE:
            pools[pool, c.LEAST] = c.FAR
        if root == NONE or pools[pool, c.FREE] < pools[pool, c.LEAST]:
            close_pool(ops, pools, pool)
            return NONE
    return int(root)


@inner
def open_lane(s: Ints, ops: Ints, lanes: Ints, heap: Ints, lists: Ints, n: int, lane: int, op: int) -> int:
    """A lane changed with `op`: those it blocked come up now if they are after `op`, else in the next pass."""
    for kind in range(2):
        queue, is_open = (c.QUEUE, c.QUEUE_OPEN) if kind == 0 else (c.SHADOW, c.SHADOW_OPEN)
        root = lanes[lane, queue]
        while root != NONE and before(ops, root, op):
            lists[s[c.FRESH_N], c.FRESH] = root
            s[c.FRESH_N] += 1
            root = dequeue(ops, root)
        lanes[lane, queue] = root
        if root != NONE and not lanes[lane, is_open]:
            lanes[lane, is_open] = 1
            push_candidate(heap, n, ops, root, kind * s[c.N_LANES] + lane)
            n += 1
    return n


@inner
def look(s: Ints, ops: Ints, states: Ints, holds: Ints, takes: Ints, lanes: Ints, pools: Ints, op: int,
         origin: int) -> int:
    """How many of its lanes are full of work that would make way; NONE if it is blocked, and lies where it waits."""
    first, meta, priority = ops[op, c.HOLD], ops[op, c.META], ops[op, c.PRIORITY]
    full = 0
    for row in range(first, first + (meta & c.COUNT)):
        lane = holds[row, c.LANE]
        if holds[row, c.HOLD_PS] == c.GONE:
            continue
        if lanes[lane, c.IN_ORDER] and lanes[lane, c.HEAD] != op:
            states[op] = c.OUT_OF_TURN
            return NONE
        if lane != origin and blocks(s, ops, lanes, holds, lane, priority):
            lanes[lane, c.QUEUE] = enqueue(ops, lanes[lane, c.QUEUE], op)
            return NONE
        if lanes[lane, c.HELD] == lanes[lane, c.SERVERS]:
            full += 1
    if meta >> c.TAKE_SHIFT & c.COUNT and ops[op, c.START_PS] == NONE:
        first_take = ops[op, c.TAKE]
        for row in range(first_take, first_take + (meta >> c.TAKE_SHIFT & c.COUNT)):
            pool = takes[row, c.POOL]
            needs = takes[row, c.NEEDS]
            for other in range(first_take, row):
                if takes[other, c.POOL] == pool:
                    needs += takes[other, c.AMOUNT]
            if pools[pool, c.FREE] < needs:
                if pools[pool, c.POOL_OPEN]:
                    pools[pool, c.ASIDE] = enqueue(ops, pools[pool, c.ASIDE], op)
                    pools[pool, c.ASIDE_LEAST] = min(pools[pool, c.ASIDE_LEAST], needs)
                else:
                    pools[pool, c.POOL_QUEUE] = enqueue(ops, pools[pool, c.POOL_QUEUE], op)
                    pools[pool, c.LEAST] = min(pools[pool, c.LEAST], needs)
                return NONE
    if full > 0 and meta & c.COUNT == 1 and shades(s, ops, lanes, holds[first, c.LANE], op):
        lanes[holds[first, c.LANE], c.SHADOW] = enqueue(ops, lanes[holds[first, c.LANE], c.SHADOW], op)
        return NONE
    return full


@inner
def start_ready(s: Ints, ops: Ints, states: Ints, holds: Ints, nodes: Ints, takes: Ints, releases: Ints, lanes: Ints,
                pools: Ints, log: Ints, events: Ints, heap: Ints, lists: Ints) -> bool:
    """One pass; whether anything started or stopped."""
    s[c.PASS] += 1
    s[c.ALARM] = c.FAR
    n = gather(s, ops, states, holds, lanes, pools, heap, lists)
    changed = False
    while n > 0:
        op, origin = heap[0, c.BY_ROW], heap[0, c.ORIGIN]
        if origin >= 0 and not leaves_queue(s, ops, holds, lanes, pools, op, origin):
            drop_candidate(heap, n)
            n -= 1
            continue
        full = look(s, ops, states, holds, takes, lanes, pools, op, origin)
        claims = False
        if full > 0:
            stopped = make_way(s, ops, holds, lanes, log, events, lists, op)
            if stopped > 0:
                changed = True
                for k in range(s[c.ACTIVE_N]):
                    lanes[lists[k, c.ACTIVES], c.ACTIVE] = 0
                    n = open_lane(s, ops, lanes, heap, lists, n, lists[k, c.ACTIVES], op)
                s[c.ACTIVE_N] = 0
            if stopped == NONE:
                lists[s[c.CLAIM_N], c.CLAIMERS] = op
                s[c.CLAIM_N] += 1
            else:
                full = claim(s, ops, holds, lanes, lists, op)
                claims = full > 0
        if full == 0:
            start(s, ops, states, holds, nodes, takes, releases, lanes, pools, events, lists, op)
            n = advance_turns(s, ops, states, holds, lanes, heap, lists, n, op)
            changed = True
        if origin == c.FROM_CLAIMERS and not claims:
            first = ops[op, c.HOLD]
            for row in range(first, first + (ops[op, c.META] & c.COUNT)):
                n = open_lane(s, ops, lanes, heap, lists, n, holds[row, c.LANE], op)
        root = next_of(s, ops, holds, lanes, pools, origin) if origin >= 0 else NONE
        if root != NONE:
            sift_candidate(heap, n, ops[root, c.PRIORITY], ops[root, c.READY], root, origin)
        else:
            drop_candidate(heap, n)
            n -= 1
    return changed
