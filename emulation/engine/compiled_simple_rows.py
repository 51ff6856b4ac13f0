"""Columns of a simple plan into rows that lie close together; what is not simple, or not right, is declined.

Simple: every operation holds one to four lanes to its end, has no quantum, waits for ends of earlier operations only,
and gives what it takes back at its own end; no lane is in order, and there are few priorities and few sets of lanes.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.engine.compiled_bare import bare
from emulation.engine.compiled_table import inner, kernel
from emulation.engine.play import Columns
from emulation.ops import END, HIGHEST

Ints = NDArray[np.int64]
Halves = NDArray[np.int32]

NONE = -1

LENGTH, KEY = range(2)
"""Of an operation, in words. KEY: its place among candidates, which also names it (`compiled_simple`)."""
WORDS = 4
NEXT, OUT, KIND, PENDING = range(4, 8)
"""And in halves of the same words. NEXT: behind it in a queue, and its event once it runs. OUT: the first who waits for
it. KIND: its set of lanes, its rank, whether it takes. PENDING: ends it waits for."""
HALVES = 8
RANK_SHIFT, SET_SHIFT = 1, 5
MOST_RANKS = 1 << (SET_SHIFT - RANK_SHIFT)
"""Priorities of one plan."""

POOL, NEEDS, AMOUNT, TAKER = range(4)
TAKE_WORDS = 4

MOST_LANES = 4
"""Of an operation."""
SETS_A_LANE = 8
"""Sets of lanes, for each lane: a lane's sets are all told when it fills or empties."""
HASH_FACTOR, HASH_MASK, HASH_SHIFT = 1_640_531_527, (1 << 30) - 1, 14

SETS, RANKS, BITS, RUNNING, FIRST, FIRST_TAKE = range(6)
"""Scalars: sets and priorities in use, bits of an operation's number, most that run at a time, the plan's first serial
and take."""
SCALARS = 6

SIMPLE, NOT_SIMPLE = range(2)


class Rows(NamedTuple):
    """ops [n + 2], of WORDS words, the last two nobody's: `halves` is the same memory. out: who waits, a list an
    operation one after the other, doubled, the last of each odd. first_take [n + 1]. takes, of TAKE_WORDS words.
    sets: MOST_LANES lanes each, NONE where fewer. buckets: sets by their lanes. ranks: priorities, ascending.
    servers of each lane, 0 where it is in order; capacity of each pool."""

    ops: Ints
    halves: Halves
    out: Halves
    count: Halves
    first_take: Halves
    takes: Ints
    sets: Halves
    buckets: Halves
    ranks: Ints
    servers: Ints
    capacity: Ints


_ONE, _HALF = np.zeros(1, np.int64), np.zeros(1, np.int32)
ROWS_LIKE = Rows(_ONE, _HALF, _HALF, _HALF, _HALF, _ONE, _HALF, _HALF, _ONE, _ONE, _ONE)


@inner
def note_priorities(s: Any, t: Any, priority: Any, n: int) -> bool:
    count = 0
    for i in range(n):
        new = True
        for k in range(count):
            new &= t.ranks[k] != priority[i]
        if new:
            if count == MOST_RANKS or abs(priority[i]) > HIGHEST:
                return False
            k = count
            while k > 0 and t.ranks[k - 1] > priority[i]:
                t.ranks[k] = t.ranks[k - 1]
                k -= 1
            t.ranks[k] = priority[i]
            count += 1
    s[RANKS] = count
    return True


@inner
def set_of_lanes(s: Any, t: Any, at: int) -> int:
    """The set of the lanes that lie at row `at`, the first that is not in use; NONE where there is no room for it."""
    code = 0
    for k in range(MOST_LANES):
        code = (code + int(t.sets[at + k]) + 2) * HASH_FACTOR & HASH_MASK
    buckets = len(t.buckets)
    bucket = (code >> HASH_SHIFT) & (buckets - 1)
    while t.buckets[bucket] != NONE:
        known = MOST_LANES * t.buckets[bucket]
        same = True
        for k in range(MOST_LANES):
            same &= t.sets[known + k] == t.sets[at + k]
        if same:
            return int(t.buckets[bucket])
        bucket = (bucket + 1) & (buckets - 1)
    if at + 2 * MOST_LANES > len(t.sets):
        return NONE
    t.buckets[bucket] = s[SETS]
    s[SETS] += 1
    return int(s[SETS] - 1)


