"""Runs a simple plan from its first start to its last end in one call, to the specification's spans.

A candidate is one number: its rank, the instant at which it became ready, its row. Those that need the same lanes wait
in one queue a rank; a set of lanes is blocked while any of them is full, and comes up when the last of them has a free
server again. Nothing can stop or claim here, so what is blocked stays blocked to the end of a pass.
"""

from typing import Any, NamedTuple

import numpy as np

from emulation.engine.compiled_bare import bare, expect_at
from emulation.engine.compiled_simple_rows import (
    AMOUNT,
    BITS,
    HALVES,
    KEY,
    KIND,
    LENGTH,
    MOST_LANES,
    MOST_RANKS,
    NEEDS,
    NEXT,
    NONE,
    OUT,
    PENDING,
    POOL,
    RANK_SHIFT,
    RANKS,
    ROWS_LIKE,
    RUNNING,
    SET_SHIFT,
    SETS,
    TAKE_WORDS,
    WORDS,
    Halves,
    Ints,
    Rows,
)
from emulation.engine.compiled_table import inner, kernel, seldom

NEVER = (1 << 63) - 1
WAYS = 16
"""Children of a place in the tree of events: their least is computed without a branch."""
FEW = 6
"""Sets of lanes that come up in one pass and are looked through for each start; more lie in a heap."""
PATIENCE = 8
"""Steps an operation, on the mean, through queues out of their order: past these the plan is left to the engine whose
queues are heaps."""

CANDIDATES, FRESH, IDLE_EVENTS, STEPS, SOONEST, POOL_WAITERS = range(6)
"""Scalars: how many lie in these lists, steps through queues, the event that comes next, and who waits for pools."""
STATE = 6

DONE, CROWDED = range(2)


class Board(NamedTuple):
    """Of a queue (a set of lanes and a rank) head_key, last_key, tail. Of a set key, its first candidate's, and how
    many of its lanes are full (blocked); a last one never has a candidate. lane_ptr, lane_sets: a lane's sets. idle
    servers of a lane, free of a pool, who waits for it. events, tops, roots: a tree, a place what runs. slots: its
    places that are free. order [n]: rows as they ended."""

    state: Ints
    head_key: Ints
    last_key: Ints
    tail: Halves
    key: Ints
    blocked: Halves
    lane_ptr: Halves
    lane_sets: Halves
    idle: Ints
    free: Ints
    waits_for_pool: Halves
    events: Ints
    tops: Ints
    roots: Ints
    slots: Halves
    fresh: Halves
    candidates: Halves
    heap: Ints
    order: Halves
    start_ps: Ints
    end_ps: Ints


_ONE, _HALF = np.zeros(1, np.int64), np.zeros(1, np.int32)
BOARD_LIKE = Board(_ONE, _ONE, _ONE, _HALF, _ONE, _HALF, _HALF, _HALF, _ONE, _ONE, _HALF, _ONE, _ONE, _ONE, _HALF,
                   _HALF, _HALF, _ONE, _HALF, _ONE, _ONE)


@inner
def least(e: Any, at: int) -> int:
    """Of WAYS events."""
    a = min(min(e[at], e[at + 1]), min(e[at + 2], e[at + 3]))
    b = min(min(e[at + 4], e[at + 5]), min(e[at + 6], e[at + 7]))
    c = min(min(e[at + 8], e[at + 9]), min(e[at + 10], e[at + 11]))
    d = min(min(e[at + 12], e[at + 13]), min(e[at + 14], e[at + 15]))
    return min(min(a, b), min(c, d))


@inner
def add_event(b: Any, place: int, event: int) -> None:
    top, root = place >> 4, place >> 8
    b.events[place] = event
    b.tops[top] = min(b.tops[top], event)
    b.roots[root] = min(b.roots[root], event)
    b.state[SOONEST] = min(b.state[SOONEST], event)


@inner
def drop_event(b: Any, place: int) -> None:
    top, root = place >> 4, place >> 8
    b.events[place] = NEVER
    b.tops[top] = least(b.events, top << 4)
    if len(b.roots) == 1:  # all tops lie below one root
        b.roots[0] = least(b.tops, 0)
        b.state[SOONEST] = b.roots[0]
    else:
        b.roots[root] = least(b.tops, root << 4)
        b.state[SOONEST] = least(b.roots, 0)


