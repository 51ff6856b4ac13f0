"""The schema of faults, and the values that they stand for on a machine."""

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Literal

from pydantic import model_validator

from cluster.config.load import validate
from cluster.config.quantities import Bandwidth, Strict, refuse
from emulation.errors import ConfigError, unknown
from emulation.faults import Fault, LinkFlaps, LinkSlows, MemoryShrinks, Straggler, UnitDies
from emulation.machine import Machine
from emulation.units import ceil_ps, parse

STORAGE = Bandwidth(value="6.8 GB/s", kind="assumed", range=("2 GB/s", "14 GB/s"),
                    source="sequential reads of one PCIe 4.0 x4 NVMe SSD; PCIe 3.0 to 5.0, with a file system")

NEEDS = {"unit_dies": ("device",), "memory_shrinks": ("device", "to"), "straggler": ("device", "to"),
         "link_slows": ("link", "to"), "link_flaps": ("link", "to", "period", "duty")}
MAY = {"straggler": ("until",), "link_slows": ("until",), "link_flaps": ("until",)}


def share_of(text: str, what: str) -> Fraction:
    """The fraction that "25 %" is, above 0 and at most 1; refuses another."""
    number, sign, rest = text.partition("%")
    try:
        value = Fraction(number.strip()) / 100
    except (ValueError, ZeroDivisionError):
        sign, value = "", Fraction(0)
    if not sign or rest.strip() or not 0 < value <= 1:
        raise ConfigError(f"{what} is {text!r}: it is a share above 0 % and at most 100 %, like 25 %")
    return value


class FaultChoice(Strict):
    """A fault as a run writes it.

    fault: what happens. device, link: to whom; a link by its own name, by that of its lane, or by that which the
    hardware file gives all of its kind. at, until: emulated time, like 20 ms. to: what is left, like 25 %; of memory,
    also bytes. period, duty: how often a link flaps, and for what share of a period it is slow.
    """

    fault: Literal["unit_dies", "link_slows", "link_flaps", "memory_shrinks", "straggler"]
    at: str = "0 ms"
    until: str | None = None
    device: str | None = None
    link: str | None = None
    to: str | None = None
    period: str | None = None
    duty: str | None = None

    @model_validator(mode="after")
    def _sound(self) -> "FaultChoice":
        needs, may = NEEDS[self.fault], MAY.get(self.fault, ())
        for key in ("device", "link", "to", "period", "duty", "until"):
            given = getattr(self, key) is not None
            if given and key not in (*needs, *may):
                raise refuse(f"{self.fault} has no {key}; it takes {', '.join((*needs, *may, 'at'))}")
            if not given and key in needs:
                raise refuse(f"{self.fault} needs {key}")
        try:
            for key in ("at", "until", "period"):
                if (text := getattr(self, key)) is not None:
                    parse(text, "time")
            if self.to is not None and (self.fault != "memory_shrinks" or "%" in self.to):
                share_of(self.to, "to")
            elif self.to is not None:
                parse(self.to, "bytes")
            if self.duty is not None:
                share_of(self.duty, "duty")
        except ConfigError as error:
            raise refuse(str(error)) from None
        if self.until is not None and parse(self.until, "time") <= parse(self.at, "time"):
            raise refuse(f"until {self.until} is not after at {self.at}")
        if self.period is not None and not parse(self.period, "time"):
            raise refuse(f"period is {self.period}: it is above zero")
        return self

    def value(self, machine: Machine) -> Fault:
        """The fault of this machine; refuses a device or link that it does not have."""
        at_ps = ceil_ps(parse(self.at, "time"))
        until_ps = None if self.until is None else ceil_ps(parse(self.until, "time"))
        if self.link is not None:
            links, share = links_named(machine, self.link), share_of(str(self.to), "to")
            if self.period is None:
                return LinkSlows(at_ps=at_ps, until_ps=until_ps, links=links, name=self.link, share=share)
            return LinkFlaps(at_ps=at_ps, until_ps=until_ps, links=links, name=self.link, share=share,
                             period_ps=ceil_ps(parse(self.period, "time")), duty=share_of(str(self.duty), "duty"))
        device = device_named(machine, str(self.device))
        if self.fault == "unit_dies":
            return UnitDies(at_ps=at_ps, device=device)
        if self.fault == "straggler":
            if not machine.devices[device].computes:
                raise ConfigError(f"{self.device!r} computes nothing, so it cannot compute slowly: a link may slow")
            return Straggler(at_ps=at_ps, until_ps=until_ps, device=device, share=share_of(str(self.to), "to"))
        whole, to = machine.devices[device].memory_bytes, str(self.to)
        left = int(whole * share_of(to, "to")) if "%" in to else int(parse(to, "bytes"))
        if left > whole:
            raise ConfigError(f"the memory of {self.device!r} is {whole / 1e9:.3f} GB: it cannot shrink to {to}")
        return MemoryShrinks(at_ps=at_ps, device=device, memory_bytes=left)


def device_named(machine: Machine, name: str) -> int:
    """The number of a device."""
    if name not in machine.index:
        raise ConfigError(unknown("device", name, machine.index))
    return machine.index[name]


def links_named(machine: Machine, name: str) -> tuple[int, ...]:
    """The numbers of the links that a name means: one link, those of a lane, or all of a kind."""
    names = [(link.name, machine.lanes[link.lane].name, link.name.partition(":")[0]) for link in machine.links]
    for which in range(3):
        if found := tuple(i for i, each in enumerate(names) if each[which] == name):
            return found
    raise ConfigError(unknown("link", name, dict.fromkeys(each for row in names for each in row)))


def faults_of(choices: Iterable[FaultChoice], machine: Machine) -> tuple[Fault, ...]:
    """The faults of a run, on its machine."""
    found = []
    for i, choice in enumerate(choices):
        try:
            found.append(choice.value(machine))
        except ConfigError as error:
            raise ConfigError(f"faults.{i}: {error}") from None
    return tuple(found)


def injected(fault: Mapping[str, object], machine: Machine, now_ps: int) -> Fault:
    """A fault that is told while a machine runs: as in a config, and now where it says no time. Times count from when
    the machine was switched on."""
    data = dict(fault)
    if "at" not in data:
        data["at"] = f"{now_ps} ps"
    return validate(FaultChoice, data, "the fault").value(machine)
