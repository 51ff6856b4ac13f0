"""The compiled lowering: what `dense` and `experts` write, from columns, at tens of nanoseconds an operation.

The readable lowering is the specification: this one writes the same operations with the same serials, durations and
edges for plans that are plain (every run in its own layer, over all tokens that its expert serves, or one layer early,
over tokens that are named; nothing woken, no all-to-all), and declines others.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.engine.compiled_addresses import located
from emulation.engine.compiled_bare import bare
from emulation.lowering import compiled_ops as c
from emulation.lowering.compiled_copies import has
from emulation.lowering.compiled_experts import lower_plan
from emulation.lowering.compiled_moves import collect, end_kernel, run_kernel, sync
from emulation.lowering.compiled_ops import NONE, Ints, Out, begin_op, end_op, inner, kernel, room, wait
from emulation.lowering.compiled_state import HITS, MISSES, Scratch, State, make_scratch, make_state
from emulation.lowering.compiled_visits import NO_EXPERT, Layer
from emulation.lowering.tables import GRIDS, Grid, Tables

AT_ATTENTION, AT_NORM, AT_ROUTER, AT_SHARED, AT_DENSE, AT_HEAD = range(6)


class Dense(NamedTuple):
    """A step outside its routed experts. ps, bytes, flops [kinds of layers, homes, 6]; kind, moe, shared [layers]: the
    kind of a layer, and whether it has routed and shared experts. present [homes]: whether a home has tokens. ends
    [homes]: rows whose logits are wanted."""

    ps: Grid
    bytes: Grid
    flops: Grid
    kind: Ints
    moe: Ints
    shared: Ints
    present: Ints
    ends: Ints


@inner
def dense_kernel(t: Tables, s: State, o: Out, d: Dense, home: int, h: int, layer: int, at: int,
                 family: int) -> int:
    kind = d.kind[layer]
    return run_kernel(t, s, o, home, family, d.ps[kind, h, at], NONE, d.bytes[kind, h, at], d.flops[kind, h, at])


@inner
def to_router(t: Tables, s: State, o: Out, w: Scratch, d: Dense, layer: int) -> int:
    """From here to the next router, or to the head: the operation whose end is the next decision."""
    homes, layers = len(s.homes), len(d.kind)
    while layer < layers:
        o.n[c.LAYER] = layer
        for h in range(homes):
            if d.present[h]:
                home = s.homes[h]
                issued = dense_kernel(t, s, o, d, home, h, layer, AT_ATTENTION, c.ATTENTION)
                wait(o, w.hidden[h])
                w.hidden[h] = end_kernel(o, issued)
                issued = dense_kernel(t, s, o, d, home, h, layer, AT_NORM, c.NORM)
                wait(o, w.hidden[h])
                w.hidden[h] = end_kernel(o, issued)
        if d.moe[layer]:
            for h in range(homes):
                if d.present[h]:
                    issued = dense_kernel(t, s, o, d, s.homes[h], h, layer, AT_ROUTER, c.ROUTER)
                    wait(o, w.hidden[h])
                    w.hidden[h] = sync(t, o, s.homes[h], end_kernel(o, issued))
            return decide(s, o, w, d)
        for h in range(homes):
            if d.present[h]:
                issued = dense_kernel(t, s, o, d, s.homes[h], h, layer, AT_DENSE, c.DENSE)
                wait(o, w.hidden[h])
                w.hidden[h] = end_kernel(o, issued)
        for h in range(homes):
            if d.present[h]:
                issued = dense_kernel(t, s, o, d, s.homes[h], h, layer, AT_NORM, c.NORM)
                wait(o, w.hidden[h])
                w.hidden[h] = end_kernel(o, issued)
        layer += 1
    o.n[c.LAYER] = NONE
    for h in range(homes):
        if d.present[h]:
            home = s.homes[h]
            if d.ends[h] and t.kernel[home, c.HEAD]:
                issued = dense_kernel(t, s, o, d, home, h, 0, AT_HEAD, c.HEAD)
                wait(o, w.hidden[h])
                w.hidden[h] = end_kernel(o, issued)
            w.hidden[h] = sync(t, o, home, w.hidden[h])
    return decide(s, o, w, d)


@inner
def decide(s: State, o: Out, w: Scratch, d: Dense) -> int:
    """The decision of all homes: of one its own, of several a join."""
    homes, present, op = len(s.homes), 0, NONE
    for h in range(homes):
        if d.present[h]:
            present += 1
            op = w.hidden[h]
    if present > 1:
        op = begin_op(o, c.JOIN, 0, NONE, NONE, 0)
        for h in range(homes):
            if d.present[h]:
                wait(o, w.hidden[h])
        end_op(o)
    for h in range(homes):
        w.hidden[h] = op if d.present[h] else NONE
    return op


@inner
def wait_sums(s: State, o: Out, w: Scratch, visits: int, h: int) -> bool:
    """Wait for what visits sum up at a home; whether there is anything."""
    home, summed = s.homes[h], False
    for v in range(visits):
        if w.visit_device[v] == home and w.rows[v, h] > 0:
            row = w.first_run[v]
            while row != NONE:
                wait(o, w.run_end[row])
                row = w.next_run[row]
            summed = True
        elif w.rows[v, h] > 0:
            wait(o, w.back[v, h])
            summed = True
    return summed


@inner
def after_experts(t: Tables, s: State, o: Out, w: Scratch, u: Scratch, d: Dense, visits: int, layer: int,
                  decision: int, first_shared: int) -> None:
    """Residual and norm behind the experts, home by home; `first_shared`: the shared experts' first operation; `u`:
    what ran a layer early."""
    homes = len(s.homes)
    for h in range(homes):
        if not d.present[h]:
            continue
        home = s.homes[h]
        issued = dense_kernel(t, s, o, d, home, h, layer, AT_NORM, c.NORM)
        if first_shared != NONE:
            wait(o, w.shared[h])
        summed = wait_sums(s, o, w, visits, h)
        if not wait_sums(s, o, u, u.visits[0], h) and not summed:
            wait(o, decision)
        w.hidden[h] = end_kernel(o, issued)


@inner
def found(s: State, y: Layer, moe: int, phase: int) -> None:
    """Count the load and, before the plan changes it, which routed experts a home holds whole."""
    parts = s.rest.shape[2]
    for expert in range(y.routed.shape[1]):
        if y.routed[moe, expert] == 0:
            continue
        s.load[moe, expert] += y.routed[moe, expert]
        held = False
        for h in range(len(s.homes)):
            whole = True
            for part in range(parts):
                whole &= has(s, s.homes[h], moe, expert, part)
            held |= whole
        s.phase[phase, HITS if held else MISSES] += 1


@inner
def lower(t: Tables, s: State, o: Out, w: Scratch, a: Scratch, u: Scratch, y: Layer, d: Dense, rows: Grid, n: int,
          tokens: Ints, ends: Ints, moe: int, layer: int, exchange: int, step: int, phase: int) -> int:
    homes, decision = len(s.homes), NONE
    for h in range(homes):
        if d.present[h]:
            decision = w.hidden[h]
    first_shared = NONE
    if d.shared[layer]:
        for h in range(homes):
            if d.present[h]:
                issued = dense_kernel(t, s, o, d, s.homes[h], h, layer, AT_SHARED, c.SHARED)
                wait(o, w.hidden[h])
                w.shared[h] = end_kernel(o, issued)
                first_shared = w.shared[h]
    found(s, y, moe, phase)
    visits = lower_plan(t, s, o, w, a, y, rows, n, tokens, ends, moe, exchange, step, phase, decision)
    if visits != NONE and not collect(t, s, o, u, u.visits[0], homes):
        visits = NONE
    if visits != NONE:
        after_experts(t, s, o, w, u, d, visits, layer, decision, first_shared)
    for v in range(len(w.visit_of)):
        w.visit_of[v] = NONE
        a.visit_of[v] = NONE
    return NONE if visits == NONE else to_router(t, s, o, w, d, layer + 1)


_ONE = np.zeros(1, np.int64)
_GRID = np.zeros((1, 1), np.int64)
_STATE = make_state(_ONE, _ONE, np.zeros((1, 1, 1), np.int64), _ONE, _ONE, _ONE, _ONE, _ONE, 1, 1)
_SCRATCH = make_scratch(1, 1, 1, 1, 1)
_TABLES = Tables(*(_GRID if name in GRIDS else _ONE for name in Tables._fields))
_PLACES = np.zeros((1, 1, 1), np.uint16)
_LAYER = Layer(_PLACES, _PLACES, _ONE, _GRID, _GRID, _PLACES, _GRID, _GRID, _GRID)
_CUBE = np.zeros((1, 1, 1), np.int64)
_DENSE = Dense(_CUBE, _CUBE, _CUBE, _ONE, _ONE, _ONE, _ONE, _ONE)


@kernel(_PLACES, _GRID, _GRID, _ONE, _GRID)
def tally(experts: NDArray[Any], counts: Grid, order: Grid, active: Ints, distinct: Grid) -> int:
    """Count the tokens of each expert of a step, experts [layers, tokens, top_k]: counts [layers, experts], experts in
    routing order [layers, experts], and how many are active [layers]; distinct [layers, 2]: tokens that visit any
    expert, and the most experts that one token visits. How many places hold no such expert."""
    strange = 0
    counts[:, :] = 0
    active[:] = 0
    distinct[:, :] = 0
    for moe in range(experts.shape[0]):
        for token in range(experts.shape[1]):
            visits = 0
            for place in range(experts.shape[2]):
                expert = experts[moe, token, place]
                if expert < counts.shape[1]:
                    if counts[moe, expert] == 0:
                        order[moe, active[moe]] = expert
                        active[moe] += 1
                    counts[moe, expert] += 1
                    visits += 1
                else:
                    strange += expert != NO_EXPERT
            distinct[moe, 0] += visits > 0
            distinct[moe, 1] = max(distinct[moe, 1], visits)
    return strange


_tables, as_state, _out, _scratch, as_layer, _dense = (located(like) for like in (
    _TABLES, _STATE, room(1, 1, 1, 1, 1), _SCRATCH, _LAYER, _DENSE))


@kernel(_GRID, _GRID, _GRID, _GRID, _GRID, 1)
def lower_begin(t: Grid, s: Grid, o: Grid, w: Grid, d: Grid, layer: int) -> int:
    """Begin a step: the layers up to the first router, whose operation is returned. Tables come as `Addressed.at`."""
    fresh = _scratch(w)
    for h in range(len(fresh.hidden)):
        fresh.hidden[h] = NONE
    return to_router(_tables(t), as_state(s), _out(o), fresh, _dense(d), layer)


@kernel(_GRID, _GRID, _GRID, _GRID, _GRID, _GRID, _GRID, _GRID, _GRID, 1, _ONE, _ONE, 1, 1, 1, 1, 1)
def lower_layer(t: Grid, s: Grid, o: Grid, w: Grid, a: Grid, u: Grid, y: Grid, d: Grid, rows: Grid, n: int,
                tokens: Ints, ends: Ints, moe: int, layer: int, exchange: int, step: int, phase: int) -> int:
    """Lower the first n rows of a layer's plan, and on to the next decision, whose operation is returned; NONE where
    the plan is not plain and right: the run is then to be taken up from its beginning by the readable path.

    a: scratch of what runs for the next layer, early; u: of what ran for this one. tokens, ends: the tokens of early
    runs, one after another, and where those of each end."""
    return lower(_tables(t), as_state(s), _out(o), _scratch(w), _scratch(a), _scratch(u), as_layer(y), _dense(d),
                 bare(rows), n, bare(tokens), bare(ends), moe, layer, exchange, step, phase)


@kernel(_GRID, _GRID, _GRID, _GRID, _GRID, _GRID, _GRID, _GRID, _ONE, _ONE, _ONE, _ONE, _GRID, 1, 1, 1, 1)
def lower_step(t: Grid, s: Grid, o: Grid, w: Grid, a: Grid, u: Grid, y: Grid, d: Grid, rows: Ints, ptr: Ints,
               layers: Ints, more: Ints, made: Grid, first: int, exchange: int, step: int, phase: int) -> int:
    """Lower all MoE layers of a step from `first` on. rows: a plan's columns in one row, with room for one more behind
    them, none of them early; ptr [moe_layers + 1]; layers [moe_layers]; more: what a layer may write. made
    [moe_layers, 3]: operations and releases so far, and the decision behind each layer. How many layers are done: there
    is room for no more; NONE where a plan is not plain and right."""
    tables, state, out, scratch = _tables(t), as_state(s), _out(o), _scratch(w)
    nobody, coming, due = bare(layers[:0]), _scratch(a), _scratch(u)
    layer, dense = as_layer(y), _dense(d)
    n = len(rows) // 8
    for moe in range(first, len(layers)):
        if (out.n[c.OPS] + more[0] > len(out.priority) or out.n[c.HOLDS] + more[1] > len(out.hold_lane)
                or out.n[c.WAITS] + more[2] > len(out.wait_op) or out.n[c.TAKES] + more[3] > len(out.take_pool)
                or out.n[c.RELEASES] + more[4] > len(out.release_take)):
            return moe
        columns = bare(rows[ptr[moe]:ptr[moe] + 7 * n].reshape((7, n)))
        decision = lower(tables, state, out, scratch, coming, due, layer, dense, columns, ptr[moe + 1] - ptr[moe],
                         nobody, nobody, moe, layers[moe], exchange, step, phase)
        if decision == NONE:
            return NONE
        made[moe, 0], made[moe, 1], made[moe, 2] = out.n[c.OPS], out.n[c.RELEASES], decision
    return len(layers)
