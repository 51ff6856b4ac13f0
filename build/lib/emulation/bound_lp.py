"""The relaxation R: a linear program over where experts lie and run, and a bound that its prices prove.

Variables: T; S[l], the time of all stretches behind the routers of MoE layer l; for groups g of experts of a layer,
uses j of them that are alike and kinds k of devices: N[j,k] how many of those uses (fractions of experts) run there,
R[g,k] how many of the group's experts lie there at the start, Z[g,k] how many are moved there later; F[s,k] experts
moved from stores of kind s. Every constraint is an inequality that all schedules satisfy: the least T is a bound.

path     T >= dense work before first routers + sum of S[l]; S[l] >= what `bound_path` found.
lanes    S[l] >= the dense chain + a kind's even share of its runs + for units the way there and back. A visited unit
         pays that way whole; the experts' fractions weighed by 1/active sum to at most one, so it pays at least that
         part. At home also with every run's gather, less those that a layer's rows can spare; and on the issuer.
cover    every use runs. there   N[j,k] <= uses an expert has at most * (R + Z): what runs is held.
rest     every expert rests somewhere. room   R fits. In a run never evicted and moved at most once: Z has no room row.
moved    what comes into a kind is at least Z, and at least what its runs use less what it can hold as a step begins,
         for within one step each expert of a layer is used once.
links    T less what comes before the first router and behind the last layer >= bytes over each link, moved experts and
         rows of activations (each row counted once for the experts that share it, at most `most` of them).

Equal devices are one kind; a row for each of its lanes becomes their mean, with the smallest coefficient that any of
the kind has: a mean of valid rows is valid. Groups add the rows of experts, with the most uses of any of them.

The bound is what the prices of its solution prove (`bound_program`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emulation.bound_costs import Costs, Kind
from emulation.bound_program import Program, Relaxation, least
from emulation.bound_uses import Entries, Totals, Uses
from emulation.bound_ways import alike, joined, kin, least_over, moves, visits
from emulation.ledger import Start
from emulation.units import PS_PER_S

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

SIZE = 5000
"""Variables N that the program may have at most, unless one group a layer has more."""


@dataclass(frozen=True)
class Places:
    """Kinds of devices with their rooms in experts, in order: those that run experts, then those where they only rest.

    rests [kinds]: whether experts may rest there.
    """

    devices: list[tuple[int, ...]]
    room: Floats
    rests: NDArray[np.bool_]


def places(costs: Costs) -> Places:
    machine = costs.machine
    running = [d for kind in costs.kinds for d in kind.devices]
    stores = tuple(d for d in machine.stores if d not in running)
    devices = [kind.devices for kind in costs.kinds] + ([stores] if stores else [])
    room = np.array([sum(max(int(costs.budget_bytes[d]), 0) for d in some) for some in devices], np.float64)
    return Places(devices, room / costs.expert_bytes, np.array([machine.devices[d[0]].rests for d in devices]))


@dataclass(frozen=True)
class Groups:
    """Uses of experts put together. Of each use j: group, layer, tokens, active, early, count, most of one expert.

    size, layer_of [groups]; at [groups, places]: experts of the group there at the start, where that is given.
    """

    of: Ints
    layer: Ints
    tokens: Ints
    active: Ints
    early: Ints
    count: Ints
    most: Ints
    size: Ints
    at: Floats | None


def group(entries: Entries, layers: int, experts: int, kinds: int, held: Floats | None) -> Groups:
    """As many groups a layer as keep the program small; experts of a group are used about equally often.

    held [layers, experts, places]: what lies where at the start, if that is given; then groups have it in common.
    """
    total = np.zeros((layers, experts), np.int64)
    np.add.at(total, (entries.layer, entries.expert), entries.times * (1 + entries.tokens))
    code = np.zeros((layers, experts), np.int64)
    if held is not None:
        _, code = np.unique(held.reshape(layers * experts, -1), axis=0, return_inverse=True)
        code = code.reshape(layers, experts)
    parts = experts
    while True:
        found = _grouped(entries, total, code, parts, held)
        if len(found.count) * kinds <= SIZE or parts == 1:
            return found
        parts = max(1, min(parts // 2, parts * SIZE // (len(found.count) * kinds) + 1))


def _grouped(entries: Entries, total: Ints, code: Ints, parts: int, held: Floats | None) -> Groups:
    layers, experts = total.shape
    order = np.argsort(-total, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(experts), order.shape), axis=1)
    label = (np.arange(layers)[:, None] * parts + rank * parts // experts) * (int(code.max()) + 1) + code
    used = total > 0
    numbers = np.full(total.shape, -1)
    names, inverse = np.unique(label[used], return_inverse=True)
    numbers[used] = inverse
    of = numbers[entries.layer, entries.expert]
    key = (of << 40) | (entries.tokens << 16) | (entries.active << 1) | entries.early
    packed, where = np.unique(key, return_inverse=True)
    unique = np.stack([packed >> 40, (packed >> 16) & 0xFFFFFF, (packed >> 1) & 0x7FFF, packed & 1])
    count, most = np.zeros(unique.shape[1], np.int64), np.zeros(unique.shape[1], np.int64)
    np.add.at(count, where.ravel(), entries.times)
    np.maximum.at(most, where.ravel(), entries.times)
    layer_of = np.zeros(len(names), np.int64)
    layer_of[numbers[used]] = np.nonzero(used)[0]
    at = None
    if held is not None:
        at = np.zeros((len(names), held.shape[2]))
        np.add.at(at, numbers[used], held[used])
    return Groups(unique[0], layer_of[unique[0]], unique[1], unique[2], unique[3], count, most,
                  np.bincount(numbers[used], minlength=len(names)), at)


def held_at(start: Start, where: Places) -> Floats:
    """How much of each expert lies on each kind at the start, [layers, experts, places], in experts."""
    held = np.zeros((*start.rest.shape[:2], len(where.devices)))
    for number, devices in enumerate(where.devices):
        for device in devices:
            held[..., number] += (start.rest == device).mean(axis=2)
            if device in start.copies:
                held[..., number] += start.copies[device] & ~(start.rest == device).all(axis=2)
    return held


def relax(costs: Costs, uses: Uses, totals: Totals, start: Start | None) -> Relaxation:
    """The bound R; start: where experts lie, if that is given."""
    least_ps = int(totals.before_ps + totals.least_ps.sum())
    entries = uses.entries()
    if not len(entries.times) or not costs.kinds:
        return Relaxation(least_ps, "the chain of layers")
    where = places(costs)
    layers, experts = len(costs.model.moe_layers), costs.model.experts
    groups = group(entries, layers, experts, len(costs.kinds), None if start is None else held_at(start, where))
    scale = float(max(least_ps, 1))
    program = Program()
    t = int(program.variables(1, 0.0, np.inf)[0])
    s = program.variables(layers, totals.least_ps / scale, np.inf)
    n = [program.variables(len(groups.count), 0.0, groups.count.astype(np.float64)) for _ in costs.kinds]
    program.row("the chain of layers", totals.before_ps / scale, (t, 1.0), (s, np.full(layers, -1.0)))
    for number, kind in enumerate(costs.kinds):
        _lanes(program, costs, totals, groups, scale, number, kind, s, n)
    rows = np.arange(len(groups.count))
    program.rows("cover", groups.count.astype(np.float64), *((rows, column, 1.0) for column in n))
    flows = _placement(program, costs, uses, groups, where, n, layers * experts)
    _links(program, costs, totals, groups, where, scale, t, n, flows)
    return least(program, scale)


def _lanes(program: Program, costs: Costs, totals: Totals, groups: Groups, scale: float, number: int, kind: Kind,
           s: Ints, n: list[Ints]) -> None:
    """A kind's share of the runs of each layer, in its stretches."""
    machine, late = costs.machine, groups.early == 0
    tokens, weight = groups.tokens.astype(np.float64), late / groups.active
    layers = np.arange(len(s))
    share = 1.0 / (len(kind) * kind.servers)
    run, gather = costs.run_ps(kind, tokens) * late, costs.gather_ps(kind, tokens) * late
    name = ", ".join(machine.devices[d].name for d in kind.devices)
    units = [other for other, unit in enumerate(costs.kinds) if not unit.home]

    def rows(what: str, constant: Ints, own: Floats, others: float) -> None:
        terms = [(groups.layer, n[number], -own / scale)]
        if kind.home:
            terms += [(groups.layer, n[other], -others * weight / scale) for other in units if others]
        program.rows(f"{what} {name}", constant / scale, (layers, s, 1.0), *terms)

    spared = (totals.spared[number] / kind.servers).astype(np.int64) + 1
    if kind.home:
        added = costs.added_ps() / kind.servers if len(costs.homes) == 1 else 0.0
        constant = totals.kernels_ps + totals.shared_ps // kind.servers
        rows("the lanes of", constant, run * share, added)
        if gather.any():
            rows("the lanes of", constant - spared, (run + gather) * share, added)
        device = kind.devices[0]
        issuer = machine.devices[device].issuer
        if costs.one_home and issuer is not None and machine.lanes[issuer.lane].in_order:
            waits = all(machine.devices[costs.kinds[unit].devices[0]].issuer is None for unit in units)
            wait_ps = costs.issue_ps(device, "reduce") + (issuer.sync_ps if waits else 0)
            each = costs.issue_ps(device, "expert", "scatter", "record") * late.astype(np.float64)
            rows("the thread that issues for", totals.issued_ps, each, float(wait_ps))
        return
    slope = costs.row_slope_ps(kind) / totals.most
    visit = costs.fixed_ps(kind, 1) * weight
    rows("the lanes of", totals.kernels_ps, run * share + visit, 0.0)
    rows("the lanes of", totals.kernels_ps,
         run * share + costs.fixed_ps(kind, 0) * weight + slope * tokens * late / len(kind), 0.0)
    if gather.any():
        rows("the lanes of", totals.kernels_ps - spared, (run + gather) * share + visit, 0.0)


