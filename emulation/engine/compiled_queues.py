"""Where blocked candidates of the compiled engine wait, and when they are looked at again.

A blocked candidate lies in one place and is looked at again only when that place changes: in the queue of the set of
its lanes, where one of them is full of work it cannot stop or is claimed against it, in the queue of a pool that lacks
what it needs, or out of turn in an in-order lane. What blocks the first in a queue blocks all in it. One that waits for
others to make way is a claimer, looked at in every pass, unless an earlier claimer does all that it would do: then it
lies in the shadow of their lane.
"""

from emulation.engine import compiled_layout as c
from emulation.engine.compiled_heaps import before, dequeue, enqueue, meld, push_candidate
from emulation.engine.compiled_layout import NONE, Tables
from emulation.engine.compiled_moves import shades
from emulation.engine.compiled_rows import is_packed, priority_of, row_of, set_of
from emulation.engine.compiled_table import Ints, inner, seldom


@inner
def wait_for_lanes(s: Ints, t: Tables, op: int) -> None:
    """One that waits for only some of its lanes finds no queue of such; it is looked at in every pass."""
    if t.ops[op, c.META] & c.PARTIAL:
        t.lists[s[c.CLAIM_N], c.CLAIMERS] = op
        s[c.CLAIM_N] += 1
    else:
        lanes = set_of(t, op)
        t.sets[lanes, c.QUEUE] = enqueue(t.ops, t.sets[lanes, c.QUEUE], op)


@inner
def has_packed(t: Tables, lanes: int) -> bool:
    """Whether a lane of a set is full of work that never makes way."""
    first = t.sets[lanes, c.MEMBERS_AT]
    for member in range(first, first + t.sets[lanes, c.WIDTH]):
        if is_packed(t, t.members[member, c.MEMBER_LANE]):
            return True
    return False


@inner
def blocks(s: Ints, t: Tables, lane: int, priority: int) -> bool:
    """Whether a lane is claimed against this priority, or full of work that does not make way for it."""
    if t.lanes[lane, c.CLAIM] == s[c.PASS] and t.lanes[lane, c.CLAIM_PRIORITY] < priority:
        return True
    if t.lanes[lane, c.IDLE_SERVERS] > 0:
        return False
    holder = t.lanes[lane, c.STOPPABLE]
    while holder != NONE and priority_of(t, holder) <= priority:
        holder = t.turns[row_of(t, holder, lane), c.PEER]
    return bool(holder == NONE)


@seldom
def close_pool(t: Tables, pool: int) -> None:
    t.pools[pool, c.POOL_OPEN] = 0
    t.pools[pool, c.POOL_QUEUE] = meld(t.ops, t.pools[pool, c.POOL_QUEUE], t.pools[pool, c.ASIDE])
    t.pools[pool, c.ASIDE] = NONE
    t.pools[pool, c.LEAST] = min(t.pools[pool, c.LEAST], t.pools[pool, c.ASIDE_LEAST])
    t.pools[pool, c.ASIDE_LEAST] = c.FAR


@inner
def leaves_queue(s: Ints, t: Tables, op: int, origin: int) -> bool:
    """Take the first of a queue out of it, or close the queue for this pass: what blocks it blocks all after it."""
    priority = priority_of(t, op)
    if origin >= c.FROM_POOL:
        pool = origin - c.FROM_POOL
        if t.pools[pool, c.FREE] < t.pools[pool, c.LEAST]:
            close_pool(t, pool)
            return False
        t.pools[pool, c.POOL_QUEUE] = dequeue(t.ops, op)
    elif origin >= c.FROM_SHADOW:
        lane = origin - c.FROM_SHADOW
        if shades(s, t, lane, priority) or blocks(s, t, lane, priority):
            t.lanes[lane, c.SHADOW_OPEN] = 0
            return False
        t.lanes[lane, c.SHADOW] = dequeue(t.ops, op)
    else:
        first = t.sets[origin, c.MEMBERS_AT]
        for member in range(first, first + t.sets[origin, c.WIDTH]):
            if blocks(s, t, t.members[member, c.MEMBER_LANE], priority):
                t.sets[origin, c.QUEUE_OPEN] = 0
                return False
        t.sets[origin, c.QUEUE] = dequeue(t.ops, op)
    return True


@inner
def next_of(t: Tables, origin: int) -> int:
    """Who comes up next of a queue; NONE where the queue is closed for this pass."""
    if origin < c.FROM_SHADOW:
        root = t.sets[origin, c.QUEUE]
        if root == NONE or has_packed(t, origin):
            t.sets[origin, c.QUEUE_OPEN] = 0
            return NONE
    elif origin < c.FROM_POOL:
        root = t.lanes[origin - c.FROM_SHADOW, c.SHADOW]
        if root == NONE:
            t.lanes[origin - c.FROM_SHADOW, c.SHADOW_OPEN] = 0
    else:
        pool = origin - c.FROM_POOL
        root = t.pools[pool, c.POOL_QUEUE]
        if root == NONE:
            t.pools[pool, c.LEAST] = c.FAR
        if root == NONE or t.pools[pool, c.FREE] < t.pools[pool, c.LEAST]:
            close_pool(t, pool)
            return NONE
    return int(root)


@seldom
def without_earlier(s: Ints, t: Tables, root: int, op: int) -> int:
    """A queue without those before `op`, who come up in the next pass."""
    while root != NONE and before(t.ops, root, op):
        t.lists[s[c.FRESH_N], c.FRESH] = root
        s[c.FRESH_N] += 1
        root = dequeue(t.ops, root)
    return int(root)


@seldom
def open_lane(s: Ints, t: Tables, n: int, lane: int, op: int) -> int:
    """A lane changed with `op`: those it blocked come up now if they are after `op`, else in the next pass."""
    member = t.lanes[lane, c.SETS]
    while member != NONE:
        lanes = t.members[member, c.MEMBER_SET]
        member = t.members[member, c.NEXT_MEMBER]
        root = without_earlier(s, t, t.sets[lanes, c.QUEUE], op)
        t.sets[lanes, c.QUEUE] = root
        if root != NONE and not t.sets[lanes, c.QUEUE_OPEN]:
            t.sets[lanes, c.QUEUE_OPEN] = 1
            push_candidate(t.heap, n, t.ops[root, c.ORDER], root, lanes)
            n += 1
    root = without_earlier(s, t, t.lanes[lane, c.SHADOW], op)
    t.lanes[lane, c.SHADOW] = root
    if root != NONE and not t.lanes[lane, c.SHADOW_OPEN]:
        t.lanes[lane, c.SHADOW_OPEN] = 1
        push_candidate(t.heap, n, t.ops[root, c.ORDER], root, c.FROM_SHADOW + lane)
        n += 1
    return n
