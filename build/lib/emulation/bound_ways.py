"""Ways between devices as the bound sees them: which lanes they hold and for how long a byte.

Devices that hang on one other device by links of their own and are alike otherwise have alike ways, so one pair of a
bundle stands for all: a thousand units on a switch are one bundle and not a million pairs.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from emulation.machine import Machine

Way = dict[int, float]
"""Lane -> seconds a byte."""


class Bundle(NamedTuple):
    """Ways that are alike. way: of one pair. pairs: how many there are.

    own: lane of that pair's way -> the lanes in its place, one a device, and how many pairs hold each of them.
    """

    way: Way
    pairs: int
    own: dict[int, tuple[Sequence[int], int]]


@dataclass(frozen=True)
class Kin:
    """Devices that are alike, each with lanes of its own in the same order."""

    devices: tuple[int, ...]
    lanes: tuple[tuple[int, ...], ...]


def kin(machine: Machine) -> dict[int, Kin]:
    """Device -> those that are alike: joined both ways to the same device and to no other; else it is by itself."""
    out: dict[int, list[int]] = {}
    users: Counter[int] = Counter()
    for number, link in enumerate(machine.links):
        out.setdefault(link.source, []).append(number)
        users[link.lane] += 1
    into: dict[int, list[int]] = {}
    for number, link in enumerate(machine.links):
        into.setdefault(link.target, []).append(number)
    for device in machine.devices:
        users.update(device.copy_lanes)
    groups: dict[tuple[object, ...], list[tuple[int, tuple[int, ...]]]] = {}
    for number, device in enumerate(machine.devices):
        leaving, coming = ([machine.links[link] for link in side.get(number, [])] for side in (out, into))
        key: tuple[object, ...] = (number,)
        lanes: tuple[int, ...] = ()
        if len(leaving) == len(coming) == 1 and leaving[0].target == coming[0].source != number:
            up, down = leaving[0], coming[0]
            held_ = Counter((up.lane, down.lane, *device.copy_lanes))
            if all(users[lane] == count for lane, count in held_.items()):
                lanes = tuple(dict.fromkeys((up.lane, down.lane, *device.copy_lanes)))
                key = (up.target, up.bytes_per_s, down.bytes_per_s, up.lane == down.lane,
                       tuple(lanes.index(lane) for lane in device.copy_lanes),
                       tuple(machine.lanes[lane].servers for lane in lanes))
        groups.setdefault(key, []).append((number, lanes))
    found = {}
    for members in groups.values():
        family = Kin(tuple(number for number, _ in members), tuple(lanes for _, lanes in members))
        found.update(dict.fromkeys(family.devices, family))
    return found


def families(of: dict[int, Kin], devices: Sequence[int]) -> list[Kin]:
    """The given devices by who is alike, in order."""
    chosen: dict[int, list[int]] = {}
    for device in devices:
        chosen.setdefault(of[device].devices[0], []).append(device)
    made = []
    for members in chosen.values():
        family = of[members[0]]
        at = {device: i for i, device in enumerate(family.devices)}
        made.append(Kin(tuple(members), tuple(family.lanes[at[device]] for device in members)))
    return made


def held(machine: Machine, a: int, b: int, *, copies: bool) -> Way:
    """What moving a byte from one device to another holds; a copy also holds the copy lanes of both."""
    route = machine.routes[a, b]
    found: Way = {}
    for link in route:
        found[link.lane] = max(found.get(link.lane, 0.0), 1.0 / link.bytes_per_s)
    if copies:
        slowest = max(1.0 / link.bytes_per_s for link in route)
        for lane in (*machine.devices[a].copy_lanes, *machine.devices[b].copy_lanes):
            found[lane] = max(found.get(lane, 0.0), slowest)
    return found


def both(there: Way, back: Way) -> Way:
    """A way there and back."""
    return {lane: there.get(lane, 0.0) + back.get(lane, 0.0) for lane in dict.fromkeys((*there, *back))}


def joined(machine: Machine, of: dict[int, Kin], sources: Sequence[int], targets: Sequence[int]
           ) -> list[tuple[int, int, Kin, Kin, int]]:
    """Of every two families that links join: one pair, both families, and how many pairs there are."""
    pairs = []
    for left in families(of, sources):
        for right in families(of, targets):
            shared = len(set(left.devices) & set(right.devices))
            count = len(left.devices) * len(right.devices) - shared
            one = next(((a, b) for a in left.devices[:2] for b in right.devices[:2] if a != b), None)
            if count and one is not None and one in machine.routes:
                pairs.append((*one, left, right, count))
    return pairs


def bundle(way: Way, a: int, b: int, left: Kin, right: Kin, pairs: int) -> Bundle:
    """All pairs of two families as the way of one of them."""
    own: dict[int, tuple[Sequence[int], int]] = {}
    for device, family in ((a, left), (b, right)):
        at = family.devices.index(device)
        each = pairs // len(family.devices)
        for number, lane in enumerate(family.lanes[at]):
            if lane in way:
                own[lane] = ([lanes[number] for lanes in family.lanes], each)
    return Bundle(way, pairs, own)


def moves(machine: Machine, of: dict[int, Kin], sources: Sequence[int], targets: Sequence[int]) -> list[Bundle]:
    """Ways of experts from devices to devices."""
    return [bundle(held(machine, a, b, copies=True), a, b, left, right, pairs)
            for a, b, left, right, pairs in joined(machine, of, sources, targets)]


def visits(machine: Machine, of: dict[int, Kin], homes: Sequence[int], units: Sequence[int]) -> list[Bundle]:
    """Ways of activations from homes to units and back."""
    made = []
    for home in homes:
        for family in families(of, units):
            d = family.devices[0]
            if (home, d) in machine.routes and (d, home) in machine.routes:
                way = both(held(machine, home, d, copies=False), held(machine, d, home, copies=False))
                alone = Kin((home,), ((),))
                made.append(bundle(way, home, d, alone, family, len(family.devices)))
    return made


def alike(machine: Machine, ways: list[list[Bundle]]) -> list[list[int]]:
    """Lanes by what they see of each list of ways: how long each way holds them, and how many do."""
    seen: dict[int, list[Counter[float]]] = {}
    for at, bundles in enumerate(ways):
        for one in bundles:
            for lane, each in one.way.items():
                lanes, pairs = one.own.get(lane, ((lane,), one.pairs))
                for other in lanes:
                    seen.setdefault(other, [Counter() for _ in ways])[at][each] += pairs
    sets: dict[tuple[object, ...], list[int]] = {}
    for lane in sorted(seen):
        key = tuple(tuple(sorted(counts.items())) for counts in seen[lane])
        sets.setdefault((machine.lanes[lane].servers, *key), []).append(lane)
    return list(sets.values())


def least_over(sets: list[list[int]], ways: list[list[Bundle]]) -> list[list[float]]:
    """Of each list of ways, for each set of lanes: the least that any way holds them, summed over the set."""
    set_of = {lane: at for at, lanes in enumerate(sets) for lane in lanes}
    found = []
    for bundles in ways:
        least, met = [math.inf] * len(sets), [0] * len(sets)
        for one in bundles:
            sums: dict[int, float] = {}
            for lane in sorted(one.way):
                sums[set_of[lane]] = sums.get(set_of[lane], 0.0) + one.way[lane]
            for at, value in sums.items():
                least[at] = min(least[at], value)
                met[at] += one.pairs
        total = sum(one.pairs for one in bundles)
        found.append([value if count and count == total else 0.0 for value, count in zip(least, met, strict=True)])
    return found
