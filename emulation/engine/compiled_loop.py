"""The compiled engine's loop: instants, and what happens in each before its starts.

`s` is the array of scalars; the other names are those of the layout.
"""

from emulation.engine import compiled_layout as c
from emulation.engine.compiled_heaps import drop_event
from emulation.engine.compiled_layout import NONE
from emulation.engine.compiled_moves import happened, leave, take_row
from emulation.engine.compiled_pass import start_ready
from emulation.engine.compiled_table import (
    Ints,
    as_column,
    as_events,
    as_heap,
    as_holds,
    as_lanes,
    as_lists,
    as_log,
    as_ops,
    as_pools,
    as_releases,
    as_takes,
    inner,
    kernel,
)


@inner
def end_due(s: Ints, ops: Ints, states: Ints, holds: Ints, nodes: Ints, releases: Ints, lanes: Ints, log: Ints,
            events: Ints, lists: Ints) -> bool:
    now = s[c.NOW]
    while s[c.EVENTS] > 0 and events[0, c.AT] <= now:
        op, what = events[0, c.WHO], events[0, c.WHAT]
        meta = ops[op, c.META]
        first = ops[op, c.HOLD]
        end = first + (meta & c.COUNT)
        if s[c.LOG_ROOM] - s[c.LOGGED] < end - first:
            return False
        drop_event(events, s[c.EVENTS], 0)
        s[c.EVENTS] -= 1
        if what == c.ALL:
            for row in range(first, end):
                leave(s, ops, holds, lanes, log, lists, op, row)
        elif what != c.LAST:
            leave(s, ops, holds, lanes, log, lists, op, what)
            if ops[op, c.QUANTUM] > 0:
                holds[what, c.HOLD_PS] = c.GONE
            continue
        ops[op, c.END_PS] = now
        s[c.UNENDED] -= 1
        if meta & c.WATCHED:
            lists[s[c.REACHED_N], c.REACHED] = op
            s[c.REACHED_N] += 1
        node = ops[op, c.ON_END]
        if node != NONE:
            ops[op, c.ON_END] = NONE
            happened(s, ops, states, nodes, releases, lists, node)
    return True


@inner
def release_due(s: Ints, takes: Ints, lists: Ints, pools: Ints) -> None:
    for k in range(s[c.DUE_N]):
        take = take_row(s, takes, lists[k, c.DUE])
        takes[take, c.GIVEN] = 1
        pool = takes[take, c.POOL]
        pools[pool, c.FREE] += takes[take, c.AMOUNT]
        if pools[pool, c.POOL_QUEUE] != NONE and not pools[pool, c.POOL_ACTIVE]:
            pools[pool, c.POOL_ACTIVE] = 1
            lists[s[c.ACTIVE_N], c.ACTIVES] = ~pool
            s[c.ACTIVE_N] += 1
    s[c.DUE_N] = 0


@kernel("int64(int64[::1], int64[:,::1], int64[::1], int64[:,::1], int64[::1], "
        + ", ".join(["int64[:,::1]"] * 8) + ", int64)")
def run_loop(scalars: Ints, op_rows: Ints, state_rows: Ints, hold_rows: Ints, node_rows: Ints, take_rows: Ints,
             release_rows: Ints, lane_rows: Ints, pool_rows: Ints, log_rows: Ints, event_rows: Ints, heap_rows: Ints,
             list_rows: Ints, to_ps: int) -> int:
    """Instants before `to_ps`, each to its end; STOPPED after the ends of one in which a watched operation ended.

    LOG_FULL: the log needs room; call again and it goes on where it was.
    """
    s, ops, holds = as_column(scalars), as_ops(op_rows), as_holds(hold_rows)
    states = as_column(state_rows)
    nodes, takes = as_column(node_rows), as_takes(take_rows)
    releases, lanes = as_releases(release_rows), as_lanes(lane_rows)
    pools, log = as_pools(pool_rows), as_log(log_rows)
    events, heap = as_events(event_rows), as_heap(heap_rows)
    lists = as_lists(list_rows)
    while s[c.NOW] < to_ps:
        while True:
            if not end_due(s, ops, states, holds, nodes, releases, lanes, log, events, lists):
                return c.LOG_FULL
            release_due(s, takes, lists, pools)
            if s[c.REACHED_N] > 0:
                return c.STOPPED
            if s[c.LOG_ROOM] - s[c.LOGGED] < s[c.HOLDS]:
                return c.LOG_FULL
            changed = start_ready(s, ops, states, holds, nodes, takes, releases, lanes, pools, log, events, heap, lists)
            if not changed and not (s[c.EVENTS] > 0 and events[0, c.AT] == s[c.NOW]):
                break
        if s[c.EVENTS] == 0:
            return c.IDLE
        s[c.NOW] = min(to_ps, events[0, c.AT], s[c.ALARM])
    return c.IDLE


@kernel("boolean(int64[::1], int64[:,::1], int64[::1], int64[:,::1], int64[::1], "
        + ", ".join(["int64[:,::1]"] * 7) + ")")
def settle(scalars: Ints, op_rows: Ints, state_rows: Ints, hold_rows: Ints, node_rows: Ints, take_rows: Ints,
           release_rows: Ints, lane_rows: Ints, pool_rows: Ints, log_rows: Ints, event_rows: Ints,
           list_rows: Ints) -> bool:
    """The ends and releases due now, and no starts; False where the log needs room first."""
    s, ops, holds = as_column(scalars), as_ops(op_rows), as_holds(hold_rows)
    states = as_column(state_rows)
    nodes, releases = as_column(node_rows), as_releases(release_rows)
    lanes, events = as_lanes(lane_rows), as_events(event_rows)
    lists, log = as_lists(list_rows), as_log(log_rows)
    if not end_due(s, ops, states, holds, nodes, releases, lanes, log, events, lists):
        return False
    release_due(s, as_takes(take_rows), lists, as_pools(pool_rows))
    return True
