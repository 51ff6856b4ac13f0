"""Whether a machine's lanes are streams: then the order in which work is submitted tells when it runs."""

from emulation.machine import Machine


def is_straight(machine: Machine) -> bool:
    """Whether every lane is in order, or used only together with one that is; the straight engine looks again."""
    users = [set(device.lanes) for device in machine.devices if device.computes]
    ends = {*machine.homes, *machine.stores, *machine.units}
    for (source, target), route in machine.routes.items():
        if source != target and source in ends and target in ends:
            copies = {lane for end in (source, target) for lane in machine.devices[end].copy_lanes}
            users.append({link.lane for link in route} | copies)
    streams = {i for i, lane in enumerate(machine.lanes) if lane.in_order and lane.servers == 1}
    for i, lane in enumerate(machine.lanes):
        mine = [user for user in users if i in user]
        if i not in streams and mine and not set.intersection(streams, *mine):
            return False
        if lane.in_order and lane.servers > 1:
            return False
    return True
