"""The compiled lowering of one layer's plan: `experts.Experts` on arrays, in the same program order."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.lowering import compiled_ops as c
from emulation.lowering import compiled_state as k
from emulation.lowering.compiled_copies import count_moved, drop, evict, has, issue, load
from emulation.lowering.compiled_ops import NONE, Ints, Out, begin_op, end_op, hold, inner, wait
from emulation.lowering.compiled_state import Scratch, State
from emulation.lowering.tables import Tables

UNICAST, BROADCAST, ALL_TO_ALL = range(3)
RUN, LOAD, EVICT = range(3)

VERB, MOE, EXPERTS, PART, DEVICE, VICTIM, PRIORITY = range(7)
"""Columns of a plan's rows, [columns, rows]."""

NO_EXPERT = 65535
BITS = 62
"""Visits that fit into a mask."""


class Layer(NamedTuple):
    """What a layer is about. experts uint16 [tokens, layers, top_k]; home [tokens]: the place of a token's home among
    the homes; counts [layers, experts]: tokens of each expert."""

    experts: NDArray[np.uint16]
    home: Ints
    counts: NDArray[np.int64]


@inner
def run_kernel(t: Tables, o: Out, device: int, family: int, ps: int, expert: int, bytes_: int) -> int:
    """Begin a kernel on a device, issued where it has an issuer; its waits follow, then `end_kernel`."""
    issued = issue(t, o, device, family)
    begin_op(o, family, 0, device, expert, bytes_)
    for i in range(t.lane_ptr[device], t.lane_ptr[device + 1]):
        hold(o, t.lanes[i], ps)
    return issued


@inner
def end_kernel(o: Out, issued: int) -> int:
    wait(o, issued)
    end_op(o)
    return o.n[c.FIRST] + o.n[c.OPS] - 1


@inner
def visit(w: Scratch, visits: int, device: int) -> int:
    """How many visits there are now."""
    if w.visit_of[device] == NONE:
        w.visit_of[device] = visits
        w.visit_device[visits] = device
        w.first_run[visits] = NONE
        w.arrived_n[visits] = NONE
        return visits + 1
    return visits


@inner
def check(t: Tables, s: State, w: Scratch, y: Layer, rows: NDArray[np.int64], n: int, moe: int) -> int:
    """How many devices are visited; NONE where the plan is not plain and right: each active expert runs once, in all of
    its parts; nothing else runs. Notes in `w` which devices run which experts."""
    experts, parts, layers = y.counts.shape[1], s.rest.shape[2], s.rest.shape[0]
    visits = active = 0
    for expert in range(experts):
        w.ran[expert] = 0
        w.first_on[expert] = NONE
        active += y.counts[moe, expert] > 0
    covered = on = 0
    for i in range(n):
        expert, part, device = rows[EXPERTS, i], rows[PART, i], rows[DEVICE, i]
        if expert < 0 or expert >= experts or part < -1 or part >= parts or device < 0 or device >= len(w.visit_of):
            return NONE
        victim = rows[VICTIM, i]
        if victim < -1 or victim >= experts or rows[MOE, i] < 0 or rows[MOE, i] >= layers:
            return NONE
        if abs(rows[PRIORITY, i]) > 2**31:
            return NONE
        if rows[VERB, i] != RUN:
            continue
        if rows[MOE, i] != moe or t.expert[device, 0] == NONE or y.counts[moe, expert] == 0:
            return NONE
        visits = visit(w, visits, device)
        bits = parts if part == -1 else 1
        w.ran[expert] += bits
        covered += bits
        if w.ran[expert] > parts:
            return NONE
        first = w.first_on[expert]
        if part != -1:
            # A part runs once: parts come in ascending order, or the readable path looks.
            if first != NONE and w.run_end[first] >= part:
                return NONE
        w.run_end[on] = part
        w.on[on] = device
        w.next_on[on] = first
        w.first_on[expert] = on
        on += 1
    return visits if covered == active * parts else NONE


