"""The compiled lowering of activations: out to the devices that run experts, and back to the homes of their tokens."""

from emulation.lowering import compiled_ops as c
from emulation.lowering.compiled_copies import count_moved, issue
from emulation.lowering.compiled_ops import NONE, Out, begin_op, end_op, hold, inner, wait
from emulation.lowering.compiled_state import Scratch, State
from emulation.lowering.tables import Grid, Tables

UNICAST, BROADCAST, ALL_TO_ALL = range(3)


@inner
def run_kernel(t: Tables, s: State, o: Out, device: int, family: int, ps: int, expert: int, bytes_: int,
               flops: int) -> int:
    """Begin a kernel on a device, issued where it has an issuer; its waits follow, then `end_kernel`."""
    issued = issue(t, o, device, family)
    begin_op(o, family, 0, device, expert, bytes_)
    s.worked[device, 0] += bytes_
    s.worked[device, 1] += flops
    for i in range(t.lane_ptr[device], t.lane_ptr[device + 1]):
        hold(o, t.lanes[i], ps)
    return issued


@inner
def end_kernel(o: Out, issued: int) -> int:
    wait(o, issued)
    end_op(o)
    return o.n[c.FIRST] + o.n[c.OPS] - 1


@inner
def hold_route(t: Tables, o: Out, pair: int, tokens: int) -> int:
    """The copy being written holds a route for some tokens' rows; the time from start to arrival over it."""
    slowest_ps = 0
    for i in range(t.route_ptr[pair], t.route_ptr[pair + 1]):
        ps = t.tokens_ps[t.route_row[i], tokens]
        hold(o, t.route_lane[i], ps)
        slowest_ps = max(slowest_ps, ps)
    for i in range(t.end_ptr[pair], t.end_ptr[pair + 1]):
        hold(o, t.end_lane[i], slowest_ps)
    return slowest_ps + t.latency_ps[pair]


@inner
def send(t: Tables, s: State, o: Out, source: int, target: int, tokens: int, cause: int, after: int) -> int:
    """One message; `after`: an operation. Its own operation, or NONE where no links lead there."""
    pair = t.pair[source, target]
    if pair == NONE:
        return NONE
    count_moved(t, s, source, target, cause, t.rows_bytes[tokens])
    issued = issue(t, o, target if t.issuer[target] != NONE else source, c.COPY)
    begin_op(o, c.COPY, cause, target, NONE, t.rows_bytes[tokens])
    i = o.n[c.OPS]
    o.length_ps[i] = max(hold_route(t, o, pair, tokens), o.length_ps[i])
    wait(o, after)
    return end_kernel(o, issued)


@inner
def sync(t: Tables, o: Out, home: int, after: int) -> int:
    if t.issuer[home] == NONE:
        return after
    op = begin_op(o, c.SYNC, 0, home, NONE, 0)
    hold(o, t.issuer[home], t.sync_ps[home])
    wait(o, after)
    end_op(o)
    return op


@inner
def arrive(t: Tables, s: State, o: Out, w: Scratch, v: int, homes: int, edges: Grid) -> None:
    """Note when what a visit needs is there; edges [visits, homes]: its messages, NONE where there are none."""
    device = w.visit_device[v]
    w.arrived_n[v] = 0
    for h in range(homes):
        if s.homes[h] == device and w.hidden[h] != NONE:
            w.arrived[v, w.arrived_n[v]] = w.hidden[h]
            w.arrived_n[v] += 1
    for h in range(homes):
        if w.rows[v, h] > 0 and s.homes[h] != device:
            edge = edges[v, h]
            w.arrived[v, w.arrived_n[v]] = edge if t.issuer[device] != NONE else sync(t, o, s.homes[h], edge)
            w.arrived_n[v] += 1


