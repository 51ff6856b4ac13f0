"""What changes the state of the compiled engine's lanes: starting, leaving, stopping, making way, claiming.

`s` is the array of scalars, `t` the tables; the other names are those of the layout.
"""

from emulation.engine import compiled_layout as c
from emulation.engine.compiled_heaps import before, drop_event, push_candidate, push_event
from emulation.engine.compiled_layout import NONE, Tables
from emulation.engine.compiled_rows import (
    hold_of,
    lane_of,
    node_of,
    priority_of,
    row_of,
    take_of,
    waiter_of,
)
from emulation.engine.compiled_table import Ints, expect, inner, seldom


@inner
def happened(s: Ints, t: Tables, link: int) -> None:
    """One edge fewer for all who waited for it."""
    while link:
        waiter = waiter_of(link)
        if waiter >= 0:
            pending = t.states[waiter] - 1
            t.states[waiter] = pending
            if pending == 0:
                become_ready(s, t, waiter)
            elif pending == 1:
                expect(t.ops, waiter)
        else:
            t.releases[~waiter, c.PENDING] -= 1
            if t.releases[~waiter, c.PENDING] == 0:
                t.lists[s[c.DUE_N], c.DUE] = t.releases[~waiter, c.RELEASED]
                s[c.DUE_N] += 1
        link = 0 if link & c.LAST_LINK else t.nodes[node_of(link)]


@inner
def become_ready(s: Ints, t: Tables, op: int) -> None:
    t.states[op] = c.CANDIDATE
    t.ops[op, c.ORDER] += s[c.INSTANT]
    t.lists[s[c.FRESH_N], c.FRESH] = op
    s[c.FRESH_N] += 1


@inner
def leave(s: Ints, t: Tables, op: int, k: int) -> None:
    """Leave the k-th lane of `op`."""
    lane, now = lane_of(t, op, k), s[c.NOW]
    t.lanes[lane, c.IDLE_SERVERS] += 1
    t.lanes[lane, c.BALANCE] -= now
    t.lanes[lane, c.SHADE] = 0
    if t.ops[op, c.META] & c.STOPS and not t.lanes[lane, c.IN_ORDER]:
        row = hold_of(t, op) + k
        holder = t.lanes[lane, c.STOPPABLE]
        if holder == op:
            t.lanes[lane, c.STOPPABLE] = t.turns[row, c.PEER]
        else:
            link = row_of(t, holder, lane)
            while t.turns[link, c.PEER] != op:
                link = row_of(t, t.turns[link, c.PEER], lane)
            t.turns[link, c.PEER] = t.turns[row, c.PEER]
    logged = s[c.LOGGED]
    t.log[logged, 0], t.log[logged, 1], t.log[logged, 2] = lane, s[c.FIRST] + op, t.ops[op, c.RESUMED]
    t.log[logged, 3] = now
    s[c.LOGGED] = logged + 1
    s[c.HELD] -= 1
    if not t.lanes[lane, c.ACTIVE]:
        t.lanes[lane, c.ACTIVE] = 1
        t.lists[s[c.ACTIVE_N], c.ACTIVES] = lane
        s[c.ACTIVE_N] += 1


