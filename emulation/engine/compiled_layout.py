"""Columns of the compiled engine's arrays: one row of int64 for each operation, hold, take, release, lane and pool.

Rows are counted from the oldest operation, hold, ... that is still kept; `compact` renumbers them.
"""

NONE = -1

# What an array of scalars holds: counts of rows in use, the clock, and where row 0 lies among serials and handles.
NOW, OPS, HOLDS, NODES, TAKES, RELEASES, EVENTS, LOGGED, FRESH_N, CLAIM_N, DUE_N, REACHED_N, ACTIVE_N = range(13)
PASS, ALARM, UNENDED, FIRST, TAKE_FIRST, TAKES_OLD, N_LANES, N_POOLS, LOG_ROOM = range(13, 22)
SCALARS = 22

# An operation. META: counts of holds and takes, and flags. What it still waits for is a column of its own, since others
# reach it from all over: the number of edges, or one of the two states below.
PRIORITY, READY, CHILD, SIBLING, HOLD, TAKE, META, REST = range(8)
ON_START, ON_END, START_PS, END_PS, QUANTUM, RESUMED, NODE = range(8, 15)
OP_COLUMNS = 16
CANDIDATE, OUT_OF_TURN = -1, -2
COUNT = (1 << 20) - 1
TAKE_SHIFT = 20
WHOLE = 1 << 40
"""All its holds are as long as the operation: one event ends it."""
WATCHED = 1 << 41

# A hold. HOLD_PS is GONE once a lane of an operation with a quantum was left for good. TURN: whose turn comes after it
# in an in-order lane. PEER: the next operation with a quantum that holds the lane.
LANE, HOLD_PS, TURN, PEER = range(4)
HOLD_COLUMNS = 4
GONE = -1

# A node of the list of those who wait for an edge, in one number: the next node + 1, and below it who waits (an
# operation, or ~release) + HALF.
NODE_SHIFT = 32
WAITER_MASK = (1 << NODE_SHIFT) - 1
HALF = 1 << (NODE_SHIFT - 1)

POOL, NEEDS, AMOUNT, TAKER, TAKEN, PROMISED, GIVEN, HANDLE = range(8)
TAKE_COLUMNS = 8

RELEASED, PENDING, RELEASE_NODE = range(3)
RELEASE_COLUMNS = 4

# A lane. QUEUE, SHADOW: heaps of candidates that it blocks. STOPPABLE: list of holders with a quantum. CLAIM, SHADE:
# the pass in which it was claimed, and in which a claimer found it full and still does.
SERVERS, HELD, QUEUE, SHADOW, STOPPABLE, IN_ORDER, HEAD, TAIL = range(8)
LEFT, SINCE, CLAIM, CLAIM_PRIORITY, SHADE, QUEUE_OPEN, SHADOW_OPEN, ACTIVE = range(8, 16)
LANE_COLUMNS = 16

# A pool. LEAST: no candidate in the queue needs less. ASIDE: those found to need more in this pass.
FREE, POOL_QUEUE, LEAST, ASIDE, ASIDE_LEAST, POOL_OPEN, POOL_ACTIVE, CAPACITY = range(8)
POOL_COLUMNS = 8

# Lists of rows.
FRESH, CLAIMERS, DUE, REACHED, ACTIVES, VICTIMS = range(6)
LISTS = 6

# An event: when, who, and the hold that ends (or one of these).
AT, WHO, WHAT = range(3)
EVENT_COLUMNS = 3
ALL = -1
LAST = 1 << 62

# A candidate of a pass: its order, and where it comes from: a lane's queue, a lane's shadow, a pool, or one of these.
BY_PRIORITY, BY_READY, BY_ROW, ORIGIN = range(4)
CANDIDATE_COLUMNS = 4
FROM_FRESH, FROM_CLAIMERS = -1, -2

LOG_COLUMNS = 4

FAR = (1 << 63) - 1

# What `append` and `run_loop` return.
ACCEPTED, REFUSED, TOO_WIDE = range(3)
IDLE, STOPPED, LOG_FULL = range(3)

