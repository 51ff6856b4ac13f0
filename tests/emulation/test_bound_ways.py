"""Ways by bundle are the ways of all pairs, and routes found on demand are those of a search from every device."""

from dataclasses import replace

import pytest

from emulation.bound_ways import Bundle, Way, alike, both, held, kin, least_over, moves, visits
from emulation.machine import Device, Link, Machine
from emulation.ops import Lane
from tests.schedulers.rig import chiplets, gpu_and_units, gpus


def star(units: int, *, half_duplex: bool, odd: bool) -> Machine:
    """A GPU and units behind a switch, each on a channel of its own; `odd`: the last channel is half as fast."""
    devices = [Device("gpu", "gpu", copy_lanes=(0,)), Device("root", "switch")]
    lanes, links = [Lane("stream"), Lane("up"), Lane("down")], [Link("pcie", 0, 1, 1, 64), Link("pcie", 1, 0, 2, 64)]
    for unit in range(units):
        number, speed = len(devices), 16 if odd and unit == units - 1 else 32
        devices.append(Device(f"ndp{unit}", "ndp", lanes=(), rests=True))
        lanes.append(Lane(f"in{unit}"))
        there = back = len(lanes) - 1
        if not half_duplex:
            lanes.append(Lane(f"out{unit}"))
            back = len(lanes) - 1
        links += [Link(f"channel{unit}", 1, number, there, speed), Link(f"channel{unit}", number, 1, back, speed)]
    return Machine("star", tuple(devices), tuple(links), tuple(lanes))


MACHINES = [star(5, half_duplex=True, odd=False), star(5, half_duplex=False, odd=True),
            star(1, half_duplex=True, odd=True), gpu_and_units(3), gpus(3), chiplets()]


def one_by_one(ways: list[Way]) -> list[Bundle]:
    return [Bundle(way, 1, {}) for way in ways]


def searched(machine: Machine) -> dict[tuple[int, int], tuple[Link, ...]]:
    """Breadth first from every device, links in the order of the file."""
    found = {}
    for start in range(len(machine.devices)):
        reached: dict[int, tuple[Link, ...]] = {start: ()}
        frontier = [start]
        while frontier:
            node = frontier.pop(0)
            for link in machine.links:
                if link.source == node and link.target not in reached:
                    reached[link.target] = (*reached[node], link)
                    frontier.append(link.target)
        found.update({(start, target): route for target, route in reached.items()})
    return found


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: f"{m.name}{len(m.lanes)}")
def test_bundles_say_of_every_lane_what_all_pairs_say(machine: Machine) -> None:
    devices = range(len(machine.devices))
    ends = [d for d in devices if machine.devices[d].kind != "switch"]
    units = [d for d in ends if d not in machine.homes]
    routes, of = machine.routes, kin(machine)
    bundled = [moves(machine, of, ends, ends), moves(machine, of, units, list(machine.homes)),
               visits(machine, of, machine.homes, units)]
    pairs = [[(a, b) for a in ends for b in ends if a != b], [(a, b) for a in units for b in machine.homes]]
    plain = [one_by_one([held(machine, *pair, copies=True) for pair in some if pair in routes]) for some in pairs]
    plain.append(one_by_one([both(held(machine, h, d, copies=False), held(machine, d, h, copies=False))
                             for h in machine.homes for d in units if (h, d) in routes and (d, h) in routes]))
    assert [sum(one.pairs for one in some) for some in bundled] == [len(some) for some in plain]
    assert alike(machine, bundled) == alike(machine, plain)
    assert least_over(alike(machine, plain), bundled) == least_over(alike(machine, plain), plain)


def test_a_thousand_units_on_a_switch_are_one_bundle() -> None:
    machine = star(1000, half_duplex=True, odd=False)
    units = range(2, 1002)
    assert [one.pairs for one in moves(machine, kin(machine), units, units)] == [1000 * 999]
    assert [one.pairs for one in visits(machine, kin(machine), (0,), units)] == [1000]


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: f"{m.name}{len(m.lanes)}")
def test_routes_on_demand_are_those_of_a_search_from_every_device(machine: Machine) -> None:
    found = searched(machine)
    assert dict(machine.routes) == found
    fresh = replace(machine).routes
    assert {pair: fresh[pair] for pair in reversed(list(found))} == found
    missing = (len(machine.devices), 0)
    assert missing not in fresh
    with pytest.raises(KeyError):
        fresh[missing]
