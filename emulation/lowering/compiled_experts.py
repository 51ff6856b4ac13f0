"""The compiled lowering of one layer's plan: `experts.Experts` on arrays, in the same program order."""

from emulation.lowering import compiled_ops as c
from emulation.lowering import compiled_state as k
from emulation.lowering.compiled_copies import drop, evict, has, issue, load
from emulation.lowering.compiled_moves import ALL_TO_ALL, UNICAST, collect, dispatch, end_kernel, run_kernel
from emulation.lowering.compiled_ops import NONE, Ints, Out, inner, wait
from emulation.lowering.compiled_state import Scratch, State
from emulation.lowering.compiled_visits import NO_EXPERT, Layer, count_rows
from emulation.lowering.tables import Grid, Tables
from emulation.ops import HIGHEST

RUN, LOAD, EVICT = range(3)

VERB, MOE, EXPERTS, PART, DEVICE, VICTIM, PRIORITY = range(7)
"""Columns of a plan's rows, [columns, rows]."""


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
def foretell(y: Layer, moe: int, expert: int, tokens: Ints, first: int, end: int) -> bool:
    """Note a run that is a layer early, for tokens[first:end]; whether it is the expert's only one and they exist."""
    top_k = y.ahead.shape[2]
    if first >= end or y.coming[moe, expert] > 0:
        return False
    for i in range(first, end):
        token, place = tokens[i], 0
        if token < 0 or token >= y.ahead.shape[1]:
            return False
        while place < top_k and y.ahead[moe, token, place] != NO_EXPERT:
            if y.ahead[moe, token, place] == expert:
                return False
            place += 1
        if place == top_k:
            return False
        y.ahead[moe, token, place] = expert
    y.coming[moe, expert] = end - first
    return True


@inner
def check(t: Tables, s: State, w: Scratch, a: Scratch, y: Layer, rows: Grid, n: int, tokens: Ints, ends: Ints,
          moe: int) -> int:
    """How many devices are visited; NONE where the plan is not plain and right: each active expert runs once, in all of
    its parts; nothing else runs but whole experts of the next layer, each once, for the tokens up to its of `ends`.
    Notes in `w` which devices run which experts, and in `a` the same of the next layer."""
    experts, parts, layers = y.counts.shape[1], s.rest.shape[2], s.rest.shape[0]
    visits = active = 0
    for expert in range(experts):
        w.ran[expert] = 0
        w.first_on[expert] = NONE
        a.first_on[expert] = NONE
        active += y.counts[moe, expert] > 0
    covered = on = early = 0
    a.visits[0] = 0
    for i in range(n):
        expert, part, device = rows[EXPERTS, i], rows[PART, i], rows[DEVICE, i]
        if expert < 0 or expert >= experts or part < -1 or part >= parts or device < 0 or device >= len(w.visit_of):
            return NONE
        victim = rows[VICTIM, i]
        if victim < -1 or victim >= experts or rows[MOE, i] < 0 or rows[MOE, i] >= layers:
            return NONE
        if abs(rows[PRIORITY, i]) > HIGHEST:
            return NONE
        if rows[VERB, i] != RUN:
            continue
        if t.expert[device, 0] == NONE:
            return NONE
        if rows[MOE, i] == moe + 1:
            if early == len(ends) or part != -1:
                return NONE
            if not foretell(y, moe + 1, expert, tokens, ends[early - 1] if early else 0, ends[early]):
                return NONE
            a.visits[0] = visit(a, a.visits[0], device)
            a.on[early] = device
            a.next_on[early] = NONE
            a.first_on[expert] = early
            early += 1
            continue
        if rows[MOE, i] != moe or y.counts[moe, expert] == 0:
            return NONE
        visits = visit(w, visits, device)
        bits = parts if part == -1 else 1
        w.ran[expert] += bits
        covered += bits
        if w.ran[expert] > parts:
            return NONE
        first = w.first_on[expert]
        # A part runs once: parts come in ascending order, or the readable path looks.
        if part != -1 and first != NONE and w.run_end[first] >= part:
            return NONE
        w.run_end[on] = part
        w.on[on] = device
        w.next_on[on] = first
        w.first_on[expert] = on
        on += 1
    return visits if covered == active * parts and early == len(ends) else NONE


