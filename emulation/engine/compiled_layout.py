"""Columns of the compiled engine's tables: one row of int64 for each operation, hold, take, release, lane and pool.

Rows are counted from the oldest operation, hold, ... that is still kept; `compact` renumbers them. What the loop reads
of an operation is one line of the cache; what it seldom reads lies elsewhere.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

NONE = -1

# An operation. ORDER: its place among candidates (the row decides between equals): its priority and, below it, the
# instant at which it became ready. META: counts of holds and takes, and flags. WHERE: its first hold, and above it the
# set of its lanes. ON_END, ON_START: the first link of the list of those who wait for that edge.
ORDER, CHILD, SIBLING, WHERE, META, REST, RESUMED, ON_END = range(8)
QUANTUM, ON_START = range(2)  # in `more`
PRIORITY_SHIFT = 40
COUNT = (1 << 20) - 1
TAKE_SHIFT = 20
WHOLE = 1 << 40
"""All its holds are as long as the operation: one event ends it."""
WATCHED = 1 << 41
STOPS = 1 << 42
"""It has a quantum."""
PARTIAL = 1 << 43
"""It was stopped after it had left a lane for good: it waits for fewer lanes than its set has."""
TURNS = 1 << 44
"""One of its lanes is in order."""
AWAITED = 1 << 45
"""Somebody waits for its start."""
STARTED = 1 << 46
ENDED = 1 << 47
HALF_SHIFT = 32
LOW_HALF = (1 << HALF_SHIFT) - 1

# What an operation still waits for: the number of edges, or one of these.
CANDIDATE, OUT_OF_TURN = -1, -2

# A hold. HOLD_PS is GONE once a lane of an operation with a quantum was left for good.
LANE, HOLD_PS = range(2)
GONE = -1

# More of a hold. TURN: whose turn comes after it in an in-order lane. PEER: the next operation with a quantum that
# holds the lane.
TURN, PEER = range(2)

# A link of the list of those who wait for an edge, in one number, 0 for none: the node of this wait + 1, whether it is
# the last, and below it who waits (an operation, or ~release) + HALF. The first link lies with the operation, and each
# of the others in the node of the wait before it.
NODE_SHIFT = 33
LAST_LINK = 1 << 32
WAITER_MASK = LAST_LINK - 1
HALF = 1 << 31

POOL, NEEDS, AMOUNT, TAKER, TAKEN, PROMISED, GIVEN, HANDLE = range(8)

RELEASED, PENDING, RELEASE_NODE = range(3)

# A lane. STOPPABLE: list of holders with a quantum. BALANCE: work left, and the times since which it is worked off.
# SETS: the first of its places in sets. SHADOW: heap of candidates. CLAIM, SHADE: the pass in which it was claimed, and
# in which a claimer found it full and still does.
IDLE_SERVERS, STOPPABLE, SETS, ACTIVE, BALANCE, CLAIM, SHADE, SHADOW = range(8)
SHADOW_OPEN, CLAIM_PRIORITY, IN_ORDER, HEAD, TAIL = range(8, 13)

# A pool. LEAST: no candidate in the queue needs less. ASIDE: those found to need more in this pass.
FREE, POOL_QUEUE, LEAST, ASIDE, ASIDE_LEAST, POOL_OPEN, POOL_ACTIVE, CAPACITY = range(8)

# A set of lanes that operations need together; the first sets are the lanes, each alone. QUEUE: heap of candidates.
# MEMBERS_AT, WIDTH: its lanes. SAME_BUCKET: the next set of the same bucket (+ 1).
QUEUE, QUEUE_OPEN, MEMBERS_AT, WIDTH, SAME_BUCKET, HASH = range(6)
HASH_FACTOR, HASH_MASK, HASH_SHIFT = 1_640_531_527, (1 << 30) - 1, 14

# A lane's place in a set. OTHER_LANE: the next of the set, in a ring.
MEMBER_LANE, MEMBER_SET, OTHER_LANE, NEXT_MEMBER = range(4)

# Lists of rows.
FRESH, CLAIMERS, DUE, REACHED, ACTIVES, VICTIMS = range(6)

# An event: when, and who and what: the hold that ends, by its place among the holds, or one of these.
AT, WHAT = range(2)
WHO_SHIFT = 21
WHAT_MASK = (1 << WHO_SHIFT) - 1
LAST = 1 << 20
ALL = LAST + 1

# A candidate of a pass: its order, and where it comes from: the queue of a set, a lane's shadow, a pool, or one of
# these.
BY_ORDER, BY_ROW, ORIGIN = range(3)
FROM_SHADOW, FROM_POOL = 1 << 32, 1 << 33
FROM_FRESH, FROM_CLAIMERS = -1, -2


class Tables(NamedTuple):
    """All tables: arrays, or in kernels bare pointers.

    firsts: of an operation the first node and, above it, the first take. more: what only few operations have, those
    with a quantum (STOPS) and those for whose start somebody waits (AWAITED).
    """

    lanes: Any
    pools: Any
    events: Any
    heap: Any
    sets: Any
    members: Any
    buckets: Any
    ops: Any
    states: Any
    starts: Any
    ends: Any
    holds: Any
    nodes: Any
    takes: Any
    releases: Any
    log: Any
    firsts: Any
    more: Any
    turns: Any
    lists: Any


OP_COLUMNS, MORE_COLUMNS, HOLD_COLUMNS, TAKE_COLUMNS, RELEASE_COLUMNS = 8, 2, 2, 8, 3
WIDTHS = Tables(
    lanes=16, pools=8, events=2, heap=3, sets=6, members=4, buckets=1, ops=OP_COLUMNS, states=1, starts=1, ends=1,
    holds=HOLD_COLUMNS, nodes=1, takes=TAKE_COLUMNS, releases=RELEASE_COLUMNS, log=4, firsts=1, more=MORE_COLUMNS,
    turns=HOLD_COLUMNS, lists=6)
SETS_TABLE, MEMBERS_TABLE, BUCKETS_TABLE = (Tables._fields.index(name) for name in ("sets", "members", "buckets"))
LOG = Tables._fields.index("log")

# What an array of scalars holds: counts of rows in use, the clock, where row 0 lies among serials and handles, and
# where in memory each table lies.
NOW, OPS, HOLDS, NODES, TAKES, RELEASES, EVENTS, LOGGED, FRESH_N, CLAIM_N, DUE_N, REACHED_N, ACTIVE_N = range(13)
PASS, ALARM, UNENDED, FIRST, TAKE_FIRST, TAKES_OLD, N_LANES, N_POOLS, INSTANT, HELD, SETS_N = range(13, 24)
MEMBERS_N, LISTED, ZERO = range(24, 27)
ROOM = 27
AT_WORD = ROOM + len(WIDTHS)
SCALARS = AT_WORD + len(WIDTHS)

COUNTS = Tables(
    lanes=N_LANES, pools=N_POOLS, events=EVENTS, heap=ZERO, sets=SETS_N, members=MEMBERS_N, buckets=ZERO, ops=OPS,
    states=OPS, starts=OPS, ends=OPS, holds=HOLDS, nodes=NODES, takes=TAKES, releases=RELEASES, log=LOGGED,
    firsts=OPS, more=OPS, turns=HOLDS, lists=LISTED)
"""Which scalar counts the rows in use of each table between calls of kernels."""

FAR = (1 << 63) - 1

# What `append` and `run_loop` return.
ACCEPTED, REFUSED, TOO_WIDE, SETS_FULL = range(4)
IDLE, STOPPED, LOG_FULL = range(3)
