"""An emulated machine: devices, links, and the lanes that their work occupies. Values only; cluster/ builds it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from emulation.actions import Actions
from emulation.ops import Lane, Pool
from emulation.routes import Routes
from emulation.units import per_second_ps, roofline_ps


@dataclass(frozen=True)
class Kernel:
    """What one family of kernels costs on a device: overhead + max(bytes/bandwidth, flops/peak).

    issue_ps is what it costs the thread that issues it, on a device that has an issuer.
    """

    overhead_ps: int
    bytes_per_s: int
    flops_per_s: int
    issue_ps: int = 0

    def ps(self, bytes_: int, flops: int) -> int:
        return roofline_ps(self.overhead_ps, bytes_, self.bytes_per_s, flops, self.flops_per_s)


@dataclass(frozen=True)
class Issuer:
    """A host thread that issues a device's work, eagerly and in program order.

    lane: the thread. sync_ps: what a synchronisation costs it after the awaited work has ended.
    """

    lane: int
    sync_ps: int


@dataclass(frozen=True)
class Device:
    """A GPU, NDP unit, chiplet, host CPU, memory channel or switch: one class, the hardware file says which.

    lanes: what every kernel on it holds (none: it computes nothing). copy_lanes: what a copy into or out of it holds
    besides the links. kernels: family -> cost; a family that is absent costs nothing there.
    memory_bytes: what it can hold. rests: whether experts may rest there at the start, without a copy.
    """

    name: str
    kind: str
    memory_bytes: int = 0
    lanes: tuple[int, ...] = ()
    copy_lanes: tuple[int, ...] = ()
    kernels: Mapping[str, Kernel] = field(default_factory=dict)
    issuer: Issuer | None = None
    rests: bool = False

    @property
    def computes(self) -> bool:
        return bool(self.lanes)


@dataclass(frozen=True)
class Link:
    """One direction of a connection between two devices."""

    name: str
    source: int
    target: int
    lane: int
    bytes_per_s: int
    latency_ps: int = 0


class Transfer(NamedTuple):
    """What moving bytes along a route takes: lane -> picoseconds held, and the time from start to arrival."""

    holds: dict[int, int]
    length_ps: int


@dataclass(frozen=True)
class Machine:
    """Devices joined by links. homes: devices that hold the dense weights and the tokens.

    quantum_bytes: how much of a prefetch moves before a demand load may take its links.
    actions: how long a frame-driven simulator's actions take, where the machine is one; None: all is physical.
    """

    name: str
    devices: tuple[Device, ...]
    links: tuple[Link, ...]
    lanes: tuple[Lane, ...]
    pools: tuple[Pool, ...] = ()
    homes: tuple[int, ...] = (0,)
    quantum_bytes: int = 1 << 20
    actions: Actions | None = None

    @cached_property
    def pool_number(self) -> dict[str, int]:
        """Pool name, such as chiplet0.expert_slots -> its number."""
        return {pool.name: i for i, pool in enumerate(self.pools)}

    @cached_property
    def index(self) -> dict[str, int]:
        """Device name -> its number."""
        return {device.name: i for i, device in enumerate(self.devices)}

    @cached_property
    def link_number(self) -> dict[str, int]:
        """Link name -> its number."""
        return {link.name: i for i, link in enumerate(self.links)}

    @cached_property
    def routes(self) -> Routes:
        """(source, target) -> links of a shortest route."""
        return Routes(len(self.devices), self.links)

    @cached_property
    def units(self) -> tuple[int, ...]:
        """Devices that compute and are no home: NDP units, a host CPU beside a GPU."""
        return tuple(i for i, device in enumerate(self.devices) if device.computes and i not in self.homes)

    @cached_property
    def stores(self) -> tuple[int, ...]:
        """Devices on which experts may rest."""
        return tuple(i for i, device in enumerate(self.devices) if device.rests)

    def held(self, pairs: list[tuple[int, int]], lasts: Callable[[Link], int]) -> Transfer:
        """The same over several routes at once, each link held for what `lasts` says of it."""
        holds: dict[int, int] = {}
        length_ps = 0
        for source, target in pairs:
            route = self.routes[source, target]
            slowest_ps = 0
            for link in route:
                held_ps = lasts(link)
                holds[link.lane] = max(holds.get(link.lane, 0), held_ps)
                slowest_ps = max(slowest_ps, held_ps)
            for end in (source, target):
                for lane in self.devices[end].copy_lanes:
                    holds[lane] = max(holds.get(lane, 0), slowest_ps)
            length_ps = max(length_ps, slowest_ps + sum(link.latency_ps for link in route))
        return Transfer(holds, length_ps)

    def transfer(self, source: int, target: int, bytes_: int) -> Transfer:
        """Moving bytes holds each link of the route for its own share of the time (cut-through)."""
        return self.transfers([(source, target)], bytes_)

    def transfers(self, pairs: list[tuple[int, int]], bytes_: int) -> Transfer:
        """The same bytes over several routes at once; a link that they share carries them once (a broadcast)."""
        return self.held(pairs, lambda link: per_second_ps(bytes_, link.bytes_per_s))

    def quantum_ps(self, source: int, target: int) -> int:
        """How long one quantum of a transfer takes on the slowest link of the route."""
        return max(per_second_ps(self.quantum_bytes, link.bytes_per_s) for link in self.routes[source, target])
