"""Faults of an emulated machine, as values: what breaks, when, and the machine that is left.

A fault changes what later operations cost, or where experts can lie; operations that are under way keep their time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

from emulation.errors import PlanError
from emulation.machine import Device, Kernel, Link, Machine
from emulation.units import seconds
from emulation.view import Ints, Setting


@dataclass(frozen=True, kw_only=True)
class Fault:
    """at_ps: from when on it acts. until_ps: from when on it does not any more; None: it stays."""

    kind: ClassVar[str]
    moves: ClassVar[bool] = False
    """Whether experts have to be placed anew."""
    at_ps: int
    until_ps: int | None = None

    def acts(self, now_ps: int) -> bool:
        """Whether it acts at this instant."""
        return self.at_ps <= now_ps and (self.until_ps is None or now_ps < self.until_ps)

    def kills(self, number: int) -> bool:
        """Whether a device is dead while it acts."""
        return False

    def device_under(self, number: int, device: Device) -> Device:
        """What it makes of a device."""
        return device

    def link_under(self, number: int, link: Link) -> Link:
        """What it makes of a link."""
        return link

    def of(self, machine: Machine) -> str:
        """What breaks, by name."""
        raise LookupError(f"{self.kind} names nothing that breaks")

    def told(self, machine: Machine) -> str:
        """What happens, without when."""
        raise LookupError(f"{self.kind} has no words")


@dataclass(frozen=True, kw_only=True)
class OnDevice(Fault):
    """A fault of one device."""

    device: int

    def device_under(self, number: int, device: Device) -> Device:
        return self.left(device) if number == self.device else device

    def left(self, device: Device) -> Device:
        """What is left of the device."""
        return device

    def of(self, machine: Machine) -> str:
        return machine.devices[self.device].name


@dataclass(frozen=True, kw_only=True)
class UnitDies(OnDevice):
    """A device computes no more and holds nothing; what passes through it on its way elsewhere still does."""

    kind = "unit_dies"
    moves = True

    def kills(self, number: int) -> bool:
        return number == self.device

    def left(self, device: Device) -> Device:
        return replace(device, memory_bytes=0, lanes=(), kernels={}, issuer=None, rests=False)

    def told(self, machine: Machine) -> str:
        return f"{self.of(machine)} dies"


@dataclass(frozen=True, kw_only=True)
class MemoryShrinks(OnDevice):
    """memory_bytes: what is left of a device's memory. Dense weights and caches keep theirs: experts have less."""

    kind = "memory_shrinks"
    moves = True
    memory_bytes: int

    def left(self, device: Device) -> Device:
        return replace(device, memory_bytes=min(device.memory_bytes, self.memory_bytes))

    def told(self, machine: Machine) -> str:
        return f"the memory of {self.of(machine)} shrinks to {self.memory_bytes / 1e9:.3f} GB"


@dataclass(frozen=True, kw_only=True)
class Straggler(OnDevice):
    """Kernels of a device run at a share of their rates, and their overheads grow alike. What a host takes to issue
    them stays."""

    kind = "straggler"
    share: Fraction

    def left(self, device: Device) -> Device:
        return replace(device, kernels={family: _slower(kernel, self.share)
                                        for family, kernel in device.kernels.items()})

    def told(self, machine: Machine) -> str:
        return f"{self.of(machine)} computes at {percent(self.share)} of its speed"


@dataclass(frozen=True, kw_only=True)
class LinkSlows(Fault):
    """Links keep a share of their bandwidth; their latency stays. name: what they are called together."""

    kind = "link_slows"
    links: tuple[int, ...]
    name: str
    share: Fraction

    def link_under(self, number: int, link: Link) -> Link:
        return replace(link, bytes_per_s=_part(link.bytes_per_s, self.share)) if number in self.links else link

    def of(self, machine: Machine) -> str:
        return self.name

    def told(self, machine: Machine) -> str:
        return f"{self.name} slows to {percent(self.share)} of its bandwidth"


@dataclass(frozen=True, kw_only=True)
class LinkFlaps(LinkSlows):
    """Links slow down for `duty` of every period, at its beginning."""

    kind = "link_flaps"
    period_ps: int
    duty: Fraction

    def acts(self, now_ps: int) -> bool:
        return super().acts(now_ps) and (now_ps - self.at_ps) % self.period_ps < self.period_ps * self.duty

    def told(self, machine: Machine) -> str:
        return (f"{self.name} slows to {percent(self.share)} of its bandwidth for {percent(self.duty)} of every "
                f"{seconds(self.period_ps) * 1e3:g} ms")


def percent(share: Fraction) -> str:
    """A share in percent."""
    return f"{float(100 * share):g} %"


def _part(rate: int, share: Fraction) -> int:
    """A share of a rate as the whole number below it, at least one."""
    return max(1, rate * share.numerator // share.denominator)


def _slower(kernel: Kernel, share: Fraction) -> Kernel:
    return replace(kernel, overhead_ps=-(-kernel.overhead_ps * share.denominator // share.numerator),
                   bytes_per_s=_part(kernel.bytes_per_s, share), flops_per_s=_part(kernel.flops_per_s, share))


def machine_under(machine: Machine, faults: Sequence[Fault]) -> Machine:
    """The machine while these act. What two faults slow down, both slow down."""
    devices, links = list(machine.devices), list(machine.links)
    for fault in faults:
        devices = [fault.device_under(i, device) for i, device in enumerate(devices)]
        links = [fault.link_under(i, link) for i, link in enumerate(links)]
    return replace(machine, devices=tuple(devices), links=tuple(links))


def setting_under(setting: Setting, faults: Sequence[Fault]) -> Setting:
    """What a policy is told while these act; refuses a device whose memory no longer holds what is beside experts."""
    machine = machine_under(setting.machine, faults)
    budget: Ints = setting.budget_bytes.copy()
    for i, (before, now) in enumerate(zip(setting.machine.devices, machine.devices, strict=True)):
        room = int(budget[i]) - (before.memory_bytes - now.memory_bytes)
        if room < 0 and i in machine.homes:
            raise PlanError(f"{now.name!r} is left with {now.memory_bytes / 1e9:.3f} GB, and beside experts it holds "
                            f"{(before.memory_bytes - int(budget[i])) / 1e9:.3f} GB: let it keep more")
        budget[i] = max(room, 0)
    budget.flags.writeable = False
    return replace(setting, machine=machine, budget_bytes=budget)