@seldom
def sort_rows(rows: Any, n: int) -> None:
    """Ascending, by ever shorter steps."""
    gap = n
    while gap > 1:
        gap = max(1, gap * 5 // 11)
        for i in range(gap, n):
            row, place = rows[i], i
            while place >= gap and rows[place - gap] > row:
                rows[place] = rows[place - gap]
                place -= gap
            rows[place] = row


@seldom
def insert(t: Any, b: Any, op: int, key: int, queue: int, nobody: int, mask: int) -> None:
    """Put a candidate where it belongs in a queue that it came to late."""
    before, after = nobody, nobody
    if b.head_key[queue] != NEVER:
        after = b.head_key[queue] & mask
    while after != nobody and t.ops[WORDS * after + KEY] < key:
        b.state[STEPS] += 1
        before, after = after, t.halves[HALVES * after + NEXT]
    t.halves[HALVES * op + NEXT] = after
    if before == nobody:
        b.head_key[queue] = key
    else:
        t.halves[HALVES * before + NEXT] = op
    if after == nobody:
        b.tail[queue] = op
        b.last_key[queue] = key


@inner
def enqueue(t: Any, b: Any, op: int, key: int, ranks: int, nobody: int, mask: int) -> None:
    """Among the candidates of its set of lanes; the set comes up, unless it does already or is blocked."""
    kind = t.halves[HALVES * op + KIND]
    lanes = kind >> SET_SHIFT
    queue = lanes * ranks + (kind >> RANK_SHIFT & MOST_RANKS - 1)
    if key > b.last_key[queue]:
        tail = b.tail[queue]
        t.halves[HALVES * tail + NEXT] = op
        t.halves[HALVES * op + NEXT] = nobody
        b.tail[queue], b.last_key[queue] = op, key
        b.head_key[queue] = min(b.head_key[queue], key)
    else:
        insert(t, b, op, key, queue, nobody, mask)
    known = b.key[lanes]
    b.key[lanes] = min(known, key)
    n = b.state[CANDIDATES]
    b.candidates[n] = lanes
    b.state[CANDIDATES] = n + int((b.blocked[lanes] == 0) & (known == NEVER))


@inner
def dequeue(t: Any, b: Any, op: int, ranks: int, nobody: int) -> int:
    """Take the first of a set of lanes out of its queue; the set."""
    kind = t.halves[HALVES * op + KIND]
    lanes = kind >> SET_SHIFT
    queue = lanes * ranks + (kind >> RANK_SHIFT & MOST_RANKS - 1)
    following = t.halves[HALVES * op + NEXT]
    b.head_key[queue] = t.ops[WORDS * following + KEY]
    b.tail[queue] = nobody if following == nobody else b.tail[queue]
    key = NEVER
    for k in range(lanes * ranks, lanes * ranks + ranks):
        key = min(key, b.head_key[k])
    b.key[lanes] = key
    return int(lanes)


@inner
def lacks(t: Any, b: Any, op: int) -> bool:
    """Whether a pool lacks what an operation needs: then it waits there; else it takes."""
    first, end = t.first_take[op], t.first_take[op + 1]
    for k in range(first, end):
        pool, needs = t.takes[TAKE_WORDS * k + POOL], t.takes[TAKE_WORDS * k + NEEDS]
        if b.free[pool] < needs:
            for done in range(first, k):
                b.free[t.takes[TAKE_WORDS * done + POOL]] += t.takes[TAKE_WORDS * done + AMOUNT]
            t.halves[HALVES * op + NEXT] = b.waits_for_pool[pool]
            b.waits_for_pool[pool] = op
            b.state[POOL_WAITERS] += 1
            return True
        b.free[pool] -= t.takes[TAKE_WORDS * k + AMOUNT]
    return False


@inner
def give_back(t: Any, b: Any, op: int) -> None:
    for k in range(t.first_take[op], t.first_take[op + 1]):
        b.free[t.takes[TAKE_WORDS * k + POOL]] += t.takes[TAKE_WORDS * k + AMOUNT]


@seldom
def leave_pools(t: Any, b: Any, op: int, ranks: int, nobody: int, mask: int) -> None:
    """Who waits for a pool that `op` gave back to comes up with its lanes, if there is enough for it."""
    for k in range(t.first_take[op], t.first_take[op + 1]):
        pool = t.takes[TAKE_WORDS * k + POOL]
        before, waiter = nobody, b.waits_for_pool[pool]
        while waiter != nobody:
            b.state[STEPS] += 1
            following, needs = t.halves[HALVES * waiter + NEXT], NEVER
            for own in range(t.first_take[waiter], t.first_take[waiter + 1]):
                if t.takes[TAKE_WORDS * own + POOL] == pool:
                    needs = min(needs, t.takes[TAKE_WORDS * own + NEEDS])
            if needs > b.free[pool]:
                before = waiter
            else:
                if before == nobody:
                    b.waits_for_pool[pool] = following
                else:
                    t.halves[HALVES * before + NEXT] = following
                b.state[POOL_WAITERS] -= 1
                enqueue(t, b, waiter, t.ops[WORDS * waiter + KEY], ranks, nobody, mask)
            waiter = following


@inner
def start(t: Any, b: Any, op: int, lanes: int, now: int, since: int, bits: int) -> None:
    for k in range(MOST_LANES * lanes, MOST_LANES * lanes + MOST_LANES):
        lane = t.sets[k]
        if lane == NONE:
            break
        idle = b.idle[lane] - 1
        b.idle[lane] = idle
        full = int(idle == 0)
        for place in range(b.lane_ptr[lane], b.lane_ptr[lane + 1]):
            b.blocked[b.lane_sets[place]] += full
    b.start_ps[op] = since + now
    n = b.state[IDLE_EVENTS] - 1
    b.state[IDLE_EVENTS] = n
    place = b.slots[n]
    t.halves[HALVES * op + NEXT] = place
    expect_at(t.out, t.halves[HALVES * op + OUT])
    expect_at(b.end_ps, op)
    add_event(b, place, (now + t.ops[WORDS * op + LENGTH]) << bits | op)


@inner
def end(t: Any, b: Any, op: int, ended: int, at_ps: int) -> None:
    """It leaves its lanes and gives back what it took; those for whom it was the last to wait for are fresh."""
    kind, place, free = t.halves[HALVES * op + KIND], t.halves[HALVES * op + NEXT], b.state[IDLE_EVENTS]
    b.slots[free] = place
    b.state[IDLE_EVENTS] = free + 1
    drop_event(b, place)
    b.order[ended] = op
    b.end_ps[op] = at_ps
    first = MOST_LANES * (kind >> SET_SHIFT)
    n = b.state[CANDIDATES]
    for k in range(first, first + MOST_LANES):
        lane = t.sets[k]
        if lane == NONE:
            break
        idle = b.idle[lane]
        b.idle[lane] = idle + 1
        was_full = int(idle == 0)
        for at in range(b.lane_ptr[lane], b.lane_ptr[lane + 1]):
            lanes = b.lane_sets[at]
            blocked = b.blocked[lanes] - was_full
            b.blocked[lanes] = blocked
            b.candidates[n] = lanes
            n += was_full & int(blocked == 0) & int(b.key[lanes] != NEVER)
    b.state[CANDIDATES] = n
    if kind & 1:
        give_back(t, b, op)
    n, at, more = b.state[FRESH], t.halves[HALVES * op + OUT], True
    while more:
        waiter = t.out[at]
        more = waiter & 1 == 0
        row = HALVES * (waiter >> 1) + PENDING
        pending = t.halves[row] - 1
        t.halves[row] = pending
        b.fresh[n] = waiter >> 1
        n += int(pending == 0)
        at += 1
    b.state[FRESH] = n


@inner
def expect_end(t: Any, b: Any, mask: int) -> None:
    """Fetch the first who wait for the operation that ends next."""
    if b.state[SOONEST] != NEVER:
        at = t.halves[HALVES * (b.state[SOONEST] & mask) + OUT]
        expect_at(t.halves, HALVES * (t.out[at] >> 1))
        expect_at(t.halves, HALVES * (t.out[at + 1] >> 1))


@inner
def first_of_three(b: Any, at: int) -> int:
    """The first candidate of three sets of lanes, NEVER where all are blocked or empty: no branch tells which."""
    best = NEVER
    for i in range(at, at + 3):
        lanes = b.candidates[i]
        best = min(best, NEVER if b.blocked[lanes] else b.key[lanes])
    return best


@inner
def start_few(t: Any, b: Any, now: int, since: int, ranks: int, bits: int, nobody: int, mask: int) -> None:
    """A pass in which few sets of lanes come up: the first candidate of all that are not blocked, again and again."""
    n, last = b.state[CANDIDATES], len(b.key) - 1
    for i in range(n, FEW):
        b.candidates[i] = last
    while True:
        best = first_of_three(b, 0)
        if n > 3:
            best = min(best, first_of_three(b, 3))
        if best == NEVER:
            break
        op = best & mask
        lanes = dequeue(t, b, op, ranks, nobody)
        if t.halves[HALVES * op + KIND] & 1 and lacks(t, b, op):
            continue
        start(t, b, op, lanes, now, since, bits)


@inner
def sift(heap: Any, n: int, key: int) -> None:
    """Put a key in the first place of a heap of n, and let it sink."""
    place, down = 0, 1
    while down < n:
        down += int(down + 1 < n and heap[down + 1] < heap[down])
        if heap[down] >= key:
            break
        heap[place] = heap[down]
        place, down = down, 2 * down + 1
    heap[place] = key


@seldom
def start_many(t: Any, b: Any, now: int, since: int, ranks: int, bits: int, nobody: int, mask: int) -> None:
    """A pass in which many do: they lie in a heap, each set of lanes by its first candidate."""
    n = 0
    for i in range(b.state[CANDIDATES]):
        lanes = b.candidates[i]
        if b.blocked[lanes] or b.key[lanes] == NEVER:
            continue
        place, key = n, b.key[lanes]
        while place > 0 and b.heap[(place - 1) >> 1] > key:
            b.heap[place] = b.heap[(place - 1) >> 1]
            place = (place - 1) >> 1
        b.heap[place] = key
        n += 1
    while n > 0:
        op = b.heap[0] & mask
        lanes = t.halves[HALVES * op + KIND] >> SET_SHIFT
        if b.blocked[lanes] == 0:
            dequeue(t, b, op, ranks, nobody)
            if not (t.halves[HALVES * op + KIND] & 1 and lacks(t, b, op)):
                start(t, b, op, lanes, now, since, bits)
        if b.blocked[lanes] == 0 and b.key[lanes] != NEVER:
            sift(b.heap, n, b.key[lanes])
        else:
            n -= 1
            sift(b.heap, n, b.heap[n])


@inner
def set_up(s: Any, t: Any, b: Any, n: int) -> None:
    lanes_n, sets = len(t.servers), s[SETS]
    for lane in range(lanes_n + 2):
        b.lane_ptr[lane] = 0
    for k in range(MOST_LANES * sets):
        if t.sets[k] != NONE:
            b.lane_ptr[t.sets[k] + 2] += 1
    for lane in range(lanes_n):
        b.idle[lane] = t.servers[lane]
        b.lane_ptr[lane + 2] += b.lane_ptr[lane + 1]
    for k in range(MOST_LANES * sets):
        if t.sets[k] != NONE:
            lane = t.sets[k] + 1
            place = b.lane_ptr[lane]
            b.lane_sets[place] = k // MOST_LANES
            b.lane_ptr[lane] = place + 1
    for lanes in range(sets + 1):
        b.key[lanes], b.blocked[lanes] = NEVER, 0
    for queue in range(sets * s[RANKS]):
        b.head_key[queue], b.last_key[queue], b.tail[queue] = NEVER, NONE, n
    for pool in range(len(t.capacity)):
        b.free[pool], b.waits_for_pool[pool] = t.capacity[pool], n
    for i in range(len(b.events)):
        b.events[i] = NEVER
    for i in range(len(b.tops)):
        b.tops[i] = NEVER
    for i in range(len(b.roots)):
        b.roots[i] = NEVER
    for i in range(s[RUNNING]):
        b.slots[i] = s[RUNNING] - 1 - i
    t.ops[WORDS * n + KEY] = NEVER
    t.halves[HALVES * (n + 1) + PENDING] = 0
    b.state[CANDIDATES] = b.state[FRESH] = b.state[STEPS] = b.state[POOL_WAITERS] = 0
    b.state[IDLE_EVENTS], b.state[SOONEST] = s[RUNNING], NEVER
    for op in range(n):
        if t.halves[HALVES * op + PENDING] == 0:
            b.fresh[b.state[FRESH]] = op
            b.state[FRESH] += 1


@kernel(_ONE, ROWS_LIKE, BOARD_LIKE, 1)
def run_rows(scalars: Ints, rows: Rows, board: Board, since: int) -> int:
    """Spans of all rows, from the instant `since` on; CROWDED where too many steps through queues were made."""
    s, t, b = bare(scalars), bare(rows), bare(board)
    n, ranks, bits = len(b.start_ps), s[RANKS], s[BITS]
    mask = (1 << bits) - 1
    set_up(s, t, b, n)
    now, instant, ended, seen, most = 0, 0, 0, 0, PATIENCE * n
    while True:
        fresh = b.state[FRESH]
        if fresh > 1:
            sort_rows(b.fresh, fresh)
        for i in range(fresh):
            op = b.fresh[i]
            kind = t.halves[HALVES * op + KIND]
            rank = kind >> RANK_SHIFT & MOST_RANKS - 1
            key = (rank << bits | instant) << bits | op
            t.ops[WORDS * op + KEY] = key
            enqueue(t, b, op, key, ranks, n, mask)
        b.state[FRESH] = 0
        if b.state[CANDIDATES] <= FEW:
            start_few(t, b, now, since, ranks, bits, n, mask)
        else:
            start_many(t, b, now, since, ranks, bits, n, mask)
        b.state[CANDIDATES] = 0
        if b.state[SOONEST] == NEVER or b.state[STEPS] > most:
            break
        instant += int(b.state[SOONEST] >> bits > now)
        now = b.state[SOONEST] >> bits
        while b.state[SOONEST] >> bits == now:
            end(t, b, b.state[SOONEST] & mask, ended, since + now)
            ended += 1
            expect_end(t, b, mask)
        if b.state[POOL_WAITERS]:
            for k in range(seen, ended):
                leave_pools(t, b, b.order[k], ranks, n, mask)
        seen = ended
    return DONE if ended == n else CROWDED