@inner
def start(s: Ints, t: Tables, op: int) -> None:
    """Set `op` going, for the first time or with its rest; its in-order lanes still have it as their head."""
    now, meta, first = s[c.NOW], t.ops[op, c.META], hold_of(t, op)
    whole, stops = meta & c.WHOLE, meta & c.STOPS
    n = s[c.EVENTS]
    t.ops[op, c.RESUMED] = now
    for k in range(meta & c.COUNT):
        row = first + k
        if stops and t.holds[row, c.HOLD_PS] == c.GONE:
            continue
        lane = lane_of(t, op, k)
        t.lanes[lane, c.IDLE_SERVERS] -= 1
        t.lanes[lane, c.BALANCE] += now
        s[c.HELD] += 1
        if stops and not t.lanes[lane, c.IN_ORDER]:
            t.turns[row, c.PEER] = t.lanes[lane, c.STOPPABLE]
            t.lanes[lane, c.STOPPABLE] = op
        if not whole:
            push_event(t.events, n, now + t.holds[row, c.HOLD_PS], op << c.WHO_SHIFT | k)
            n += 1
    push_event(t.events, n, now + t.ops[op, c.REST], op << c.WHO_SHIFT | (c.ALL if whole else c.LAST))
    s[c.EVENTS] = n + 1
    if meta & c.STARTED:
        return
    t.ops[op, c.META] = meta | c.STARTED
    t.starts[op] = now
    link = t.ops[op, c.ON_END]
    if link:
        expect(t.states, max(0, waiter_of(link)))
        expect(t.nodes, node_of(link))
    if meta >> c.TAKE_SHIFT & c.COUNT:
        first_take = take_of(t, op)
        for row in range(first_take, first_take + (meta >> c.TAKE_SHIFT & c.COUNT)):
            t.pools[t.takes[row, c.POOL], c.FREE] -= t.takes[row, c.AMOUNT]
            t.takes[row, c.TAKEN] = 1
    if meta & c.AWAITED:
        t.ops[op, c.META] &= ~c.AWAITED
        happened(s, t, t.more[op, c.ON_START])


@seldom
def advance_turns(s: Ints, t: Tables, n: int, op: int) -> int:
    """In-order lanes go on from `op`; who was out of turn comes up now if it is after `op`, else in the next pass."""
    first = hold_of(t, op)
    for row in range(first, first + (t.ops[op, c.META] & c.COUNT)):
        lane = t.holds[row, c.LANE]
        if not t.lanes[lane, c.IN_ORDER] or t.holds[row, c.HOLD_PS] == c.GONE:
            continue
        head = t.turns[row, c.TURN]
        t.lanes[lane, c.HEAD] = head
        if head != NONE and t.states[head] == c.OUT_OF_TURN:
            t.states[head] = c.CANDIDATE
            if before(t.ops, head, op):
                t.lists[s[c.FRESH_N], c.FRESH] = head
                s[c.FRESH_N] += 1
            else:
                push_candidate(t.heap, n, t.ops[head, c.ORDER], head, c.FROM_FRESH)
                n += 1
    return n


@seldom
def insert_turn(t: Tables, op: int, row: int) -> None:
    lane = t.holds[row, c.LANE]
    link, following = NONE, t.lanes[lane, c.HEAD]
    while following != NONE and following < op:
        link = row_of(t, following, lane)
        following = t.turns[link, c.TURN]
    t.turns[row, c.TURN] = following
    if following == NONE:
        t.lanes[lane, c.TAIL] = row
    if link == NONE:
        t.lanes[lane, c.HEAD] = op
    else:
        t.turns[link, c.TURN] = op


@seldom
def stop(s: Ints, t: Tables, op: int) -> None:
    """Its rest is a candidate of the next pass, and the head of its in-order lanes."""
    first = hold_of(t, op)
    ran = s[c.NOW] - t.ops[op, c.RESUMED]
    for row in range(first, first + (t.ops[op, c.META] & c.COUNT)):
        if t.holds[row, c.HOLD_PS] == c.GONE:
            t.ops[op, c.META] |= c.PARTIAL
            continue
        leave(s, t, op, row - first)
        t.holds[row, c.HOLD_PS] -= ran
        if t.lanes[t.holds[row, c.LANE], c.IN_ORDER]:
            insert_turn(t, op, row)
    t.ops[op, c.REST] -= ran
    t.ops[op, c.RESUMED] = NONE
    place = 0
    while place < s[c.EVENTS]:
        if t.events[place, c.WHAT] >> c.WHO_SHIFT == op:
            drop_event(t.events, s[c.EVENTS], place)
            s[c.EVENTS] -= 1
            place = 0
        else:
            place += 1
    t.lists[s[c.FRESH_N], c.FRESH] = op
    s[c.FRESH_N] += 1


