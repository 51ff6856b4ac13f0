"""Tiny machines and runs, and the best time that brute force finds for them."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, permutations, product
from typing import Any, ClassVar, cast

import numpy as np

from actors.scheduler import MakeEngine, Scheduler
from emulation.bound import BoundInput
from emulation.engine.spec import SpecEngine
from emulation.errors import PlanError
from emulation.ledger import Start
from emulation.machine import Device, Issuer, Kernel, Link, Machine
from emulation.model import Layer, Model, Work
from emulation.ops import Lane
from emulation.plan import UNICAST, Plan
from emulation.view import DECODE, PREFILL, Routing, Setting, Step, View

US = 10**6
DENSE = ("attention", "router", "norm", "head", "shared", "reduce", "scatter", "gather", "expert")
Feed = list[tuple[Step, list[Routing]]]


@dataclass(frozen=True)
class Case:
    """One instance."""

    setting: Setting
    feed: Feed

    def collected(self, **changed: Any) -> BoundInput:
        work = BoundInput(changed.get("machine", self.setting.machine), self.setting.model, self.setting.budget_bytes)
        for step, routings in self.feed:
            work.add_step(step)
            for moe, routing in enumerate(routings):
                work.add_layer(moe, routing.pairs)
        return work


def machine(rng: np.random.Generator, units: int, *, store: bool = False, eager: bool = False,
            scale: float = 1.0) -> Machine:
    """A GPU, units beside it, perhaps a memory that computes nothing; links of their own or one shared port."""
    def rate(low: float, high: float) -> int:
        return int(scale * np.exp(rng.uniform(np.log(low), np.log(high))))

    def kernel(bandwidth: int, flops: int, low: int, high: int) -> Kernel:
        return Kernel(int(rng.integers(low, high)) * US // 10, bandwidth, flops,
                      int(rng.integers(1, 40)) * US // 10 if eager else 0)

    bandwidth, flops = rate(2e10, 2e11), rate(1e12, 1e13)
    families = [family for family in DENSE if family not in ("scatter", "gather", "shared") or rng.random() < 0.7]
    kernels = {family: kernel(bandwidth, flops, 2, 50) for family in families}
    if eager:
        kernels |= {family: Kernel(0, 1, 1, int(rng.integers(1, 20)) * US // 10)
                    for family in ("copy", "record", "wait")}
    lanes = [Lane("gpu"), Lane("host", in_order=True)]
    devices = [Device("gpu", "gpu", 10**9, (0,), (), kernels, Issuer(1, US) if eager else None)]
    links: list[Link] = []
    shared = bool(rng.integers(2))
    out, back = rate(2e9, 5e10), rate(2e9, 5e10)
    latency = int(rng.integers(0, 20)) * US // 10
    unit_kernel = kernel(rate(5e9, 1e11), rate(5e11, 5e12), 0, 30)
    for number in range(units + store):
        computes = number < units
        lanes.append(Lane(f"unit{number}"))
        own = (len(lanes) - 1,) if computes else ()
        devices.append(Device(f"unit{number}", "ndp", 10**9, own, (), {"expert": unit_kernel} if computes else {},
                              rests=True))
        if not shared or number == 0:
            lanes += [Lane(f"out{number}"), Lane(f"back{number}")]
        first = len(lanes) - 2 if not shared else 3
        links += [Link(f"o{number}", 0, 1 + number, first, out, latency),
                  Link(f"b{number}", 1 + number, 0, first + 1, back, latency)]
    return Machine("tiny", tuple(devices), tuple(links), tuple(lanes))


def model(layers: int, experts: int, top_k: int, shared: bool = False) -> Model:
    """24 kB an expert."""
    layer = Layer(Work(16_000, 200, 16_000), 256, 64, Work(128, 64, 256),
                  shared=Work(12_000, 200, 12_000) if shared else Work())
    return Model("tiny", (layer,) * layers, experts, top_k, 64, 64, 3, Fraction(2), Fraction(2),
                 head=Work(9_000, 90, 9_000))


def feed(rng: np.random.Generator, of: Model, steps: int, most_tokens: int) -> Feed:
    out: Feed = []
    for number in range(steps):
        tokens = int(rng.integers(1, most_tokens + 1))
        rows = np.arange(tokens)
        step = Step(number, rows, rows + number, np.full(tokens, DECODE if number else PREFILL),
                    np.zeros(tokens, np.int64), np.ones(tokens, np.bool_))
        routings = []
        for _ in of.layers:
            ids = np.stack([rng.permutation(of.experts)[:of.top_k] for _ in rows])
            routings.append(Routing(ids, np.full(ids.shape, 1.0 / of.top_k)))
        out.append((step, routings))
    return out


def tiny(seed: int) -> Case:
    """1 or 2 layers, 2 or 3 experts, 1 or 2 steps, 2 or 3 devices, and memories that hold all or only some."""
    rng = np.random.default_rng(seed)
    units, store = ((1, False), (2, False), (0, True), (1, True))[seed % 4]
    of = model(int(rng.integers(1, 3)), int(rng.integers(2, 4)), int(rng.integers(1, 3)), bool(rng.integers(2)))
    on = machine(rng, units, store=store, eager=rng.random() < 0.25)
    steps = 1 if len(of.layers) == 2 and (of.experts == 3 or units == 2) else int(rng.integers(1, 3))
    expert, all_of_them = of.expert_work(of.d_ff).weight_bytes, len(of.layers) * of.experts
    budget = np.full(len(on.devices), all_of_them * expert, np.int64)
    budget[0] = int(rng.integers(0 if units else 1, all_of_them + 1)) * expert
    if store and units:
        budget[1] = int(rng.integers(0, all_of_them + 1)) * expert
    return Case(Setting(on, of, budget), feed(rng, of, steps, 3))


class Scripted:
    """Plays one choice after the other: for each decision, (device of each expert, in program order)."""

    exact: ClassVar[bool] = True

    def __init__(self, start: Start, script: list[tuple[tuple[int, int], ...]], exchange: str) -> None:
        self._start, self._script, self._exchange = start, script, exchange

    def start(self, setting: Setting) -> tuple[Start, int]:
        return self._start, 0

    def plan(self, view: View, state: int) -> tuple[Plan, int]:
        plan, ledger, layers = Plan(view.layer, self._exchange), view.ledger, view.setting.model.moe_layers
        rows = self._script[state]
        gone: set[tuple[int, int, int]] = set()
        free = {device: ledger.free_bytes(device) for _, device in rows}
        for i, (expert, device) in enumerate(rows):
            if not ledger.has(device, view.moe, expert, 0) or (view.moe, expert, device) in gone:
                if free[device] < ledger.part_bytes[0]:
                    ahead = {(view.moe, *row) for row in rows[i:]} | gone
                    held = [(moe, e) for moe in range(len(layers)) for e in range(view.setting.model.experts)
                            if ledger.since(moe, device)[e] >= 0] + [(view.moe, e) for e, d in rows[:i] if d == device]
                    moe, victim = next(((*v,) for v in held if (*v, device) not in ahead), (0, None))
                    if victim is not None:
                        gone.add((moe, victim, device))
                        plan.evict(victim, of=device, layer=layers[moe])
                        free[device] += int(ledger.part_bytes[0])
                plan.load(expert, to=device)
                free[device] -= int(ledger.part_bytes[0])
                gone.discard((view.moe, expert, device))
            plan.run(expert, on=device)
        return plan, state + 1


def starts(case: Case) -> Iterator[Start]:
    """Every placement on units, with every set of copies on the home that fits, largest sets only."""
    machine, of = case.setting.machine, case.setting.model
    layers, experts = len(of.moe_layers), of.experts
    expert = of.expert_work(of.d_ff).weight_bytes
    slots = min(int(case.setting.budget_bytes[0]) // expert, layers * experts)
    used = np.zeros((layers, experts), np.bool_)
    for _, routings in case.feed:
        for moe, routing in enumerate(routings):
            used[moe, routing.active] = True
    shards = [tuple(i) for i in np.argwhere(used).tolist()]
    masks = []
    for chosen in product((False, True), repeat=len(shards)):
        if sum(chosen) == min(slots, len(shards)):
            mask = np.zeros((layers, experts), np.bool_)
            for (moe, e), flag in zip(shards, chosen, strict=True):
                mask[moe, e] = flag
            masks.append(mask)
    for placed in product(machine.stores, repeat=len(shards)):
        rest = np.full((layers, experts, 1), machine.stores[0], np.int64)
        for (moe, e), device in zip(shards, placed, strict=True):
            rest[moe, e, 0] = device
        if placed and placed[0] != machine.stores[0] and len(machine.stores) > 1:
            continue  # units are alike
        for mask in masks:
            yield Start(rest, {0: mask} if mask.any() else {})


def scripts(case: Case) -> Iterator[list[tuple[tuple[int, int], ...]]]:
    """Every order of the experts and every device for each that holds it or can load it."""
    able = [d for d, device in enumerate(case.setting.machine.devices) if device.computes]
    choices = []
    for _, routings in case.feed:
        for routing in routings:
            active = routing.active.tolist()
            choices.append([tuple(zip(order, where, strict=True)) for order in permutations(active)
                            for where in product(able, repeat=len(active))])
    return (list(script) for script in product(*choices))


def timed(case: Case, policy: Any) -> int:
    """When a run ends."""
    scheduler = Scheduler(case.setting, policy, cast(MakeEngine, SpecEngine))
    for step, routings in case.feed:
        scheduler.begin(step)
        for routing in routings:
            scheduler.decide(routing)
        scheduler.end()
    return scheduler.steps[-1].end_ps


def brute(case: Case, limit: int) -> int | None:
    """The best time of all plans; None where there are more than `limit`."""
    plans = [(start, script) for start in starts(case) for script in islice(scripts(case), limit + 1)]
    if len(plans) > limit:
        return None
    best = None
    for start, script in plans:
        try:
            end_ps = timed(case, Scripted(start, script, UNICAST))
        except PlanError:
            continue  # does not fit
        best = end_ps if best is None else min(best, end_ps)
    return best