@inner
def set_of_holds(s: Any, t: Any, o: Any, i: int) -> int:
    """The set of the lanes of an operation; NONE where its holds are not simple, or not right."""
    first, count, length = o.hold_ptr[i], o.hold_ptr[i + 1] - o.hold_ptr[i], o.length_ps[i]
    if count < 1 or count > MOST_LANES:
        return NONE
    right = True
    for k in range(first, first + count):
        lane = o.hold_lane[k]
        if lane < 0 or lane >= len(t.servers):
            return NONE
        right &= (o.hold_ps[k] == length) & (t.servers[lane] > 0)
    if not right:
        return NONE
    if count == 1:
        return int(o.hold_lane[first])
    at = MOST_LANES * s[SETS]
    for k in range(MOST_LANES):
        t.sets[at + k] = NONE
    for k in range(count):
        lane, place = o.hold_lane[first + k], at + k
        while place > at and t.sets[place - 1] > lane:
            t.sets[place] = t.sets[place - 1]
            place -= 1
        if place > at and t.sets[place - 1] == lane:
            return NONE
        t.sets[place] = lane
    return set_of_lanes(s, t, at)


@inner
def copy_takes(t: Any, o: Any, i: int) -> bool:
    for k in range(o.take_ptr[i], o.take_ptr[i + 1]):
        pool = o.take_pool[k]
        if pool < 0 or pool >= len(t.capacity):
            return False
        most = t.capacity[pool]
        for other in range(o.take_ptr[i], k):
            if o.take_pool[other] == pool:
                most -= o.take_amount[other]
        if o.take_amount[k] < 0 or o.take_amount[k] > o.take_needs[k] or o.take_needs[k] > most:
            return False
        row = TAKE_WORDS * k
        t.takes[row + POOL], t.takes[row + NEEDS] = pool, o.take_needs[k]
        t.takes[row + AMOUNT], t.takes[row + TAKER] = o.take_amount[k], i
    return True


@inner
def are_given_back(s: Any, t: Any, o: Any) -> bool:
    """Whether each take is given back at the end of its operation, and once."""
    takes = len(o.take_pool)
    if len(o.release_take) != takes or len(o.release_op) != takes:
        return False
    for k in range(takes):
        take = o.release_take[k] - s[FIRST_TAKE]
        if take < 0 or take >= takes or o.release_ptr[k] != k or o.release_edge[k] != END:
            return False
        row = TAKE_WORDS * take + TAKER
        if t.takes[row] != o.release_op[k] - s[FIRST]:
            return False
        t.takes[row] = NONE
    return True


@inner
def list_waiters(t: Any, o: Any, n: int, first: int) -> None:
    """In `out`, from row 1: row 0 is the list of those for whom nobody waits, and names the row after the last."""
    at = 1
    for i in range(n):
        count = t.count[i]
        at += count
        t.count[i] = at
        t.halves[HALVES * i + OUT] = at - count if count else 0
    for i in range(n - 1, -1, -1):
        for k in range(o.wait_ptr[i + 1] - 1, o.wait_ptr[i] - 1, -1):
            row = o.wait_op[k] - first
            place = t.count[row] - 1
            t.count[row] = place
            t.out[place] = 2 * i
    for i in range(1, n):
        t.out[t.count[i] - 1] |= 1
    t.out[at - 1] |= 1
    t.out[0] = 2 * (n + 1) + 1


@kernel(_ONE, ROWS_LIKE, Columns(*[_ONE] * len(Columns._fields)))
def load_rows(scalars: Ints, rows: Rows, columns: Columns) -> int:
    """SIMPLE, with the rows filled and the scalars set; or NOT_SIMPLE. There is room for the columns."""
    s, t, o = bare(scalars), bare(rows), bare(columns)
    n, first = len(o.priority), s[FIRST]
    if not note_priorities(s, t, o.priority, n):
        return NOT_SIMPLE
    s[SETS] = len(t.servers)
    for lane in range(len(t.servers)):
        t.sets[MOST_LANES * lane] = lane
        for k in range(1, MOST_LANES):
            t.sets[MOST_LANES * lane + k] = NONE
    for i in range(len(t.buckets)):
        t.buckets[i] = NONE
    for i in range(n):
        t.count[i] = 0
    ranks, total, room, far = s[RANKS], 0, 62 - s[BITS], 0
    for i in range(n):
        length = o.length_ps[i]
        lanes = set_of_holds(s, t, o, i)
        if lanes == NONE or length < 0 or o.quantum_ps[i] != 0 or not copy_takes(t, o, i):
            return NOT_SIMPLE
        total += length
        far |= total >> room
        rank = 0
        for k in range(ranks):
            rank += int(o.priority[i] > t.ranks[k])
        low, high = o.wait_ptr[i], o.wait_ptr[i + 1]
        pending = high - low
        for k in range(low, high):
            row = o.wait_op[k] - first
            if row < 0 or row >= i or o.wait_edge[k] != END:
                return NOT_SIMPLE
            t.count[row] += 1
        t.first_take[i] = o.take_ptr[i]
        t.ops[WORDS * i + LENGTH] = length
        t.halves[HALVES * i + KIND] = lanes << SET_SHIFT | rank << RANK_SHIFT | int(o.take_ptr[i + 1] > o.take_ptr[i])
        t.halves[HALVES * i + PENDING] = pending
    t.first_take[n] = o.take_ptr[n]
    if far or not are_given_back(s, t, o):
        return NOT_SIMPLE
    list_waiters(t, o, n, first)
    return SIMPLE
