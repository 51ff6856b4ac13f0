"""What changes the state of the compiled engine's lanes: starting, leaving, stopping, making way, claiming."""

from emulation.engine import compiled_layout as c
from emulation.engine.compiled_heaps import before, drop_event, push_candidate, push_event
from emulation.engine.compiled_layout import NONE
from emulation.engine.compiled_table import Ints, inner


@inner
def take_row(s: Ints, takes: Ints, handle: int) -> int:
    """Where a take lies, NONE where it was forgotten: the old ones that are kept come first, sorted."""
    if handle >= s[c.TAKE_FIRST]:
        return int(s[c.TAKES_OLD] + handle - s[c.TAKE_FIRST])
    low, high = 0, s[c.TAKES_OLD]
    while low < high:
        middle = (low + high) >> 1
        if takes[middle, c.HANDLE] < handle:
            low = middle + 1
        else:
            high = middle
    return int(low) if low < s[c.TAKES_OLD] and takes[low, c.HANDLE] == handle else NONE


@inner
def row_of(ops: Ints, holds: Ints, op: int, lane: int) -> int:
    """The hold of a lane that `op` has."""
    row = ops[op, c.HOLD]
    while holds[row, c.LANE] != lane:
        row += 1
    return int(row)


@inner
def node_of(next_node: int, waiter: int) -> int:
    return (next_node + 1) << c.NODE_SHIFT | (waiter + c.HALF)


@inner
def next_of_node(node: int) -> int:
    return (node >> c.NODE_SHIFT) - 1


@inner
def waiter_of(node: int) -> int:
    return (node & c.WAITER_MASK) - c.HALF


@inner
def happened(s: Ints, ops: Ints, states: Ints, nodes: Ints, releases: Ints, lists: Ints, node: int) -> None:
    """One edge fewer for all who waited for it."""
    while node != NONE:
        waiter = waiter_of(nodes[node])
        if waiter >= 0:
            states[waiter] -= 1
            if states[waiter] == 0:
                states[waiter] = c.CANDIDATE
                ops[waiter, c.READY] = s[c.NOW]
                lists[s[c.FRESH_N], c.FRESH] = waiter
                s[c.FRESH_N] += 1
        else:
            releases[~waiter, c.PENDING] -= 1
            if releases[~waiter, c.PENDING] == 0:
                lists[s[c.DUE_N], c.DUE] = releases[~waiter, c.RELEASED]
                s[c.DUE_N] += 1
        node = next_of_node(nodes[node])


@inner
def leave(s: Ints, ops: Ints, holds: Ints, lanes: Ints, log: Ints, lists: Ints, op: int, row: int) -> None:
    lane = holds[row, c.LANE]
    now, since = s[c.NOW], ops[op, c.RESUMED]
    lanes[lane, c.HELD] -= 1
    lanes[lane, c.SINCE] -= since
    lanes[lane, c.LEFT] -= now - since
    lanes[lane, c.SHADE] = 0
    if ops[op, c.QUANTUM] > 0 and not lanes[lane, c.IN_ORDER]:
        holder = lanes[lane, c.STOPPABLE]
        if holder == op:
            lanes[lane, c.STOPPABLE] = holds[row, c.PEER]
        else:
            link = row_of(ops, holds, holder, lane)
            while holds[link, c.PEER] != op:
                link = row_of(ops, holds, holds[link, c.PEER], lane)
            holds[link, c.PEER] = holds[row, c.PEER]
    k = s[c.LOGGED]
    log[k, 0], log[k, 1], log[k, 2], log[k, 3] = lane, s[c.FIRST] + op, since, now
    s[c.LOGGED] = k + 1
    if not lanes[lane, c.ACTIVE] and (lanes[lane, c.QUEUE] != NONE or lanes[lane, c.SHADOW] != NONE):
        lanes[lane, c.ACTIVE] = 1
        lists[s[c.ACTIVE_N], c.ACTIVES] = lane
        s[c.ACTIVE_N] += 1