@inner
def count_rows(s: State, w: Scratch, y: Layer, visits: int, moe: int, homes: int) -> None:
    """The distinct tokens of each home that each visit needs (`rows`), and that leave each home at all (`sent`)."""
    tokens, top_k, experts = y.experts.shape[0], y.experts.shape[2], y.counts.shape[1]
    for h in range(homes):
        w.sent[h] = 0
        for v in range(visits):
            w.rows[v, h] = 0
    if visits > BITS:
        stamp_rows(s, w, y, moe)
        return
    for expert in range(experts):
        mask, on = 0, w.first_on[expert]
        while on != NONE:
            mask |= 1 << w.visit_of[w.on[on]]
            on = w.next_on[on]
        w.ran[expert] = mask
    for h in range(homes):
        w.back[0, h] = 0
        w.here[h] = 0 if w.visit_of[s.homes[h]] == NONE else 1 << w.visit_of[s.homes[h]]
    everywhere = (1 << visits) - 1
    for token in range(tokens):
        h, mask = y.home[token], 0
        for place in range(top_k):
            expert = y.experts[token, moe, place]
            if expert != NO_EXPERT:
                mask |= w.ran[expert]
        if mask == everywhere:
            w.back[0, h] += 1
        else:
            for v in range(visits):
                w.rows[v, h] += mask >> v & 1
        w.sent[h] += (mask & ~w.here[h]) != 0
    for h in range(homes):
        for v in range(visits):
            w.rows[v, h] += w.back[0, h]


@inner
def stamp_rows(s: State, w: Scratch, y: Layer, moe: int) -> None:
    """The same for more visits than a number has bits."""
    for device in range(len(w.stamp)):
        w.stamp[device] = NONE
    for token in range(y.experts.shape[0]):
        h, leaves = y.home[token], False
        for place in range(y.experts.shape[2]):
            expert = y.experts[token, moe, place]
            on = NONE if expert == NO_EXPERT else w.first_on[expert]
            while on != NONE:
                device = w.on[on]
                if w.stamp[device] != token:
                    w.stamp[device] = token
                    w.rows[w.visit_of[device], h] += 1
                    leaves |= device != s.homes[h]
                on = w.next_on[on]
        w.sent[h] += leaves


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
    count_moved(t, s, pair, cause, t.rows_bytes[tokens])
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
def arrive(t: Tables, s: State, o: Out, w: Scratch, v: int, homes: int, edges: NDArray[np.int64]) -> None:
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
                if w.rows[u, h] > 0 and s.homes[h] != w.visit_device[u] and not was_sent(s, w, u, h):
                    if not broadcast(t, s, o, w, u, visits, h):
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
    for u in range(v):
        if w.rows[u, h] > 0 and s.homes[h] != w.visit_device[u]:
            return True
    return False


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
    for v in range(first, visits):
        if w.rows[v, h] > 0 and w.visit_device[v] != home:
            pair = t.pair[home, w.visit_device[v]]
            if pair == NONE:
                return False
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
def run(t: Tables, s: State, o: Out, w: Scratch, y: Layer, v: int, row: int, moe: int, expert: int, part: int,
        step: int, homes: int) -> bool:
    """One expert (or part) over its tokens."""
    device, parts = w.visit_device[v], s.rest.shape[2]
    first, end = (0, parts) if part == -1 else (part, part + 1)
    slot = s.slot[device]
    ready = False
    for p in range(first, end):
        if not has(s, device, moe, expert, p):
            return False
        ready |= s.rest[moe, expert, p] != device and s.ready[slot, moe, expert, p] != NONE
    tokens, there = y.counts[moe, expert], 0
    for h in range(homes):
        there += w.rows[v, h]
    if ready:
        issue(t, o, device, c.WAIT)
    last = NONE
    if tokens < there and t.kernel[device, c.GATHER]:
        issued = run_kernel(t, o, device, c.GATHER, t.tokens_ps[t.gather[device], tokens], expert,
                            2 * t.rows_bytes[tokens])
        wait_inputs(s, o, w, v, moe, expert, first, end)
        last = end_kernel(o, issued)
    column = parts if part == -1 else part
    issued = run_kernel(t, o, device, c.EXPERT, t.tokens_ps[t.expert[device, column], tokens], expert,
                        t.expert_bytes[column, 0] + tokens * t.expert_bytes[column, 1])
    if last == NONE:
        wait_inputs(s, o, w, v, moe, expert, first, end)
    wait(o, last)
    last = end_kernel(o, issued)
    if t.kernel[device, c.SCATTER]:
        issued = run_kernel(t, o, device, c.SCATTER, t.tokens_ps[t.scatter[device], tokens], expert,
                            3 * t.rows_bytes[tokens])
        wait(o, last)
        last = end_kernel(o, issued)
    issue(t, o, device, c.RECORD)
    if slot != NONE:
        for p in range(first, end):
            if s.since[slot, moe, expert, p] != NONE:
                s.use[slot, moe, expert, p] = last
                s.use_step[slot, moe, expert, p] = step
    w.run_end[row] = last
    w.next_run[row] = NONE
    if w.first_run[v] == NONE:
        w.first_run[v] = row
    else:
        w.next_run[w.last_run[v]] = row
    w.last_run[v] = row
    return True


