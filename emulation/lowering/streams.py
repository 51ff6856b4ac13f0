"""What a machine allows: whether its lanes are streams, so that the order of submission tells when work runs; whether
it can be lowered in columns."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.machine import Link, Machine
from emulation.model import Model

Ints = NDArray[np.int64]
NONE = -1


def is_straight(machine: Machine) -> bool:
    """Whether every lane is in order, or used only together with one that is; the straight engine looks again."""
    if any(lane.in_order and lane.servers > 1 for lane in machine.lanes):
        return False
    streams = {i for i, lane in enumerate(machine.lanes) if lane.in_order}
    guards: dict[int, set[int]] = {}
    for lanes in _users(machine):
        for lane in lanes - streams:
            guards[lane] = guards.get(lane, streams) & lanes
            if not guards[lane]:
                return False
    return True


def in_columns(machine: Machine, model: Model) -> bool:
    """Whether the compiled lowering may write for a machine and a model: steps pass all layers, all homes have a cost
    for what it writes in every layer, durations are bytes over bandwidth, and lanes tell links."""
    needed = {"attention", "norm", "router"} | ({"dense"} if len(model.moe_layers) < len(model.layers) else set())
    return machine.actions is None and model.is_one_stack and lanes_tell_links(machine) and all(
        needed <= set(machine.devices[home].kernels) for home in machine.homes)


def _by_lane(machine: Machine) -> dict[int, list[int]]:
    """Numbers of the links that hold each lane."""
    out: dict[int, list[int]] = {}
    for number, link in enumerate(machine.links):
        out.setdefault(link.lane, []).append(number)
    return out


def lanes_tell_links(machine: Machine) -> bool:
    """Whether a copy's lanes, its target and whether it leaves home tell which links it crosses: each lane is one
    link's, or that of both directions of one connection. With several homes, which of them tokens leave is not told, so
    that connection must lead to a memory at the edge, where no tokens go."""
    edge = [not device.computes and sum(number in (link.source, link.target) for link in machine.links) == 2
            for number, device in enumerate(machine.devices)]

    def told(links: list[Link]) -> bool:
        if len(links) != 2:
            return len(links) == 1
        one, other = links
        both_ways = (one.source, one.target) == (other.target, other.source)
        return both_ways and (len(machine.homes) == 1 or edge[one.source] or edge[one.target])
    return all(told([machine.links[number] for number in links]) for links in _by_lane(machine).values())


class Crossings(NamedTuple):
    """The link that a copy crosses where it holds a lane: toward [lanes, devices] by its target, outward [lanes] where
    it leaves the home (NONE: the lane is no link's)."""

    toward: Ints
    outward: Ints


def crossings(machine: Machine) -> Crossings:
    """On a machine whose lanes tell links. Of two directions a copy takes the one that leads nearer to its target; a
    broadcast names only its first target, and comes from the home."""
    toward = np.full((len(machine.lanes), len(machine.devices)), NONE, np.int64)
    outward = np.full(len(machine.lanes), NONE, np.int64)
    routes, home = machine.routes, machine.homes[0]

    def hops(source: int, target: int) -> int:
        return len(routes[source, target]) if (source, target) in routes else len(machine.devices)

    for lane, links in _by_lane(machine).items():
        toward[lane], outward[lane] = links[0], links[0]
        for number in links[1:]:
            link = machine.links[number]
            nearer = [hops(link.target, device) < hops(link.source, device) for device in range(len(machine.devices))]
            toward[lane, nearer] = number
            if hops(home, link.source) < hops(home, link.target):
                outward[lane] = number
    return Crossings(toward, outward)


def _users(machine: Machine) -> Iterator[set[int]]:
    """The lanes that a kernel holds, or a transfer. On most machines that are not straight, a few tell."""
    for device in machine.devices:
        if device.computes:
            yield set(device.lanes)
    ends = {*machine.homes, *machine.stores, *machine.units}
    for source, target in machine.routes:
        if source != target and source in ends and target in ends:
            copies = {lane for end in (source, target) for lane in machine.devices[end].copy_lanes}
            yield {link.lane for link in machine.routes[source, target]} | copies
