"""A pass of the compiled engine: who of the candidates starts now."""

from emulation.engine import compiled_layout as c
from emulation.engine.compiled_heaps import drop_candidate, enqueue, push_candidate, sift_candidate
from emulation.engine.compiled_layout import NONE, Tables
from emulation.engine.compiled_moves import advance_turns, claim, make_way, shades, start
from emulation.engine.compiled_queues import blocks, has_packed, leaves_queue, next_of, open_lane, wait_for_lanes
from emulation.engine.compiled_rows import hold_of, is_packed, lane_of, priority_of, set_of, take_of
from emulation.engine.compiled_table import Ints, inner, seldom


@inner
def parks_at_once(s: Ints, t: Tables, op: int) -> bool:
    """Whether no order of the pass could let it go; then it lies where it waits."""
    first, meta = hold_of(t, op), t.ops[op, c.META]
    for k in range(meta & c.COUNT):
        lane = lane_of(t, op, k)
        if meta & c.PARTIAL and t.holds[first + k, c.HOLD_PS] == c.GONE:
            continue
        if meta & c.TURNS and t.lanes[lane, c.IN_ORDER] and t.lanes[lane, c.HEAD] != op:
            t.states[op] = c.OUT_OF_TURN
            return True
        if is_packed(t, lane):
            wait_for_lanes(s, t, op)
            return True
    return False


@inner
def gather(s: Ints, t: Tables) -> int:
    """Those to look at: claimers, the newly ready, and the first in each queue whose lanes or pool changed."""
    n = 0
    for k in range(s[c.CLAIM_N]):
        op = t.lists[k, c.CLAIMERS]
        push_candidate(t.heap, n, t.ops[op, c.ORDER], op, c.FROM_CLAIMERS)
        n += 1
    s[c.CLAIM_N] = 0
    for k in range(s[c.FRESH_N]):
        op = t.lists[k, c.FRESH]
        if not parks_at_once(s, t, op):
            push_candidate(t.heap, n, t.ops[op, c.ORDER], op, c.FROM_FRESH)
            n += 1
    s[c.FRESH_N] = 0
    for k in range(s[c.ACTIVE_N]):
        lane = t.lists[k, c.ACTIVES]
        if lane < 0:
            pool = ~lane
            t.pools[pool, c.POOL_ACTIVE] = 0
            t.pools[pool, c.POOL_OPEN] = 1
            root = t.pools[pool, c.POOL_QUEUE]
            push_candidate(t.heap, n, t.ops[root, c.ORDER], root, c.FROM_POOL + pool)
            n += 1
            continue
        t.lanes[lane, c.ACTIVE] = 0
        root = t.sets[lane, c.QUEUE]
        if root != NONE:
            t.sets[lane, c.QUEUE_OPEN] = 1
            push_candidate(t.heap, n, t.ops[root, c.ORDER], root, lane)
            n += 1
        member = t.lanes[lane, c.SETS]
        while member != lane:
            lanes, other = t.members[member, c.MEMBER_SET], t.members[member, c.OTHER_LANE]
            member = t.members[member, c.NEXT_MEMBER]
            root = t.sets[lanes, c.QUEUE]
            # One branch for both conditions: each alone is as good as random.
            may_go = t.lanes[other, c.IDLE_SERVERS] | (t.lanes[other, c.STOPPABLE] + 1)
            if min(root + 1, may_go) > 0 and not t.sets[lanes, c.QUEUE_OPEN] and (
                    t.sets[lanes, c.WIDTH] == 2 or not has_packed(t, lanes)):
                t.sets[lanes, c.QUEUE_OPEN] = 1
                push_candidate(t.heap, n, t.ops[root, c.ORDER], root, lanes)
                n += 1
        root = t.lanes[lane, c.SHADOW]
        if root != NONE:
            t.lanes[lane, c.SHADOW_OPEN] = 1
            push_candidate(t.heap, n, t.ops[root, c.ORDER], root, c.FROM_SHADOW + lane)
            n += 1
    s[c.ACTIVE_N] = 0
    return n


