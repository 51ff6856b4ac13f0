"""What a run amounts to in joules: exact fractions of what a hardware file says, divided once for showing.

A device: idle_power * horizon + (busy_power - idle_power) * busy time, or in the place of the second term
energy_per_byte * bytes + energy_per_flop * flops. A link: energy_per_byte * bytes. docs/energy.md says what counts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from cluster.build import device_names
from cluster.config.hardware import Hardware
from cluster.config.quantities import Quantity
from cluster.observe import schema
from emulation.machine import Machine
from emulation.units import PS_PER_S

Ints = NDArray[np.int64]

PARTS = ("idle", "busy", "bytes", "flops", "links")
"""What joules are spent on: being there, what busy lanes add to it, bytes of memory, flops, bytes over links."""


@dataclass(frozen=True)
class Draw:
    """What a device draws, in W, J/B and J/FLOP; None where its file does not say."""

    idle: Fraction | None = None
    busy: Fraction | None = None
    a_byte: Fraction | None = None
    a_flop: Fraction | None = None

    @property
    def is_known(self) -> bool:
        """Whether there is anything."""
        return self != Draw()


@dataclass(frozen=True)
class Rates:
    """Of each device by name, and J/B of each connection by its name in the machine; what is unknown is left out."""

    devices: Mapping[str, Draw] = field(default_factory=dict)
    links: Mapping[str, Fraction] = field(default_factory=dict)


def rates_of(hardware: Hardware, options: Mapping[str, int], machine: Machine) -> Rates:
    """What a hardware file says of a machine that was built from it."""
    groups = device_names(hardware, options)
    draws = {name: Draw(*map(_si, (spec.idle_power, spec.busy_power, spec.energy_per_byte, spec.energy_per_flop)))
             for group, spec in hardware.devices.items() for name in groups[group]}
    entries = {link.name: link.energy_per_byte.si for link in hardware.links if link.energy_per_byte}
    links = {link.name: entries[entry] for link in machine.links if (entry := link.name.partition(":")[0]) in entries}
    return Rates({name: draw for name, draw in draws.items() if draw.is_known}, links)


def _si(quantity: Quantity | None) -> Fraction | None:
    return None if quantity is None else quantity.si


@dataclass(frozen=True)
class Spent:
    """Joules, exactly: device -> part -> J, of those parts that its file says; link -> J."""

    devices: dict[str, dict[str, Fraction]]
    links: dict[str, Fraction]

    @property
    def parts(self) -> dict[str, Fraction]:
        """By PARTS, of those that any file says."""
        out: dict[str, Fraction] = {}
        for name, joules in self._rows():
            out[name] = out.get(name, Fraction(0)) + joules
        return {name: out[name] for name in PARTS if name in out}

    @property
    def joules(self) -> Fraction:
        """All of it."""
        return sum((joules for _, joules in self._rows()), Fraction(0))

    def _rows(self) -> Iterable[tuple[str, Fraction]]:
        yield from (row for parts in self.devices.values() for row in parts.items())
        yield from (("links", joules) for joules in self.links.values())


def spent(rates: Rates, machine: Machine, lanes: Sequence[schema.LaneUse], worked: Ints, moved: Ints,
          horizon_ps: int) -> Spent:
    """What a run of so long amounts to. lanes: their use until then; worked [devices, WORK]; moved [links, causes]."""
    horizon_s, devices = Fraction(horizon_ps, PS_PER_S), {}
    for i, device in enumerate(machine.devices):
        draw = rates.devices.get(device.name)
        if draw is None:
            continue
        found: dict[str, Fraction] = {}
        if draw.idle is not None:
            found["idle"] = draw.idle * horizon_s
            if draw.busy is not None:
                found["busy"] = (draw.busy - draw.idle) * busy_s([lanes[lane] for lane in device.lanes])
        if draw.a_byte is not None:
            found["bytes"] = draw.a_byte * int(worked[i, 0])
        if draw.a_flop is not None:
            found["flops"] = draw.a_flop * int(worked[i, 1])
        devices[device.name] = found
    links = {link.name: rates.links[link.name] * int(row.sum())
             for link, row in zip(machine.links, moved, strict=True) if link.name in rates.links}
    return Spent(devices, links)


def busy_s(lanes: Sequence[schema.LaneUse]) -> Fraction:
    """Seconds for which a device with these lanes computed: each of its kernels holds all, others may hold one too."""
    return min(Fraction(lane.busy_ps, lane.servers * PS_PER_S) for lane in lanes)


def without_data(rates: Rates, machine: Machine) -> tuple[str, ...]:
    """The devices of whose energy nothing is known."""
    return tuple(device.name for device in machine.devices if device.name not in rates.devices)


def shown(found: Spent, tokens: int) -> schema.Energy | None:
    """As it stands in a result; None where nothing is known."""
    if not found.devices and not found.links:
        return None
    joules = found.joules
    return schema.Energy(
        joules=float(joules), by_part=_floats(found.parts),
        by_device={name: float(sum(parts.values(), Fraction(0))) for name, parts in found.devices.items()},
        by_link=_floats(found.links), device_parts={name: _floats(parts) for name, parts in found.devices.items()},
        joules_per_token=float(joules / tokens) if tokens else None,
        tokens_per_kilojoule=float(1000 * tokens / joules) if joules else None)


def _floats(of: Mapping[str, Fraction]) -> dict[str, float]:
    return {name: float(joules) for name, joules in of.items()}
