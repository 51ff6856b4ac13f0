"""Machines, models and routings by hand, and the loop that drives a scheduler through them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib import import_module
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from actors.scheduler import Scheduler
from emulation.engine.contract import Engine
from emulation.ledger import Start
from emulation.lowering.emit import CAUSES, KINDS
from emulation.machine import Device, Issuer, Kernel, Link, Machine
from emulation.model import Layer, Model, Work
from emulation.ops import Lane, Pool
from emulation.plan import Plan
from emulation.validate import Decision
from emulation.view import DECODE, Routing, Setting, Step, View
from schedulers.contract import Policy, State

Ints = NDArray[np.int64]
GB = 10**9
EXPERT_MATRICES = 3


def fast_engine() -> Callable[..., Engine]:
    """The compiled engine, or the specification where numba is not installed."""
    module, name = ("compiled", "CompiledEngine") if find_spec("numba") else ("spec", "SpecEngine")
    made: Callable[..., Engine] = getattr(import_module(f"emulation.engine.{module}"), name)
    return made


def routing(experts: Sequence[Sequence[int]], weights: Sequence[Sequence[float]] | None = None) -> Routing:
    ids = np.array(experts, np.int64)
    return Routing(ids, np.full(ids.shape, 1.0 / ids.shape[1]) if weights is None else np.array(weights, float))


def step(number: int, tokens: int, homes: Sequence[int] = (0,), phase: int = DECODE) -> Step:
    """Tokens of as many sequences, dealt out over the homes."""
    rows = np.arange(tokens)
    home = np.asarray(homes, np.int64)[rows % len(homes)]
    return Step(number, rows, np.full(tokens, 8), np.full(tokens, phase), home, np.ones(tokens, np.bool_))


def model(*, moe_layers: int, experts: int, top_k: int, d_model: int = 8, d_ff: int = 8, dense: bool = False) -> Model:
    """Two bytes a weight and an activation. Nothing outside the experts costs bytes; with `dense`, layer 0 has none."""
    moe = Layer(Work(), 0, 0, Work(0, 0, 1))
    layers = (*([Layer(Work(), 0, 0)] if dense else []), *([moe] * moe_layers))
    return Model("hand-made", layers, experts, top_k, d_model, d_ff, EXPERT_MATRICES, Fraction(2), Fraction(2))


def kernels(rate: int, families: Iterable[str] = ("expert",), overhead_ps: int = 0) -> dict[str, Kernel]:
    """Kernels that read at `rate` bytes a second and compute without end."""
    return {family: Kernel(overhead_ps, rate, 10**18) for family in families}


def gpu_and_units(units: int, *, shared_link: bool = False, quantum_bytes: int = 64) -> Machine:
    """A GPU of 1000 GB/s and NDP units of 100 GB/s, each on a link of 10 GB/s each way (or all behind one)."""
    lanes = [Lane("gpu"), *(Lane(f"unit{i}") for i in range(units))]
    wires = 1 if shared_link else units
    out, back = len(lanes), len(lanes) + wires
    lanes += [*(Lane(f"out{i}") for i in range(wires)), *(Lane(f"back{i}") for i in range(wires))]
    devices = [Device("gpu", "gpu", 10**9, (0,), (), kernels(1000 * GB, ("expert", "reduce")))]
    devices += [Device(f"unit{i}", "ndp", 10**9, (1 + i,), (), kernels(100 * GB), rests=True) for i in range(units)]
    links = []
    for i in range(units):
        links += [Link(f"out{i}", 0, 1 + i, out + i % wires, 10 * GB),
                  Link(f"back{i}", 1 + i, 0, back + i % wires, 10 * GB)]
    return Machine("gpu-and-units", tuple(devices), tuple(links), tuple(lanes), quantum_bytes=quantum_bytes)


def chiplets(side: int = 2, slots_bytes: int = 10**9, slots: int = 4) -> Machine:
    """A mesh of chiplets, all of them homes, with a DDR channel at each corner that holds experts and computes none."""
    n = side * side
    lanes = [Lane(f"pe{i}") for i in range(n)]
    devices = [Device(f"chiplet{i}", "chiplet", slots_bytes, (i,), (), kernels(1000 * GB)) for i in range(n)]
    links = []

    def link(a: int, b: int, rate: int) -> None:
        lanes.append(Lane(f"{a}>{b}"))
        links.append(Link(f"{a}>{b}", a, b, len(lanes) - 1, rate))

    for dx, dy in ((1, 0), (0, 1)):
        for y in range(side - dy):
            for x in range(side - dx):
                here, there = y * side + x, (y + dy) * side + x + dx
                link(here, there, 100 * GB)
                link(there, here, 100 * GB)
    for i, corner in enumerate((0, side - 1, n - side, n - 1)):
        devices.append(Device(f"ddr{i}", "memory", 10**12, rests=True))
        link(n + i, corner, 20 * GB)
        link(corner, n + i, 20 * GB)
    pools = tuple(Pool(f"chiplet{i}.expert_slots", slots) for i in range(n))
    return Machine("chiplets", tuple(devices), tuple(links), tuple(lanes), pools, tuple(range(n)), 64)


def gpus(count: int, latency_ps: int = 0) -> Machine:
    """GPUs that are all homes and on which experts rest, joined by a link for each pair and direction."""
    lanes = [Lane(f"sm{i}") for i in range(count)]
    devices = [Device(f"gpu{i}", "gpu", 10**9, (i,), (), kernels(1000 * GB, ("expert", "reduce")), rests=True)
               for i in range(count)]
    links = []
    for a in range(count):
        for b in range(count):
            if a != b:
                lanes.append(Lane(f"{a}>{b}"))
                links.append(Link(f"{a}>{b}", a, b, len(lanes) - 1, 10 * GB, latency_ps))
    return Machine("gpus", tuple(devices), tuple(links), tuple(lanes), homes=tuple(range(count)), quantum_bytes=64)


def eager_host() -> Machine:
    """A GPU issued by one host thread, with a copy stream, beside a CPU with a worker; rates near those of an H200."""
    families = "attention router expert head norm gather scatter reduce copy record wait".split()
    us = 10**6
    on_gpu = {name: Kernel(5 * us, 4 * 10**12, 650 * 10**12, (66 if name == "expert" else 8) * us) for name in families}
    on_cpu = {"expert": Kernel(147 * us, 65 * GB, 3 * 10**12)}
    lanes = (Lane("host", in_order=True), Lane("stream", in_order=True), Lane("copies", in_order=True), Lane("down"),
             Lane("up"), Lane("worker", in_order=True))
    gpu = Device("gpu", "gpu", 141 * GB, (1,), (2,), on_gpu, Issuer(0, 11 * us))
    cpu = Device("cpu", "cpu", 10**12, (5,), (), on_cpu, rests=True)
    links = (Link("down", 1, 0, 3, 55 * GB, 3 * us), Link("up", 0, 1, 4, 55 * GB, 3 * us))
    return Machine("eager-host", (gpu, cpu), links, lanes, quantum_bytes=0)


def setting(machine: Machine, of: Model, budget_bytes: int | None = None, popularity: Ints | None = None) -> Setting:
    """Every device may fill its memory with experts, or each has the same budget."""
    room = [device.memory_bytes if budget_bytes is None else budget_bytes for device in machine.devices]
    return Setting(machine, of, np.array(room, np.int64), popularity)


@dataclass(frozen=True)
class Scripted:
    """A policy that is written out: where experts rest, and a plan for each decision. Its state counts decisions."""

    rest: Start
    plans: Sequence[Callable[[View], Plan]]
    exact: bool = True

    def start(self, setting: Setting) -> tuple[Start, State]:
        return self.rest, 0

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        return self.plans[state](view), state + 1


def resting(layers: int, where: Sequence[Sequence[int]],
            copies: dict[int, Sequence[tuple[int, int]]] | None = None) -> Start:
    """Every layer alike: parts of each expert on devices; copies: device -> (layer, expert) copied there at first."""
    rest = np.tile(np.array(where, np.int64)[None], (layers, 1, 1))
    masks = {}
    for device, chosen in (copies or {}).items():
        masks[device] = np.zeros(rest.shape[:2], np.bool_)
        masks[device][tuple(np.array(chosen).T)] = True
    return Start(rest, masks)


def timeline(run: Scheduler) -> dict[str, list[tuple[int, int]]]:
    """Spans by what they are: kind, cause, expert, device; operations without work are left out."""
    spans = run.engine.spans()
    out: dict[str, list[tuple[int, int]]] = {}
    serial = 0
    for batch in run.labels:
        for kind, cause, device, _, _, expert, _ in zip(*(column.tolist() for column in batch), strict=True):
            words = [KINDS[kind], *([CAUSES[cause]] if cause else []), *([f"e{expert}"] if expert >= 0 else []),
                     *([run.setting.machine.devices[device].name] if device >= 0 else [])]
            if KINDS[kind] not in ("join", "place"):
                out.setdefault(" ".join(words), []).append((int(spans.start_ps[serial]), int(spans.end_ps[serial])))
            serial += 1
    return out


def moved(run: Scheduler) -> dict[tuple[str, str], int]:
    """(link, cause) -> bytes, where any moved."""
    bytes_ = run.emit.moved_bytes
    return {(run.setting.machine.links[link].name, CAUSES[cause]): int(bytes_[link, cause])
            for link, cause in np.argwhere(bytes_).tolist()}


Steps = Iterable[tuple[Step, Sequence[Routing], Sequence[Routing | None]]]
"""Each step with its routing by MoE layer, and the forecast for each (that for the first is never used)."""


def drive(scheduler: Scheduler, steps: Steps) -> list[Decision]:
    """Every decision of a run."""
    decisions = []
    for now, layers, forecasts in steps:
        scheduler.begin(now)
        for moe, routed in enumerate(layers):
            decisions.append(scheduler.decide(routed, forecasts[moe + 1] if moe + 1 < len(layers) else None))
        scheduler.end()
    scheduler.finish()
    return decisions


def scheduler(machine: Machine, of: Model, policy: Policy, make_engine: Callable[..., Engine],
              budget_bytes: int | None = None, popularity: Ints | None = None) -> Scheduler:
    return Scheduler(setting(machine, of, budget_bytes, popularity), policy, make_engine)
