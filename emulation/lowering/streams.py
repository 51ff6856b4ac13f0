"""What a machine allows: whether its lanes are streams, so that the order of submission tells when work runs; whether
it can be lowered in columns."""

from collections.abc import Iterator

from emulation.machine import Machine
from emulation.model import Model


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
    for what it writes in every layer, and durations are bytes over bandwidth."""
    needed = {"attention", "norm", "router"} | ({"dense"} if len(model.moe_layers) < len(model.layers) else set())
    return machine.actions is None and model.is_one_stack and all(
        needed <= set(machine.devices[home].kernels) for home in machine.homes)


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
