"""What no schedule avoids, in picoseconds: the dense chain of a step, and the least linear cost of expert runs."""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from emulation.lowering.dense import Share
from emulation.machine import Device, Machine
from emulation.model import NOTHING, Layer, Model
from emulation.units import PS_PER_S

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ROUTER, HEAD = "router", "head"


@dataclass(frozen=True)
class Chain:
    """A stretch of dense work of one home between two decisions, experts left out.

    kernels_ps: its kernels in a row, and the host's wait at the end. issued_ps: the same where the host issues them,
    counted from the decision before (0 without a host). shared_ps: the shared experts, beside the routed ones.
    """

    kernels_ps: int
    issued_ps: int
    shared_ps: int


@dataclass(frozen=True)
class Kind:
    """Devices that run experts and cost the same in every figure that enters the bound.

    servers: of the narrowest lane that a kernel holds. room_bytes: of all of them together.
    """

    devices: tuple[int, ...]
    home: bool
    servers: int
    room_bytes: int

    def __len__(self) -> int:
        return len(self.devices)


class Costs:
    """The figures of one machine, model and budget."""

    def __init__(self, machine: Machine, model: Model, budget_bytes: Ints) -> None:
        self.machine, self.model, self.budget_bytes = machine, model, budget_bytes
        weights = model.matrices * model.d_model * model.d_ff
        self.expert_bytes = float(weights * model.weight_bytes)
        self.row_bytes = float(model.d_model * model.activation_bytes)
        self._token_bytes = float((2 * model.d_model + (model.matrices - 1) * model.d_ff) * model.activation_bytes)
        self._flops = 2.0 * weights
        self._dequant_flops = float(model.dequant_flops * weights)
        self.kinds = self._kinds()
        self._stretches = self._cut()
        self._numbers = {stretch: i for i, stretch in enumerate(dict.fromkeys(self._stretches))}
        self.stretch = np.array([self._numbers[s] for s in self._stretches])
        self.exact_run_ps = cache(self._exact_run_ps)
        self.fixed_ps = cache(self._fixed_ps)  # [kind, rows]

    # devices

    @property
    def one_home(self) -> bool:
        return len(self.machine.homes) == 1

    @cached_property
    def homes(self) -> list[Kind]:
        return [kind for kind in self.kinds if kind.home]

    @cached_property
    def units(self) -> list[Kind]:
        return [kind for kind in self.kinds if not kind.home]

    def _runs_experts(self, number: int) -> bool:
        """It has the kernel, room for one column of an expert, and links to and from a home."""
        device, homes, routes = self.machine.devices[number], self.machine.homes, self.machine.routes
        if not device.computes or "expert" not in device.kernels:
            return False
        if self.budget_bytes[number] < self.model.expert_work(1).weight_bytes:
            return False
        return number in homes or any((home, number) in routes and (number, home) in routes for home in homes)

    def _kinds(self) -> list[Kind]:
        alike: dict[tuple[object, ...], list[int]] = {}
        for number, device in enumerate(self.machine.devices):
            if self._runs_experts(number):
                alike.setdefault(self._likeness(number, device), []).append(number)
        return [Kind(tuple(devices), devices[0] in self.machine.homes, self._servers(self.machine.devices[devices[0]]),
                     sum(int(self.budget_bytes[d]) for d in devices)) for devices in alike.values()]

    def _likeness(self, number: int, device: Device) -> tuple[object, ...]:
        ways: list[object] = []
        if number not in self.machine.homes:
            for home in self.machine.homes:
                for pair in ((home, number), (number, home)):
                    route = self.machine.routes.get(pair)
                    ways.append(route and tuple((link.bytes_per_s, link.latency_ps) for link in route))
        issuer = device.issuer and device.issuer.sync_ps
        return (number in self.machine.homes, tuple(sorted(device.kernels.items())), self._servers(device), issuer,
                int(self.budget_bytes[number]), device.rests, tuple(ways))

    def _servers(self, device: Device) -> int:
        return min((self.machine.lanes[lane].servers for lane in device.lanes), default=1)

    # runs of experts

    def _kernel(self, device: int, family: str, bytes_: Floats, flops: Floats | float) -> Floats:
        unit = self.machine.devices[device]
        kernel = unit.kernels.get(family)
        if kernel is None or not unit.lanes:
            return np.zeros_like(bytes_)
        longest: Floats = np.maximum(bytes_ / kernel.bytes_per_s, flops / kernel.flops_per_s) * PS_PER_S
        return kernel.overhead_ps + longest

    def run_ps(self, kind: Kind, tokens: Floats) -> Floats:
        """A whole expert over some tokens, and its scatter: what a fraction of it costs at least is in proportion."""
        device = kind.devices[0]
        expert = self._kernel(device, "expert", self.expert_bytes + tokens * self._token_bytes,
                              tokens * self._flops + self._dequant_flops)
        return expert + self._kernel(device, "scatter", 3 * tokens * self.row_bytes, 0.0)

    def gather_ps(self, kind: Kind, tokens: Floats) -> Floats:
        """What picking those rows costs, where the device was sent more."""
        return self._kernel(kind.devices[0], "gather", 2 * tokens * self.row_bytes, 0.0)

    def overhead_ps(self, kind: Kind) -> int:
        """What of a run is paid however small it is."""
        kernels = self.machine.devices[kind.devices[0]].kernels
        return sum(kernels[family].overhead_ps for family in ("expert", "scatter") if family in kernels)

    def _exact_run_ps(self, kind: Kind, tokens: int, gathered: bool) -> int:
        """The same as the lowering has it, rounded: the least where all of the expert runs on one device."""
        kernels, model = self.machine.devices[kind.devices[0]].kernels, self.model
        work, rows = model.expert_work(model.d_ff), model.token_row_bytes(tokens)
        ps = kernels["expert"].ps(work.bytes_for(tokens), model.expert_flops(model.d_ff, tokens))
        ps += kernels["scatter"].ps(3 * rows, 0) if "scatter" in kernels else 0
        return ps + (kernels["gather"].ps(2 * rows, 0) if gathered and "gather" in kernels else 0)

    def issue_ps(self, device: int, *families: str) -> int:
        """What the thread that issues a device's work spends on these, if it issues one at a time."""
        unit = self.machine.devices[device]
        if unit.issuer is None or self.machine.lanes[unit.issuer.lane].servers > 1:
            return 0
        return sum(unit.kernels[family].issue_ps for family in families if family in unit.kernels)

    def issued_in_order(self, device: int) -> bool:
        """Whether a thread issues its work, in program order."""
        issuer = self.machine.devices[device].issuer
        return issuer is not None and self.machine.lanes[issuer.lane].in_order

    def sync_ps(self, home: int) -> int:
        issuer = self.machine.devices[home].issuer
        return issuer.sync_ps if issuer else 0

    def reduce_ps(self, home: int, rows: int) -> int:
        unit = self.machine.devices[home]
        if "reduce" not in unit.kernels or not unit.lanes:
            return 0
        return unit.kernels["reduce"].ps(3 * self.model.token_row_bytes(rows), rows * self.model.d_model)

    def added_ps(self) -> int:
        """What adding the results of one visit of a unit takes of the homes that run experts, on the mean of them."""
        homes = self.machine.homes
        if any(home not in {d for kind in self.homes for d in kind.devices} for home in homes):
            return 0
        return min(self.reduce_ps(home, 1) for home in homes) // len(homes)

    def _visits_ps(self, kind: Kind, rows: int) -> list[int]:
        """What a visit of a unit costs besides its runs, by home: so many rows out and back, waited for and added."""
        unit, routes, bytes_ = kind.devices[0], self.machine.routes, self.model.token_row_bytes(rows)
        found = []
        for home in self.machine.homes:
            if (home, unit) in routes and (unit, home) in routes:
                out, back = self.machine.transfer(home, unit, bytes_), self.machine.transfer(unit, home, bytes_)
                wait_ps = 0 if self.machine.devices[unit].issuer else self.sync_ps(home)
                found.append(out.length_ps + wait_ps + back.length_ps + self.reduce_ps(home, rows))
        return found

    def _fixed_ps(self, kind: Kind, rows: int) -> int:
        return min(self._visits_ps(kind, rows))

    def row_slope_ps(self, kind: Kind) -> float:
        """What each row adds to a visit at least; 8 ps is more than the roundings in it."""
        many = 1 << 20
        ends = zip(self._visits_ps(kind, 0), self._visits_ps(kind, many), strict=True)
        return max(0.0, min((much - none - 8) / many for none, much in ends))

    # dense work

    def _cut(self) -> list[tuple[Layer | str | None, ...]]:
        """The layers of the model cut at its routers: before the first, between two, behind the last."""
        stretches: list[tuple[Layer | str | None, ...]] = []
        now: list[Layer | str | None] = [None]
        for layer in self.model.layers:
            now += ["attention", layer]
            if layer.is_moe:
                stretches.append((*now, ROUTER, layer))
                now = [layer]
            else:
                now += ["dense", layer]
        return [*stretches, (*now, HEAD)]

    def chains(self, share: dict[int, Share]) -> list[dict[int, Chain]]:
        """For each stretch that differs from others (`stretch` numbers them), the chain of each home."""
        return [{home: self._chain(home, work, stretch) for home, work in share.items()} for stretch in self._numbers]

    def _chain(self, home: int, work: Share, stretch: tuple[Layer | str | None, ...]) -> Chain:
        unit, model = self.machine.devices[home], self.model
        chain: list[tuple[str, int, int]] = []
        norm = ("norm", 2 * model.token_row_bytes(work.tokens), 0)
        first = stretch[0]
        assert first is None or isinstance(first, Layer)
        shared = NOTHING if first is None else first.shared
        if first is not None:
            chain.append(norm)
        rest = iter(stretch[1:])
        for what in rest:
            if what == HEAD:
                if work.ends:
                    chain.append((HEAD, model.head.bytes_for(work.ends), model.head.flops_for(work.ends)))
                break
            layer = next(rest)
            assert isinstance(layer, Layer)
            if what == "attention":
                chain.append(("attention", layer.attention.bytes_for(work.tokens) + work.kept * layer.kv_bytes,
                              layer.attention.flops_for(work.tokens) + work.attended * layer.context_flops))
                chain.append(norm)
            else:
                part = layer.router if what == ROUTER else layer.dense
                chain.append((str(what), part.bytes_for(work.tokens), part.flops_for(work.tokens)))
                if what != ROUTER:
                    chain.append(norm)

        def length(family: str, bytes_: int, flops: int) -> int:
            kernel = unit.kernels.get(family)
            return kernel.ps(bytes_, flops) if kernel is not None and unit.lanes else 0

        shared_ps = length("shared", shared.bytes_for(work.tokens), shared.flops_for(work.tokens)) \
            if shared.token_flops else 0
        kernels_ps = at_ps = 0
        issued_ps = self.issue_ps(home, "shared") if shared.token_flops else 0
        for family, bytes_, flops in chain:
            ps = length(family, bytes_, flops)
            kernels_ps += ps
            issued_ps += self.issue_ps(home, family)
            if family in unit.kernels:
                at_ps = max(at_ps, issued_ps) + ps
        sync_ps = self.sync_ps(home)
        issued_ps = max(at_ps, issued_ps) + sync_ps if self.issued_in_order(home) else 0
        return Chain(kernels_ps + sync_ps, issued_ps, shared_ps)
