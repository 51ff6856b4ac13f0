"""Heaps of the compiled engine: events, candidates of a pass, and queues of blocked candidates."""

from emulation.engine import compiled_layout as c
from emulation.engine.compiled_layout import NONE
from emulation.engine.compiled_table import Ints, inner


@inner
def push_event(events: Ints, n: int, at: int, what: int) -> None:
    """Sift (at, what) up from place n."""
    while n > 0:
        up = (n - 1) >> 1
        if events[up, c.AT] < at or (events[up, c.AT] == at and events[up, c.WHAT] < what):
            break
        events[n, c.AT], events[n, c.WHAT] = events[up, c.AT], events[up, c.WHAT]
        n = up
    events[n, c.AT], events[n, c.WHAT] = at, what


@inner
def drop_event(events: Ints, n: int, place: int) -> None:
    """Remove the event at `place` of n: the gap sinks to the bottom, and the last event rises from there.

    Which child is earlier is computed, not branched upon: it is as good as random.
    """
    n -= 1
    at, what = events[n, c.AT], events[n, c.WHAT]
    down = 2 * place + 1
    while down < n:
        other = down + int(down + 1 < n)
        down += int((events[other, c.AT] < events[down, c.AT])
                    | ((events[other, c.AT] == events[down, c.AT])
                       & (events[other, c.WHAT] < events[down, c.WHAT])))
        events[place, c.AT], events[place, c.WHAT] = events[down, c.AT], events[down, c.WHAT]
        place = down
        down = 2 * place + 1
    push_event(events, place, at, what)


@inner
def copy_candidate(heap: Ints, to: int, source: int) -> None:
    heap[to, c.BY_ORDER], heap[to, c.BY_ROW] = heap[source, c.BY_ORDER], heap[source, c.BY_ROW]
    heap[to, c.ORIGIN] = heap[source, c.ORIGIN]


@inner
def push_candidate(heap: Ints, n: int, order: int, op: int, origin: int) -> None:
    while n > 0:
        up = (n - 1) >> 1
        if heap[up, c.BY_ORDER] < order or (heap[up, c.BY_ORDER] == order and heap[up, c.BY_ROW] <= op):
            break
        copy_candidate(heap, n, up)
        n = up
    heap[n, c.BY_ORDER], heap[n, c.BY_ROW], heap[n, c.ORIGIN] = order, op, origin


@inner
def sift_candidate(heap: Ints, n: int, order: int, op: int, origin: int) -> None:
    """Put a candidate in the place of the first of n, and let it sink."""
    place = 0
    while True:
        down = 2 * place + 1
        if down >= n:
            break
        other = down + 1
        if other < n and (heap[other, c.BY_ORDER] < heap[down, c.BY_ORDER] or (
                heap[other, c.BY_ORDER] == heap[down, c.BY_ORDER]
                and heap[other, c.BY_ROW] < heap[down, c.BY_ROW])):
            down = other
        if order < heap[down, c.BY_ORDER] or (order == heap[down, c.BY_ORDER] and op < heap[down, c.BY_ROW]):
            break
        copy_candidate(heap, place, down)
        place = down
    heap[place, c.BY_ORDER], heap[place, c.BY_ROW], heap[place, c.ORIGIN] = order, op, origin


@inner
def drop_candidate(heap: Ints, n: int) -> None:
    """Remove the first of n candidates."""
    n -= 1
    sift_candidate(heap, n, heap[n, c.BY_ORDER], heap[n, c.BY_ROW], heap[n, c.ORIGIN])


@inner
def before(ops: Ints, a: int, b: int) -> bool:
    if ops[a, c.ORDER] != ops[b, c.ORDER]:
        return bool(ops[a, c.ORDER] < ops[b, c.ORDER])
    return a < b


@inner
def meld(ops: Ints, a: int, b: int) -> int:
    """One pairing heap of two, each given by its first operation or NONE."""
    if a == NONE:
        return b
    if b == NONE:
        return a
    if before(ops, b, a):
        a, b = b, a
    ops[b, c.SIBLING] = ops[a, c.CHILD]
    ops[a, c.CHILD] = b
    return a


@inner
def enqueue(ops: Ints, root: int, op: int) -> int:
    ops[op, c.CHILD] = NONE
    ops[op, c.SIBLING] = NONE
    return meld(ops, root, op)


@inner
def dequeue(ops: Ints, root: int) -> int:
    """The heap without its first operation: its children melded in pairs, then the pairs from the last to the first."""
    child = ops[root, c.CHILD]
    if child == NONE or ops[child, c.SIBLING] == NONE:
        return int(child)
    pairs = NONE
    while child != NONE:
        other = ops[child, c.SIBLING]
        if other == NONE:
            ops[child, c.SIBLING] = pairs
            pairs = child
            break
        rest = ops[other, c.SIBLING]
        pair = meld(ops, child, other)
        ops[pair, c.SIBLING] = pairs
        pairs = pair
        child = rest
    first = NONE
    while pairs != NONE:
        rest = ops[pairs, c.SIBLING]
        first = meld(ops, first, pairs)
        pairs = rest
    return first
