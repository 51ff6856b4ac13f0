"""Sets of lanes that operations need together: those who need the same lanes wait in one queue."""

from emulation.engine import compiled_layout as c
from emulation.engine.compiled_layout import NONE, Tables
from emulation.engine.compiled_table import Ints, inner


@inner
def has_lanes(t: Tables, lanes: int, first: int, count: int) -> bool:
    """Whether a set is of the lanes of these holds."""
    if t.sets[lanes, c.WIDTH] != count:
        return False
    at = t.sets[lanes, c.MEMBERS_AT]
    same = True
    for k in range(count):
        same &= t.members[at + k, c.MEMBER_LANE] == t.holds[first + k, c.LANE]
    return same


@inner
def add_set(s: Ints, t: Tables, first: int, count: int) -> int:
    lanes, at = s[c.SETS_N], s[c.MEMBERS_N]
    if lanes >= s[c.ROOM + c.SETS_TABLE] or at + count > s[c.ROOM + c.MEMBERS_TABLE]:
        return NONE
    t.sets[lanes, c.QUEUE], t.sets[lanes, c.QUEUE_OPEN] = NONE, 0
    t.sets[lanes, c.MEMBERS_AT], t.sets[lanes, c.WIDTH] = at, count
    for k in range(count):
        lane = t.holds[first + k, c.LANE]
        t.members[at + k, c.MEMBER_LANE], t.members[at + k, c.MEMBER_SET] = lane, lanes
        t.members[at + k, c.OTHER_LANE] = t.holds[first + (k + 1) % count, c.LANE]
        t.members[at + k, c.NEXT_MEMBER] = t.lanes[lane, c.SETS]
        t.lanes[lane, c.SETS] = at + k
    s[c.SETS_N] = lanes + 1
    s[c.MEMBERS_N] = at + count
    return int(lanes)


@inner
def set_of_holds(s: Ints, t: Tables, first: int, count: int) -> int:
    """The set of the lanes of these holds, which are in order; NONE where it is new and there is no room for it."""
    if count <= 1:
        return int(t.holds[first, c.LANE]) if count else 0
    code = 0
    for row in range(first, first + count):
        code = (code + t.holds[row, c.LANE] + 1) * c.HASH_FACTOR & c.HASH_MASK
    bucket = (code >> c.HASH_SHIFT) % s[c.ROOM + c.BUCKETS_TABLE]
    lanes = t.buckets[bucket]
    while lanes != NONE:
        if has_lanes(t, lanes, first, count):
            return int(lanes)
        lanes = t.sets[lanes, c.SAME_BUCKET]
    lanes = add_set(s, t, first, count)
    if lanes != NONE:
        t.sets[lanes, c.HASH] = code
        t.sets[lanes, c.SAME_BUCKET] = t.buckets[bucket]
        t.buckets[bucket] = lanes
    return lanes
