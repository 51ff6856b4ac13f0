"""The compiled engine's loop: instants, and what happens in each before its starts."""

from emulation.engine import compiled_layout as c
from emulation.engine.compiled_heaps import drop_event
from emulation.engine.compiled_layout import Tables
from emulation.engine.compiled_moves import happened, leave
from emulation.engine.compiled_pass import start_ready
from emulation.engine.compiled_rows import hold_of, node_of, set_of, take_row, waiter_of
from emulation.engine.compiled_table import Ints, as_column, expect, inner, kernel, seldom, tables


@inner
def expect_end(s: Ints, t: Tables) -> None:
    """Fetch what the next end will touch: who waits for it, and who waits for its lanes."""
    if s[c.EVENTS] == 0:
        return
    op = t.events[0, c.WHAT] >> c.WHO_SHIFT
    link = t.ops[op, c.ON_END]
    if link:
        expect(t.ops, max(0, waiter_of(link)))
        if not link & c.LAST_LINK:
            waiter = max(0, waiter_of(t.nodes[node_of(link)]))
            expect(t.ops, waiter)
            expect(t.states, waiter)
    expect(t.ops, max(0, t.sets[set_of(t, op), c.QUEUE]))


@inner
def end_due(s: Ints, t: Tables) -> bool:
    """What ends now; False where the log needs room first."""
    now = s[c.NOW]
    while s[c.EVENTS] > 0 and t.events[0, c.AT] <= now:
        op, what = t.events[0, c.WHAT] >> c.WHO_SHIFT, t.events[0, c.WHAT] & c.WHAT_MASK
        meta = t.ops[op, c.META]
        if s[c.ROOM + c.LOG] - s[c.LOGGED] < meta & c.COUNT:
            return False
        drop_event(t.events, s[c.EVENTS], 0)
        s[c.EVENTS] -= 1
        expect_end(s, t)
        if what == c.ALL:
            for k in range(meta & c.COUNT):
                leave(s, t, op, k)
        elif what != c.LAST:
            leave(s, t, op, what)
            if meta & c.STOPS:
                t.holds[hold_of(t, op) + what, c.HOLD_PS] = c.GONE
            continue
        t.ends[op] = now
        t.ops[op, c.META] = meta | c.ENDED
        s[c.UNENDED] -= 1
        if meta & c.WATCHED:
            t.lists[s[c.REACHED_N], c.REACHED] = op
            s[c.REACHED_N] += 1
        happened(s, t, t.ops[op, c.ON_END])
        t.ops[op, c.ON_END] = 0
    return True


@inner
def release_due(s: Ints, t: Tables) -> None:
    for k in range(s[c.DUE_N]):
        take = take_row(s, t.takes, t.lists[k, c.DUE])
        t.takes[take, c.GIVEN] = 1
        pool = t.takes[take, c.POOL]
        t.pools[pool, c.FREE] += t.takes[take, c.AMOUNT]
        if t.pools[pool, c.POOL_QUEUE] != c.NONE and not t.pools[pool, c.POOL_ACTIVE]:
            t.pools[pool, c.POOL_ACTIVE] = 1
            t.lists[s[c.ACTIVE_N], c.ACTIVES] = ~pool
            s[c.ACTIVE_N] += 1
    s[c.DUE_N] = 0


@seldom
def run_instants(s: Ints, t: Tables, to_ps: int) -> int:
    """Instants before `to_ps`, each to its end; STOPPED after the ends of one in which a watched operation ended.

    LOG_FULL: the log needs room; call again and it goes on where it was.
    """
    while s[c.NOW] < to_ps:
        while True:
            if not end_due(s, t):
                return c.LOG_FULL
            release_due(s, t)
            if s[c.REACHED_N] > 0:
                return c.STOPPED
            if s[c.ROOM + c.LOG] - s[c.LOGGED] < s[c.HELD]:
                return c.LOG_FULL
            changed = start_ready(s, t)
            if not changed and not (s[c.EVENTS] > 0 and t.events[0, c.AT] == s[c.NOW]):
                break
        if s[c.EVENTS] == 0:
            return c.IDLE
        s[c.NOW] = min(to_ps, t.events[0, c.AT], s[c.ALARM])
        s[c.INSTANT] += 1
    return c.IDLE


@kernel("int64(int64[::1], int64[::1], int64)")
def run_loop(scalars: Ints, memory: Ints, to_ps: int) -> int:
    """`run_instants` from Python."""
    s = as_column(scalars)
    return run_instants(s, tables(s, memory), to_ps)


@kernel("boolean(int64[::1], int64[::1])")
def settle(scalars: Ints, memory: Ints) -> bool:
    """The ends and releases due now, and no starts; False where the log needs room first."""
    s = as_column(scalars)
    t = tables(s, memory)
    if not end_due(s, t):
        return False
    release_due(s, t)
    return True