@seldom
def lacks(t: Tables, op: int, takes: int) -> bool:
    """Whether a pool lacks what `op` needs; then it lies in the queue of that pool."""
    first = take_of(t, op)
    for row in range(first, first + takes):
        pool, needs = t.takes[row, c.POOL], t.takes[row, c.NEEDS]
        for other in range(first, row):
            if t.takes[other, c.POOL] == pool:
                needs += t.takes[other, c.AMOUNT]
        if t.pools[pool, c.FREE] < needs:
            queue, least = (c.ASIDE, c.ASIDE_LEAST) if t.pools[pool, c.POOL_OPEN] else (c.POOL_QUEUE, c.LEAST)
            t.pools[pool, queue] = enqueue(t.ops, t.pools[pool, queue], op)
            t.pools[pool, least] = min(t.pools[pool, least], needs)
            return True
    return False


@inner
def look(s: Ints, t: Tables, op: int, origin: int) -> int:
    """How many of its lanes are full of work that would make way; NONE if it is blocked, and lies where it waits."""
    first, meta, priority = hold_of(t, op), t.ops[op, c.META], priority_of(t, op)
    from_set = 0 <= origin < c.FROM_SHADOW
    full = 0
    for k in range(meta & c.COUNT):
        lane = lane_of(t, op, k)
        if meta & c.PARTIAL and t.holds[first + k, c.HOLD_PS] == c.GONE:
            continue
        if meta & c.TURNS and t.lanes[lane, c.IN_ORDER] and t.lanes[lane, c.HEAD] != op:
            t.states[op] = c.OUT_OF_TURN
            return NONE
        if not from_set and blocks(s, t, lane, priority):
            wait_for_lanes(s, t, op)
            return NONE
        full += int(t.lanes[lane, c.IDLE_SERVERS] == 0)
    takes = meta >> c.TAKE_SHIFT & c.COUNT
    if takes and not meta & c.STARTED and lacks(t, op, takes):
        return NONE
    if full > 0 and meta & c.COUNT == 1 and shades(s, t, set_of(t, op), priority):
        lane = set_of(t, op)
        t.lanes[lane, c.SHADOW] = enqueue(t.ops, t.lanes[lane, c.SHADOW], op)
        return NONE
    return full


@inner
def start_ready(s: Ints, t: Tables) -> bool:
    """One pass; whether anything started or stopped."""
    s[c.ALARM] = c.FAR
    if s[c.FRESH_N] + s[c.ACTIVE_N] + s[c.CLAIM_N] == 0:
        return False
    s[c.PASS] += 1
    n = gather(s, t)
    changed = False
    while n > 0:
        op, origin = t.heap[0, c.BY_ROW], t.heap[0, c.ORIGIN]
        if origin >= 0 and not leaves_queue(s, t, op, origin):
            drop_candidate(t.heap, n)
            n -= 1
            continue
        full = look(s, t, op, origin)
        claims = False
        if full > 0:
            stopped = make_way(s, t, op)
            if stopped > 0:
                changed = True
                for k in range(s[c.ACTIVE_N]):
                    t.lanes[t.lists[k, c.ACTIVES], c.ACTIVE] = 0
                    n = open_lane(s, t, n, t.lists[k, c.ACTIVES], op)
                s[c.ACTIVE_N] = 0
            if stopped == NONE:
                t.lists[s[c.CLAIM_N], c.CLAIMERS] = op
                s[c.CLAIM_N] += 1
            else:
                full = claim(s, t, op)
                claims = full > 0
        if full == 0:
            start(s, t, op)
            if t.ops[op, c.META] & c.TURNS:
                n = advance_turns(s, t, n, op)
            changed = True
        if origin == c.FROM_CLAIMERS and not claims:
            first = hold_of(t, op)
            for row in range(first, first + (t.ops[op, c.META] & c.COUNT)):
                n = open_lane(s, t, n, t.holds[row, c.LANE], op)
        root = next_of(t, origin) if origin >= 0 else NONE
        if root != NONE:
            sift_candidate(t.heap, n, t.ops[root, c.ORDER], root, origin)
        else:
            drop_candidate(t.heap, n)
            n -= 1
    return changed
