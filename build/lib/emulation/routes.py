"""Shortest routes between devices, found when they are asked for: a machine of a thousand units has a million pairs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emulation.machine import Link

Pair = tuple[int, int]
Route = tuple["Link", ...]


class Routes(Mapping[Pair, Route]):
    """(source, target) -> links of a shortest route; among equals the one whose links come first in the file.

    On a mesh whose file lists all links along x before those along y this is XY routing. What leaves a device by one
    link only goes on as from that link's end, so that the units of a switch need no search of their own.
    """

    def __init__(self, devices: int, links: "Sequence[Link]") -> None:
        self._devices = devices
        self._outgoing: dict[int, list[Link]] = {}
        for link in links:
            self._outgoing.setdefault(link.source, []).append(link)
        self._trees: dict[int, dict[int, Route]] = {}
        self._found: dict[Pair, Route | None] = {}

    def _route(self, pair: Pair) -> Route | None:
        if pair in self._found:
            return self._found[pair]
        source, target = pair
        leaving = self._outgoing.get(source, [])
        if source == target:
            route: Route | None = () if 0 <= source < self._devices else None
        elif len(leaving) == 1 and leaving[0].target != source:
            # The rest of the way does not come back here: a way through here would be no shortest one.
            rest = self._tree(leaving[0].target).get(target)
            route = None if rest is None else (leaving[0], *rest)
        else:
            route = self._tree(source).get(target)
        self._found[pair] = route
        return route

    def _tree(self, start: int) -> dict[int, Route]:
        """Routes from a device to all that it reaches."""
        if start in self._trees:
            return self._trees[start]
        reached: dict[int, Route] = {start: ()}
        frontier = [start]
        while frontier:
            following = []
            for node in frontier:
                for link in self._outgoing.get(node, ()):
                    if link.target not in reached:
                        reached[link.target] = (*reached[node], link)
                        following.append(link.target)
            frontier = following
        self._trees[start] = reached
        return reached

    def __getitem__(self, pair: Pair) -> Route:
        route = self._route(pair)
        if route is None:
            raise KeyError(pair)
        return route

    def __contains__(self, pair: object) -> bool:
        return isinstance(pair, tuple) and self._route(pair) is not None

    def __iter__(self) -> Iterator[Pair]:
        return ((a, b) for a in range(self._devices) for b in range(self._devices) if (a, b) in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)