@inner
def dispatch(t: Tables, s: State, o: Out, w: Scratch, v: int, visits: int, exchange: int, homes: int) -> bool:
    """Send the rows that a visit needs, the first time one of its runs is reached."""
    first, end = (v, v + 1) if exchange == UNICAST else (0, visits)
    if exchange == BROADCAST:
        for u in range(first, end):
            for h in range(homes):
                needs = w.rows[u, h] > 0 and s.homes[h] != w.visit_device[u] and not was_sent(s, w, u, h)
                if needs and not broadcast(t, s, o, w, u, visits, h):
                    return False
    else:
        for h in range(homes):
            if w.rows[v, h] > 0 and s.homes[h] != w.visit_device[v]:
                w.back[v, h] = send(t, s, o, s.homes[h], w.visit_device[v], w.rows[v, h], c.BY_DISPATCH, w.hidden[h])
                if w.back[v, h] == NONE:
                    return False
    for u in range(first, end):
        arrive(t, s, o, w, u, homes, w.back)
    return True


@inner
def was_sent(s: State, w: Scratch, v: int, h: int) -> bool:
    """Whether an earlier visit had this home broadcast."""
    sent = False
    for u in range(v):
        sent |= w.rows[u, h] > 0 and s.homes[h] != w.visit_device[u]
    return sent


@inner
def broadcast(t: Tables, s: State, o: Out, w: Scratch, first: int, visits: int, h: int) -> bool:
    """One message of a home that all visits receive that need rows of it."""
    home, target = s.homes[h], w.visit_device[first]
    tokens = w.sent[h]
    bytes_ = t.rows_bytes[tokens]
    issued = issue(t, o, target if t.issuer[target] != NONE else home, c.COPY)
    op = begin_op(o, c.COPY, c.BY_DISPATCH, target, NONE, bytes_)
    i = o.n[c.OPS]
    length_ps = 0
    s.worked[home, 0] += bytes_
    for v in range(first, visits):
        if w.rows[v, h] > 0 and w.visit_device[v] != home:
            pair = t.pair[home, w.visit_device[v]]
            if pair == NONE:
                return False
            s.worked[w.visit_device[v], 0] += bytes_
            for link in range(t.route_ptr[pair], t.route_ptr[pair + 1]):
                if w.crossed[t.route_link[link]] != op:
                    w.crossed[t.route_link[link]] = op
                    s.moved[t.route_link[link], c.BY_DISPATCH] += bytes_
            length_ps = max(length_ps, hold_route(t, o, pair, tokens))
            w.back[v, h] = op
    o.length_ps[i] = max(length_ps, o.length_ps[i])
    wait(o, w.hidden[h])
    end_kernel(o, issued)
    return True


@inner
def wait_runs(o: Out, w: Scratch, v: int) -> None:
    row = w.first_run[v]
    while row != NONE:
        wait(o, w.run_end[row])
        row = w.next_run[row]


@inner
def collect(t: Tables, s: State, o: Out, w: Scratch, visits: int, homes: int) -> bool:
    """Bring results back to the homes of their tokens; `back` becomes the sum's operation."""
    for v in range(visits):
        device = w.visit_device[v]
        for h in range(homes):
            home = s.homes[h]
            if w.rows[v, h] == 0 or home == device:
                continue
            pair = t.pair[device, home]
            if pair == NONE:
                return False
            synced = NONE
            if t.issuer[device] == NONE and t.issuer[home] != NONE:
                synced = begin_op(o, c.SYNC, 0, home, NONE, 0)
                hold(o, t.issuer[home], t.sync_ps[home])
                wait_runs(o, w, v)
                end_op(o)
            bytes_ = t.rows_bytes[w.rows[v, h]]
            count_moved(t, s, device, home, c.BY_RETURN, bytes_)
            issued = issue(t, o, home if t.issuer[home] != NONE else device, c.COPY)
            begin_op(o, c.COPY, c.BY_RETURN, home, NONE, bytes_)
            i = o.n[c.OPS]
            o.length_ps[i] = max(hold_route(t, o, pair, w.rows[v, h]), o.length_ps[i])
            if synced == NONE:
                wait_runs(o, w, v)
            wait(o, synced)
            back = end_kernel(o, issued)
            if t.kernel[home, c.REDUCE]:
                issued = run_kernel(t, s, o, home, c.REDUCE, t.tokens_ps[t.reduce[home], w.rows[v, h]], NONE,
                                    3 * bytes_, w.rows[v, h] * t.row_flops[0])
                wait(o, back)
                back = end_kernel(o, issued)
            w.back[v, h] = back
    return True