@inner
def start(s: Ints, ops: Ints, states: Ints, holds: Ints, nodes: Ints, takes: Ints, releases: Ints, lanes: Ints,
          pools: Ints, events: Ints, lists: Ints, op: int) -> None:
    """Set `op` going, for the first time or with its rest; its in-order lanes still have it as their head."""
    now, meta, first = s[c.NOW], ops[op, c.META], ops[op, c.HOLD]
    whole, quantum = meta & c.WHOLE, ops[op, c.QUANTUM]
    n = s[c.EVENTS]
    ops[op, c.RESUMED] = now
    for row in range(first, first + (meta & c.COUNT)):
        if holds[row, c.HOLD_PS] == c.GONE:
            continue
        lane = holds[row, c.LANE]
        lanes[lane, c.HELD] += 1
        lanes[lane, c.SINCE] += now
        if quantum > 0 and not lanes[lane, c.IN_ORDER]:
            holds[row, c.PEER] = lanes[lane, c.STOPPABLE]
            lanes[lane, c.STOPPABLE] = op
        if not whole:
            push_event(events, n, now + holds[row, c.HOLD_PS], op, row)
            n += 1
    push_event(events, n, now + ops[op, c.REST], op, c.ALL if whole else c.LAST)
    s[c.EVENTS] = n + 1
    if ops[op, c.START_PS] != NONE:
        return
    ops[op, c.START_PS] = now
    first_take = ops[op, c.TAKE]
    for row in range(first_take, first_take + (meta >> c.TAKE_SHIFT & c.COUNT)):
        pools[takes[row, c.POOL], c.FREE] -= takes[row, c.AMOUNT]
        takes[row, c.TAKEN] = 1
    node = ops[op, c.ON_START]
    if node != NONE:
        ops[op, c.ON_START] = NONE
        happened(s, ops, states, nodes, releases, lists, node)


@inner
def advance_turns(s: Ints, ops: Ints, states: Ints, holds: Ints, lanes: Ints, heap: Ints, lists: Ints, n: int,
                  op: int) -> int:
    """In-order lanes go on from `op`; who was out of turn comes up now if it is after `op`, else in the next pass."""
    first = ops[op, c.HOLD]
    for row in range(first, first + (ops[op, c.META] & c.COUNT)):
        lane = holds[row, c.LANE]
        if not lanes[lane, c.IN_ORDER] or holds[row, c.HOLD_PS] == c.GONE:
            continue
        head = holds[row, c.TURN]
        lanes[lane, c.HEAD] = head
        if head != NONE and states[head] == c.OUT_OF_TURN:
            states[head] = c.CANDIDATE
            if before(ops, head, op):
                lists[s[c.FRESH_N], c.FRESH] = head
                s[c.FRESH_N] += 1
            else:
                push_candidate(heap, n, ops, head, c.FROM_FRESH)
                n += 1
    return n


@inner
def insert_turn(ops: Ints, holds: Ints, lanes: Ints, op: int, row: int) -> None:
    lane = holds[row, c.LANE]
    link, following = NONE, lanes[lane, c.HEAD]
    while following != NONE and following < op:
        link = row_of(ops, holds, following, lane)
        following = holds[link, c.TURN]
    holds[row, c.TURN] = following
    if following == NONE:
        lanes[lane, c.TAIL] = row
    if link == NONE:
        lanes[lane, c.HEAD] = op
    else:
        holds[link, c.TURN] = op


@inner
def stop(s: Ints, ops: Ints, holds: Ints, lanes: Ints, log: Ints, events: Ints, lists: Ints, op: int) -> None:
    """Its rest is a candidate of the next pass, and the head of its in-order lanes."""
    first = ops[op, c.HOLD]
    ran = s[c.NOW] - ops[op, c.RESUMED]
    for row in range(first, first + (ops[op, c.META] & c.COUNT)):
        if holds[row, c.HOLD_PS] == c.GONE:
            continue
        leave(s, ops, holds, lanes, log, lists, op, row)
        holds[row, c.HOLD_PS] -= ran
        if lanes[holds[row, c.LANE], c.IN_ORDER]:
            insert_turn(ops, holds, lanes, op, row)
    ops[op, c.REST] -= ran
    ops[op, c.RESUMED] = NONE
    place = 0
    while place < s[c.EVENTS]:
        if events[place, c.WHO] == op:
            drop_event(events, s[c.EVENTS], place)
            s[c.EVENTS] -= 1
            place = 0
        else:
            place += 1
    lists[s[c.FRESH_N], c.FRESH] = op
    s[c.FRESH_N] += 1


