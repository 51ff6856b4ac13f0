"""Ways between devices as the bound sees them: which lanes they hold and for how long a byte."""

import math

from emulation.machine import Machine

Way = dict[int, float]
"""Lane -> seconds a byte."""


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


def alike(machine: Machine, ways: list[list[Way]]) -> list[list[int]]:
    """Lanes by what they see of each list of ways; a way that passes a lane by is as none to it."""
    seen: dict[int, list[list[float]]] = {}
    for at, several in enumerate(ways):
        for way in several:
            for lane, each in way.items():
                seen.setdefault(lane, [[] for _ in ways])[at].append(each)
    sets: dict[tuple[object, ...], list[int]] = {}
    for lane in sorted(seen):
        key = tuple(tuple(sorted(value for value in values if value)) for values in seen[lane])
        sets.setdefault((machine.lanes[lane].servers, *key), []).append(lane)
    return list(sets.values())


def least_over(sets: list[list[int]], ways: list[list[Way]]) -> list[list[float]]:
    """Of each list of ways, for each set of lanes: the least that any way holds them, summed over the set."""
    set_of = {lane: at for at, lanes in enumerate(sets) for lane in lanes}
    found = []
    for several in ways:
        least, met = [math.inf] * len(sets), [0] * len(sets)
        for way in several:
            sums: dict[int, float] = {}
            for lane in sorted(way):
                sums[set_of[lane]] = sums.get(set_of[lane], 0.0) + way[lane]
            for at, value in sums.items():
                least[at] = min(least[at], value)
                met[at] += 1
        found.append([value if count and count == len(several) else 0.0
                      for value, count in zip(least, met, strict=True)])
    return found