@seldom
def is_behind(t: Tables, op: int, holder: int) -> bool:
    """Whether `holder` holds an in-order lane that `op` wants."""
    first = hold_of(t, op)
    for row in range(first, first + (t.ops[op, c.META] & c.COUNT)):
        lane = t.holds[row, c.LANE]
        if t.lanes[lane, c.IN_ORDER] and t.holds[row, c.HOLD_PS] != c.GONE:
            first_held = hold_of(t, holder)
            for held in range(first_held, first_held + (t.ops[holder, c.META] & c.COUNT)):
                if t.holds[held, c.LANE] == lane and t.holds[held, c.HOLD_PS] != c.GONE:
                    return True
    return False


@seldom
def make_way(s: Ints, t: Tables, op: int) -> int:
    """In every full lane the first to make way for `op`: those at a boundary stop; the next boundary is an instant.

    How many stopped; NONE if there is a lane where nobody makes way.
    """
    now, priority, first = s[c.NOW], priority_of(t, op), hold_of(t, op)
    n = 0
    for row in range(first, first + (t.ops[op, c.META] & c.COUNT)):
        lane = t.holds[row, c.LANE]
        if t.holds[row, c.HOLD_PS] == c.GONE or t.lanes[lane, c.IDLE_SERVERS] > 0:
            continue
        victim, victim_ps, victim_boundary_ps = NONE, c.FAR, c.FAR
        holder = t.lanes[lane, c.STOPPABLE]
        while holder != NONE:
            held = row_of(t, holder, lane)
            rank = priority_of(t, holder)
            if rank > priority and not is_behind(t, op, holder):
                resumed, quantum = t.ops[holder, c.RESUMED], t.more[holder, c.QUANTUM]
                boundary_ps = resumed + max(1, (now - resumed + quantum - 1) // quantum) * quantum
                way_ps = min(boundary_ps, resumed + t.holds[held, c.HOLD_PS])
                if way_ps < victim_ps or (way_ps == victim_ps and (rank > priority_of(t, victim) or (
                        rank == priority_of(t, victim) and holder > victim))):
                    victim, victim_ps, victim_boundary_ps = holder, way_ps, boundary_ps
            holder = t.turns[held, c.PEER]
        if victim == NONE:
            return NONE
        if victim_boundary_ps == now:
            t.lists[n, c.VICTIMS] = victim
            n += 1
        else:
            s[c.ALARM] = min(s[c.ALARM], victim_ps)
    for k in range(n):
        if t.ops[t.lists[k, c.VICTIMS], c.RESUMED] != NONE:
            stop(s, t, t.lists[k, c.VICTIMS])
    return n


@inner
def shades(s: Ints, t: Tables, lane: int, priority: int) -> bool:
    """Whether an earlier claimer of the same priority waits for just what would make way for this one."""
    return bool(t.lanes[lane, c.SHADE] == s[c.PASS] and t.lanes[lane, c.CLAIM_PRIORITY] == priority)


@seldom
def claim(s: Ints, t: Tables, op: int) -> int:
    """If lanes of `op` are still full, all its lanes are claimed; how many still are."""
    first = hold_of(t, op)
    end = first + (t.ops[op, c.META] & c.COUNT)
    full, turns = 0, 0
    for row in range(first, end):
        lane = t.holds[row, c.LANE]
        turns += t.lanes[lane, c.IN_ORDER]
        if t.holds[row, c.HOLD_PS] != c.GONE and t.lanes[lane, c.IDLE_SERVERS] == 0:
            full += 1
    if full == 0:
        return 0
    for row in range(first, end):
        lane = t.holds[row, c.LANE]
        if t.holds[row, c.HOLD_PS] == c.GONE:
            continue
        if turns == 0 and t.lanes[lane, c.IDLE_SERVERS] == 0:
            t.lanes[lane, c.SHADE] = s[c.PASS]
        if t.lanes[lane, c.CLAIM] != s[c.PASS]:
            t.lanes[lane, c.CLAIM] = s[c.PASS]
            t.lanes[lane, c.CLAIM_PRIORITY] = priority_of(t, op)
    t.lists[s[c.CLAIM_N], c.CLAIMERS] = op
    s[c.CLAIM_N] += 1
    return full