@inner
def is_behind(ops: Ints, holds: Ints, lanes: Ints, op: int, holder: int) -> bool:
    """Whether `holder` holds an in-order lane that `op` wants."""
    first = ops[op, c.HOLD]
    for row in range(first, first + (ops[op, c.META] & c.COUNT)):
        lane = holds[row, c.LANE]
        if lanes[lane, c.IN_ORDER] and holds[row, c.HOLD_PS] != c.GONE:
            first_held = ops[holder, c.HOLD]
            for held in range(first_held, first_held + (ops[holder, c.META] & c.COUNT)):
                if holds[held, c.LANE] == lane and holds[held, c.HOLD_PS] != c.GONE:
                    return True
    return False


@inner
def make_way(s: Ints, ops: Ints, holds: Ints, lanes: Ints, log: Ints, events: Ints, lists: Ints, op: int) -> int:
    """In every full lane the first to make way for `op`: those at a boundary stop; the next boundary is an instant.

    How many stopped; NONE if there is a lane where nobody makes way.
    """
    now, priority, first = s[c.NOW], ops[op, c.PRIORITY], ops[op, c.HOLD]
    n = 0
    for row in range(first, first + (ops[op, c.META] & c.COUNT)):
        lane = holds[row, c.LANE]
        if holds[row, c.HOLD_PS] == c.GONE or lanes[lane, c.HELD] < lanes[lane, c.SERVERS]:
            continue
        victim, victim_ps, victim_boundary_ps = NONE, c.FAR, c.FAR
        holder = lanes[lane, c.STOPPABLE]
        while holder != NONE:
            held = row_of(ops, holds, holder, lane)
            rank = ops[holder, c.PRIORITY]
            if rank > priority and not is_behind(ops, holds, lanes, op, holder):
                resumed, quantum = ops[holder, c.RESUMED], ops[holder, c.QUANTUM]
                boundary_ps = resumed + max(1, (now - resumed + quantum - 1) // quantum) * quantum
                way_ps = min(boundary_ps, resumed + holds[held, c.HOLD_PS])
                if way_ps < victim_ps or (way_ps == victim_ps and (rank > ops[victim, c.PRIORITY] or (
                        rank == ops[victim, c.PRIORITY] and holder > victim))):
                    victim, victim_ps, victim_boundary_ps = holder, way_ps, boundary_ps
            holder = holds[held, c.PEER]
        if victim == NONE:
            return NONE
        if victim_boundary_ps == now:
            lists[n, c.VICTIMS] = victim
            n += 1
        else:
            s[c.ALARM] = min(s[c.ALARM], victim_ps)
    for k in range(n):
        if ops[lists[k, c.VICTIMS], c.RESUMED] != NONE:
            stop(s, ops, holds, lanes, log, events, lists, lists[k, c.VICTIMS])
    return n


@inner
def shades(s: Ints, ops: Ints, lanes: Ints, lane: int, op: int) -> bool:
    """Whether an earlier claimer of the same priority waits for just what makes way for `op`."""
    return bool(lanes[lane, c.SHADE] == s[c.PASS] and lanes[lane, c.CLAIM_PRIORITY] == ops[op, c.PRIORITY])


@inner
def claim(s: Ints, ops: Ints, holds: Ints, lanes: Ints, lists: Ints, op: int) -> int:
    """If lanes of `op` are still full, all its lanes are claimed; how many still are."""
    first = ops[op, c.HOLD]
    end = first + (ops[op, c.META] & c.COUNT)
    full, turns = 0, 0
    for row in range(first, end):
        lane = holds[row, c.LANE]
        turns += lanes[lane, c.IN_ORDER]
        if holds[row, c.HOLD_PS] != c.GONE and lanes[lane, c.HELD] == lanes[lane, c.SERVERS]:
            full += 1
    if full == 0:
        return 0
    for row in range(first, end):
        lane = holds[row, c.LANE]
        if holds[row, c.HOLD_PS] == c.GONE:
            continue
        if turns == 0 and lanes[lane, c.HELD] == lanes[lane, c.SERVERS]:
            lanes[lane, c.SHADE] = s[c.PASS]
        if lanes[lane, c.CLAIM] != s[c.PASS]:
            lanes[lane, c.CLAIM] = s[c.PASS]
            lanes[lane, c.CLAIM_PRIORITY] = ops[op, c.PRIORITY]
    lists[s[c.CLAIM_N], c.CLAIMERS] = op
    s[c.CLAIM_N] += 1
    return full
