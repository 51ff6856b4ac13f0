"""What rows of the compiled engine's tables say: where the parts of an operation lie, and who waits for an edge."""

from emulation.engine import compiled_layout as c
from emulation.engine.compiled_layout import NONE, Tables
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
def hold_of(t: Tables, op: int) -> int:
    """The first hold of `op`."""
    return int(t.ops[op, c.WHERE] & c.LOW_HALF)


@inner
def take_of(t: Tables, op: int) -> int:
    """The first take of `op`."""
    return int(t.firsts[op] >> c.HALF_SHIFT)


@inner
def set_of(t: Tables, op: int) -> int:
    """The set of the lanes of `op`."""
    return int(t.ops[op, c.WHERE] >> c.HALF_SHIFT)


@inner
def priority_of(t: Tables, op: int) -> int:
    return int(t.ops[op, c.ORDER] >> c.PRIORITY_SHIFT)


@inner
def lane_of(t: Tables, op: int, k: int) -> int:
    """The k-th lane of `op`. Those of a set lie closer at hand than holds."""
    return int(t.members[t.sets[set_of(t, op), c.MEMBERS_AT] + k, c.MEMBER_LANE])


@inner
def row_of(t: Tables, op: int, lane: int) -> int:
    """The hold of a lane that `op` has."""
    row = hold_of(t, op)
    while t.holds[row, c.LANE] != lane:
        row += 1
    return row


@inner
def is_packed(t: Tables, lane: int) -> bool:
    """Whether a lane is full of work that never makes way."""
    return bool(t.lanes[lane, c.IDLE_SERVERS] == 0 and t.lanes[lane, c.STOPPABLE] == NONE)


@inner
def link_of(node: int, last: int, waiter: int) -> int:
    return (node + 1) << c.NODE_SHIFT | last | (waiter + c.HALF)


@inner
def node_of(link: int) -> int:
    return (link >> c.NODE_SHIFT) - 1


@inner
def waiter_of(link: int) -> int:
    return (link & c.WAITER_MASK) - c.HALF
