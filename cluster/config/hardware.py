"""The schema of a hardware file: groups of devices, the links between them, where experts rest."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from cluster.config.quantities import (
    Bandwidth,
    Bytes,
    Compute,
    Count,
    EnergyPerByte,
    EnergyPerFlop,
    Power,
    Share,
    Strict,
    Time,
    refuse,
)
from emulation.errors import unknown

Dtype = Literal["fp32", "bf16", "fp16", "fp8", "int8"]

FALLBACK: Mapping[Dtype, tuple[Dtype, ...]] = {
    "fp32": (), "bf16": ("fp16", "fp32"), "fp16": ("bf16", "fp32"),
    "fp8": ("bf16", "fp16", "fp32"), "int8": ("bf16", "fp16", "fp32"),
}
"""What a device computes in where it has no peak for a type: the first of these it has (same width or wider)."""

Family = Literal["expert", "shared", "dense", "attention", "router", "norm", "head", "gather", "scatter", "reduce",
                 "sort", "mask", "einsum", "copy", "wait", "record"]
"""Families of kernels. gather, scatter: token rows picked for an expert and added back; reduce: partial sums added;
sort, mask, einsum: of a gating (rows put in order by index; dense masks made; a product with them); copy, wait, record:
no kernels, only what issuing a copy, waiting for an event or recording one costs the issuer."""

DeviceKind = Literal["gpu", "ndp", "chiplet", "cpu", "memory", "switch"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]


def _whole_or_name(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise refuse(f"{value!r} is neither a whole number nor the name of a parameter")
    if isinstance(value, int) and value < 1:
        raise refuse(f"{value} is below 1")
    return value


CountOrName = Annotated[int | str, BeforeValidator(_whole_or_name)]


class Parameter(Strict):
    """A number that a run may choose: `machine: {name: ..., options: {units: 6}}`."""

    default: int
    min: int = Field(ge=1)
    max: int
    meaning: str

    @model_validator(mode="after")
    def _ordered(self) -> "Parameter":
        if not self.min <= self.default <= self.max:
            raise refuse(f"the default {self.default} lies outside {self.min}..{self.max}")
        return self


class LaneSpec(Strict):
    """What work occupies; `in_order`: work starts in the order it was issued, as in a stream."""

    name: Name
    servers: int = Field(default=1, ge=1)
    in_order: bool = False

    @classmethod
    def from_short(cls, data: object) -> object:
        return {"name": data} if isinstance(data, str) else data


class KernelSpec(Strict):
    """What one family costs: overhead + max(bytes/bandwidth, flops/peak); rates left out are the device's.

    issue: what it costs the issuing thread, on a device that has an issuer; interpreter: what the engine's own code
    around it adds to that, beyond what a loop over the kernel alone shows.
    """

    overhead: Time | None = None
    issue: Time | None = None
    interpreter: Time | None = None
    bandwidth: Bandwidth | None = None
    bandwidth_fraction: Share | None = None
    peak: dict[Dtype, Compute] = Field(default_factory=dict)
    peak_fraction: Share | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "KernelSpec":
        if self.bandwidth and self.bandwidth_fraction:
            raise refuse("bandwidth and bandwidth_fraction are both given: one of them is enough")
        if self.peak and self.peak_fraction:
            raise refuse("peak and peak_fraction are both given: one of them is enough")
        return self


class IssuerSpec(Strict):
    """A host thread that issues the device's work in program order; `sync`: what a synchronisation costs it."""

    thread: Name
    sync: Time