@inner
def wait_inputs(s: State, o: Out, w: Scratch, v: int, moe: int, expert: int, first: int, end: int) -> None:
    """A run waits for its tokens, and for the parts that were copied."""
    for i in range(w.arrived_n[v]):
        wait(o, w.arrived[v, i])
    device = w.visit_device[v]
    slot = s.slot[device]
    if slot != NONE:
        for p in range(first, end):
            if s.since[slot, moe, expert, p] != NONE:
                wait(o, s.ready[slot, moe, expert, p])


@inner
def wait_runs(o: Out, w: Scratch, v: int) -> None:
    row = w.first_run[v]
    while row != NONE:
        wait(o, w.run_end[row])
        row = w.next_run[row]


@inner
def collect(t: Tables, s: State, o: Out, w: Scratch, visits: int, exchange: int, homes: int) -> bool:
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
            count_moved(t, s, pair, c.BY_RETURN, bytes_)
            issued = issue(t, o, home if t.issuer[home] != NONE else device, c.COPY)
            begin_op(o, c.COPY, c.BY_RETURN, home, NONE, bytes_)
            i = o.n[c.OPS]
            o.length_ps[i] = max(hold_route(t, o, pair, w.rows[v, h]), o.length_ps[i])
            if synced == NONE:
                wait_runs(o, w, v)
            wait(o, synced)
            back = end_kernel(o, issued)
            if t.kernel[home, c.REDUCE]:
                issued = run_kernel(t, o, home, c.REDUCE, t.tokens_ps[t.reduce[home], w.rows[v, h]], NONE, 3 * bytes_)
                wait(o, back)
                back = end_kernel(o, issued)
            w.back[v, h] = back
    return True


@inner
def lower_plan(t: Tables, s: State, o: Out, w: Scratch, y: Layer, rows: NDArray[np.int64], n: int, moe: int,
               exchange: int, step: int, phase: int, decision: int) -> int:
    """The operations of a plan; how many visits it has, NONE where it is not plain and right."""
    homes, parts = len(s.homes), s.rest.shape[2]
    visits = check(t, s, w, y, rows, n, moe)
    if visits == NONE or exchange == ALL_TO_ALL:
        return NONE
    count_rows(s, w, y, visits, moe, homes)
    for i in range(n):
        if rows[VERB, i] == RUN:
            device, slot = rows[DEVICE, i], s.slot[rows[DEVICE, i]]
            s.runs[phase, device] += 1
            if slot != NONE:
                first, end = (0, parts) if rows[PART, i] == -1 else (rows[PART, i], rows[PART, i] + 1)
                for p in range(first, end):
                    op = s.prefetch[slot, moe, rows[EXPERTS, i], p]
                    if op != NONE and has(s, device, moe, rows[EXPERTS, i], p):
                        at = s.phase[0, k.USES]
                        s.used_op[at], s.used_at[at] = op, decision
                        s.phase[0, k.USES] = at + 1
                        s.prefetch[slot, moe, rows[EXPERTS, i], p] = NONE
    for i in range(n):
        verb, expert, part, device = rows[VERB, i], rows[EXPERTS, i], rows[PART, i], rows[DEVICE, i]
        first, end = (0, parts) if part == -1 else (part, part + 1)
        if verb == RUN:
            v = w.visit_of[device]
            if w.arrived_n[v] == NONE and not dispatch(t, s, o, w, v, visits, exchange, homes):
                return NONE
            if not run(t, s, o, w, y, v, i, moe, expert, part, step, homes):
                return NONE
        elif verb == LOAD:
            if not load(t, s, o, phase, rows[MOE, i], expert, first, end, device, rows[VICTIM, i], rows[PRIORITY, i]):
                return NONE
        else:
            gone = False
            for p in range(first, end):
                if drop(s, device, rows[MOE, i], expert, p):
                    gone = True
                    evict(s, o, device, rows[MOE, i], expert, p)
            if not gone:
                return NONE
    return visits if collect(t, s, o, w, visits, exchange, homes) else NONE