@inner
def run(t: Tables, s: State, o: Out, w: Scratch, v: int, row: int, moe: int, expert: int, part: int, tokens: int,
        step: int, homes: int) -> bool:
    """One expert (or part) over so many tokens."""
    device, parts = w.visit_device[v], s.rest.shape[2]
    first, end = (0, parts) if part == -1 else (part, part + 1)
    slot = s.slot[device]
    ready = False
    for p in range(first, end):
        if not has(s, device, moe, expert, p):
            return False
        ready |= s.rest[moe, expert, p] != device and s.ready[slot, moe, expert, p] != NONE
    there = 0
    for h in range(homes):
        there += w.rows[v, h]
    if ready:
        issue(t, o, device, c.WAIT)
    last = NONE
    if tokens < there and t.kernel[device, c.GATHER]:
        issued = run_kernel(t, s, o, device, c.GATHER, t.tokens_ps[t.gather[device], tokens], expert,
                            2 * t.rows_bytes[tokens], 0)
        wait_inputs(s, o, w, v, moe, expert, first, end)
        last = end_kernel(o, issued)
    column = parts if part == -1 else part
    issued = run_kernel(t, s, o, device, c.EXPERT, t.tokens_ps[t.expert[device, column], tokens], expert,
                        t.expert_bytes[column, 0] + tokens * t.expert_bytes[column, 1],
                        t.expert_flops[column, 0] + tokens * t.expert_flops[column, 1])
    if last == NONE:
        wait_inputs(s, o, w, v, moe, expert, first, end)
    wait(o, last)
    last = end_kernel(o, issued)
    if t.kernel[device, c.SCATTER]:
        issued = run_kernel(t, s, o, device, c.SCATTER, t.tokens_ps[t.scatter[device], tokens], expert,
                            3 * t.rows_bytes[tokens], 0)
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
def lower_plan(t: Tables, s: State, o: Out, w: Scratch, a: Scratch, y: Layer, rows: Grid, n: int, tokens: Ints,
               ends: Ints, moe: int, exchange: int, step: int, phase: int, decision: int) -> int:
    """The operations of a plan; how many visits it has, NONE where it is not plain and right. `a` keeps what runs a
    layer early until that layer comes."""
    homes, parts = len(s.homes), s.rest.shape[2]
    visits = check(t, s, w, a, y, rows, n, tokens, ends, moe)
    if visits == NONE or exchange == ALL_TO_ALL:
        return NONE
    count_rows(s, w, y, y.experts, visits, moe, homes, y.distinct[moe, 0])
    if a.visits[0] > 0:
        for h in range(homes):
            a.hidden[h] = w.hidden[h]
        count_rows(s, a, y, y.ahead, a.visits[0], moe + 1, homes, NONE)
    for i in range(n):
        if rows[VERB, i] == RUN:
            device, slot = rows[DEVICE, i], s.slot[rows[DEVICE, i]]
            s.runs[phase, device] += 1
            if slot != NONE:
                first, end = (0, parts) if rows[PART, i] == -1 else (rows[PART, i], rows[PART, i] + 1)
                for p in range(first, end):
                    op = s.prefetch[slot, rows[MOE, i], rows[EXPERTS, i], p]
                    if op != NONE and has(s, device, rows[MOE, i], rows[EXPERTS, i], p):
                        at = s.phase[0, k.USES]
                        s.used_op[at], s.used_at[at] = op, decision
                        s.phase[0, k.USES] = at + 1
                        s.prefetch[slot, rows[MOE, i], rows[EXPERTS, i], p] = NONE
    for i in range(n):
        verb, expert, part, device = rows[VERB, i], rows[EXPERTS, i], rows[PART, i], rows[DEVICE, i]
        first, end = (0, parts) if part == -1 else (part, part + 1)
        if verb == RUN and rows[MOE, i] == moe:
            v = w.visit_of[device]
            if w.arrived_n[v] == NONE and not dispatch(t, s, o, w, v, visits, exchange, homes):
                return NONE
            if not run(t, s, o, w, v, i, moe, expert, part, y.counts[moe, expert], step, homes):
                return NONE
        elif verb == RUN:
            v = a.visit_of[device]
            if a.arrived_n[v] == NONE and not dispatch(t, s, o, a, v, a.visits[0], UNICAST, homes):
                return NONE
            if not run(t, s, o, a, v, i, moe + 1, expert, part, y.coming[moe + 1, expert], step, homes):
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
    return visits if collect(t, s, o, w, visits, homes) else NONE