def _placement(program: Program, costs: Costs, uses: Uses, groups: Groups, where: Places, n: list[Ints],
               experts: int) -> dict[tuple[int, int], int]:
    """What lies where at the start, what is moved; the flow variables by (source, target) kind."""
    size, many = groups.size.astype(np.float64), len(groups.size)
    most = groups.most.astype(np.float64)
    r, z = [], []
    for number, devices in enumerate(where.devices):
        if groups.at is not None:
            r.append(program.variables(many, groups.at[:, number], groups.at[:, number]))
        else:
            r.append(program.variables(many, 0.0, size * len(devices)))
    rows, of = np.arange(len(groups.of)), kin(costs.machine)
    flows: dict[tuple[int, int], int] = {}
    for number, kind in enumerate(costs.kinds):
        z.append(program.variables(many, 0.0, size * len(kind)))
        program.rows("there", np.zeros(len(rows)), (rows, r[number][groups.of], most),
                     (rows, z[number][groups.of], most), (rows, n[number], -1.0))
        sources = [place for place in range(len(where.devices))
                   if where.rests[place] and joined(costs.machine, of, where.devices[place], where.devices[number])]
        for place in sources:
            flows[place, number] = int(program.variables(1, 0.0, np.inf)[0])
        columns = np.array([flows[place, number] for place in sources], np.int64)
        name = "moving experts to " + ", ".join(costs.machine.devices[d].name for d in kind.devices)
        program.row(name, 0.0, (columns, np.ones(len(columns))), (z[number], np.full(many, -1.0)))
        program.row(name, -uses.steps * float(where.room[number]), (columns, np.ones(len(columns))),
                    (n[number], np.full(len(rows), -1.0)))
    if groups.at is None:
        resting = [number for number in range(len(where.devices)) if where.rests[number]]
        idle = [int(program.variables(1, 0.0, float(experts))[0]) for _ in resting]
        program.rows("rest", size, *((np.arange(many), r[number], 1.0) for number in resting))
        program.row("rest", float(experts - size.sum()), *((column, 1.0) for column in idle))
        for number in range(len(where.devices)):
            others = [(idle[resting.index(number)], -1.0)] if number in resting else []
            names = ", ".join(costs.machine.devices[d].name for d in where.devices[number])
            program.row(f"the memory of {names}", -float(where.room[number]), (r[number], np.full(many, -1.0)), *others)
    return flows