class DeviceGroup(Strict):
    """Devices of one kind. `count` left out: one device named as the group; given: name0, name1, ...
    per: a parameter: so many for each of what it counts, as GPUs for each node.

    kind: a word for readers. memory: what experts, dense weights and caches share. memory_bandwidth, peak, overhead:
    what a kernel costs: overhead + max(bytes / memory_bandwidth, operations / peak). lanes: what kernels occupy; by
    default one. copy_lanes: engines that copies occupy besides the link. issuer: a host thread that issues the work.
    pools: counted slots.
    runs: families that cost `overhead` and the device's own rates; kernels: families with figures of their own.
    A family in neither costs nothing here. rests: experts may lie here at the start without a copy.
    thread: an issuer that its kernels hold besides its lanes. Its own issuer: kernels run on the thread that issues
    them. Another device's: both threads run in one interpreter, and its lock lets one of them get on at a time.
    slowdown: how many times longer its kernels take in the engine than they were measured to take alone.
    idle_power: what one such device draws all the time. busy_power: while its compute lanes are busy. Or, in the place
    of busy_power, what an operation takes: energy_per_byte of its memory, energy_per_flop (docs/energy.md).
    """

    kind: DeviceKind
    count: CountOrName | None = None
    per: Name | None = None
    memory: Bytes | None = None
    memory_bandwidth: Bandwidth | None = None
    peak: dict[Dtype, Compute] = Field(default_factory=dict)
    overhead: Time | None = None
    runs: tuple[Family, ...] = Field(default=(), strict=False)
    kernels: dict[Family, KernelSpec] = Field(default_factory=dict)
    lanes: tuple[LaneSpec, ...] = Field(default=(), strict=False)
    copy_lanes: tuple[LaneSpec, ...] = Field(default=(), strict=False)
    issuer: IssuerSpec | None = None
    thread: Name | None = None
    slowdown: Count | None = None
    rests: bool = False
    idle_power: Power | None = None
    busy_power: Power | None = None
    energy_per_byte: EnergyPerByte | None = None
    energy_per_flop: EnergyPerFlop | None = None
    pools: dict[Name, Count] = Field(default_factory=dict)

    @property
    def computes(self) -> bool:
        return bool(self.runs or self.kernels)

    @model_validator(mode="after")
    def _sound(self) -> "DeviceGroup":
        if both := [family for family in self.runs if family in self.kernels]:
            raise refuse(f"{both[0]!r} stands in runs and in kernels: one of them is enough")
        if self.runs and not (self.overhead and self.memory_bandwidth and self.peak):
            raise refuse("runs needs overhead, memory_bandwidth and peak, which its families share")
        for family, kernel in self.kernels.items():
            if not (kernel.bandwidth or self.memory_bandwidth):
                raise refuse(f"kernels.{family} has no bandwidth and the device no memory_bandwidth")
            if not (kernel.peak or self.peak):
                raise refuse(f"kernels.{family} has no peak and the device has none either")
            if (kernel.issue or kernel.interpreter) and not self.issuer:
                raise refuse(f"kernels.{family} has an issue cost and the device no issuer that would pay it")
        if self.slowdown is not None and self.slowdown.si < 1:
            raise refuse(f"slowdown is {self.slowdown.value!r}: nothing is faster in the engine than alone, so it is 1 "
                         "or more")
        if self.per is not None and self.count is None:
            raise refuse("per says what count is multiplied by, and there is no count")
        if self.rests and not self.memory:
            raise refuse("experts rest here, so it needs memory")
        self._energy_sound()
        names = [lane.name for lane in (*self.lanes, *self.copy_lanes)]
        if len(set(names)) < len(names):
            raise refuse(f"two lanes of {names} have the same name")
        return self

    def _energy_sound(self) -> None:
        """Nothing counts twice, and nothing is said of what this device does not do."""
        each = [name for name in ("energy_per_byte", "energy_per_flop") if getattr(self, name)]
        if self.busy_power and each:
            raise refuse(f"busy_power and {each[0]} are both given, and what operations take would count twice: give "
                         "one of them")
        if self.busy_power and not self.idle_power:
            raise refuse("busy_power needs idle_power: the device draws something, too, while nothing runs")
        if self.busy_power and self.idle_power and self.busy_power.si < self.idle_power.si:
            raise refuse(f"busy_power is {self.busy_power.value!r}, less than idle_power {self.idle_power.value!r}")
        for name in ("busy_power", "energy_per_flop"):
            if getattr(self, name) and not self.computes:
                raise refuse(f"{name} is given, and the device computes nothing")
        if self.energy_per_byte and not (self.memory or self.computes):
            raise refuse("energy_per_byte is that of a device's memory, and it has none: links have one of their own")


class LinkSpec(Strict):
    """Connections, each with two directions.

    from, to: device groups. bandwidth, latency: from `from` to `to`. bandwidth_back, latency_back: the other way; by
    default the same. in_order: transfers keep the order in which they were issued, as in a stream.
    pattern: each (every device of `from` with every one of `to`), pairs (the i-th with the i-th), blocks (so many of
    `from` in turn with each of `to`, as GPUs with their node), all (every two of one group), mesh (rows x cols of one
    group, row by row; routes go along x first), corners (the i-th of `from` with the i-th corner of the mesh that `to`
    forms).
    bus: all its connections share one lane a direction; half_duplex: the two directions share a lane. servers:
    transfers that a lane carries at once, each at full bandwidth. energy_per_byte: of what crosses one connection.
    """

    name: Name
    source: str = Field(alias="from")
    target: str = Field(alias="to")
    pattern: Literal["each", "pairs", "all", "blocks", "mesh", "corners"] = "each"
    rows: CountOrName | None = None
    cols: CountOrName | None = None
    bandwidth: Bandwidth
    bandwidth_back: Bandwidth | None = None
    latency: Time | None = None
    latency_back: Time | None = None
    energy_per_byte: EnergyPerByte | None = None
    bus: bool = False
    half_duplex: bool = False
    in_order: bool = False
    servers: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _sound(self) -> "LinkSpec":
        within = self.pattern in ("all", "mesh")
        if within != (self.source == self.target):
            raise refuse(f"pattern {self.pattern!r} joins " + ("one group with itself" if within else "two groups"))
        given = (self.rows is not None, self.cols is not None)
        if given != ((True, True) if self.pattern == "mesh" else (False, False)):
            raise refuse("rows and cols are given for pattern 'mesh', and for no other")
        return self


class ActionSpec(Strict):
    """How long an action of a frame-driven simulator takes: whole frames, at least `least`, at the device's or link's
    rate. matrices: of an expert's, how many it counts. whole_expert: of the whole expert, whatever part it is."""

    least: Count
    matrices: Count | None = None
    whole_expert: bool = False


class ActionsSpec(Strict):
    """Action times that are taken literally, in place of roofline and bytes over bandwidth (emulation/actions.py).

    compute: of one token. load: of a part. hop: of a part from device to device. token: of a row to another device.
    allocate, release: frames. idle_compute: a visited device without tokens computes for one frame.
    """

    frame: Time
    compute: ActionSpec
    load: ActionSpec
    hop: ActionSpec
    token: ActionSpec
    allocate: Count
    release: Count
    idle_compute: bool = False


class Hardware(Strict):
    """A machine.

    parameters: numbers that a run may choose. devices: groups of equal devices, by name. links: what joins them. homes:
    the groups that hold the dense weights and the tokens. quantum: how much of a prefetch moves before a demand load
    may take its links; 1 MiB by default. actions: times of a frame-driven simulator, taken literally.
    leaves_out: what it does not model, in sentences.
    """

    title: str
    description: str = ""
    parameters: dict[Name, Parameter] = Field(default_factory=dict)
    devices: dict[Name, DeviceGroup] = Field(min_length=1)
    links: tuple[LinkSpec, ...] = Field(default=(), strict=False)
    homes: tuple[str, ...] = Field(min_length=1, strict=False)
    quantum: Bytes | None = None
    actions: ActionsSpec | None = None
    leaves_out: tuple[str, ...] = Field(default=(), strict=False)

    @model_validator(mode="after")
    def _joined(self) -> "Hardware":
        for name, group in self.devices.items():
            self._named(f"devices.{name}.count", group.count)
            self._named(f"devices.{name}.per", group.per)
        for link in self.links:
            for end in (link.source, link.target):
                self._group(f"links.{link.name}", end)
            self._named(f"links.{link.name}.rows", link.rows)
            self._named(f"links.{link.name}.cols", link.cols)
            meshes = [m.target for m in self.links if m.pattern == "mesh"]
            if link.pattern == "corners" and link.target not in meshes:
                raise refuse(f"links.{link.name} attaches to corners of {link.target!r}, which forms no mesh")
        names = [link.name for link in self.links]
        if len(set(names)) < len(names):
            raise refuse(f"two links of {names} have the same name")
        for name, group in self.devices.items():
            issuers = [other.issuer.thread for other in self.devices.values() if other.issuer]
            if group.thread is not None and group.thread not in issuers:
                raise refuse(f"devices.{name}.thread: {unknown('issuing thread', group.thread, issuers)}")
        for home in self.homes:
            self._group("homes", home)
            if not self.devices[home].computes:
                raise refuse(f"homes: {home!r} runs no kernels, and tokens live where something is computed")
        if not any(group.rests for group in self.devices.values()):
            raise refuse("experts rest nowhere: set rests: true on the devices that hold them at the start")
        if self.quantum is not None and self.quantum.si < 1:
            raise refuse("quantum is less than a byte")
        return self

    def _group(self, where: str, name: str) -> None:
        if name not in self.devices:
            raise refuse(f"{where}: {unknown('device group', name, self.devices)}")

    def _named(self, where: str, count: int | str | None) -> None:
        if isinstance(count, str) and count not in self.parameters:
            raise refuse(f"{where}: {unknown('parameter', count, self.parameters)}")