def _links(program: Program, costs: Costs, totals: Totals, groups: Groups, where: Places, scale: float, t: int,
           n: list[Ints], flows: dict[tuple[int, int], int]) -> None:
    """Lanes of links and of copies, over the whole run; lanes that see the same are one row, their mean."""
    machine = costs.machine
    expert_ps = costs.expert_bytes * PS_PER_S
    row_ps = costs.row_bytes * PS_PER_S / totals.most
    of = kin(machine)
    ways = [moves(machine, of, where.devices[place], where.devices[number]) for place, number in flows]
    visited = [number for number, kind in enumerate(costs.kinds) if not kind.home]
    ways += [visits(machine, of, machine.homes, costs.kinds[number].devices) for number in visited]
    sets = alike(machine, ways)
    least_s = least_over(sets, ways)
    for at, lanes in enumerate(sets):
        terms: list[tuple[Ints | int, Floats | float]] = []
        for key, each in zip(flows, least_s, strict=False):
            terms.append((flows[key], -(each[at] * expert_ps) / scale))
        for number, each in zip(visited, least_s[len(flows):], strict=True):
            terms.append((n[number], -(each[at] * row_ps) * groups.tokens.astype(np.float64) / scale))
        width = float(len(lanes) * machine.lanes[lanes[0]].servers)
        names = ", ".join(machine.lanes[lane].name for lane in lanes)
        program.row(f"the link lane {names}", width * (totals.first_ps + totals.last_ps) / scale, (t, width), *terms)
    for number, kind in enumerate(costs.kinds):
        share = 1.0 / (len(kind) * kind.servers)
        run = costs.run_ps(kind, groups.tokens.astype(np.float64)) * share
        names = ", ".join(machine.devices[d].name for d in kind.devices)
        program.row(f"the lanes of {names}", (totals.first_ps + totals.last_ps) / scale, (t, 1.0),
                    (n[number], -run / scale))
