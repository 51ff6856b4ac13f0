"""Which devices a link entry of a hardware file joins, and the lanes that its connections hold."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cluster.config.hardware import LinkSpec
from cluster.config.quantities import Bandwidth, Time
from emulation.errors import ConfigError

Pair = tuple[str, str]
Groups = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Connection:
    """One direction between two devices."""

    name: str
    source: str
    target: str
    lane: str
    in_order: bool
    bandwidth: Bandwidth
    latency: Time | None
    servers: int = 1


def connections(links: tuple[LinkSpec, ...], groups: Groups, options: Mapping[str, int]) -> Iterator[Connection]:
    """All connections in file order; of a mesh first those along x, so that routes are XY."""
    meshes: dict[str, tuple[int, int]] = {}
    for link in links:
        if link.pattern == "mesh":
            meshes[link.target] = _extent(link, groups, options)
    for link in links:
        for source, target in _pairs(link, groups, meshes):
            yield from _directions(link, source, target)


def _directions(link: LinkSpec, source: str, target: str) -> Iterator[Connection]:
    stem = link.name if link.bus else f"{link.name}:{source}"
    there = stem if link.bus else f"{stem}>{target}"
    back = stem if link.bus else f"{link.name}:{target}>{source}"
    if link.half_duplex:
        there = back = stem if link.bus else f"{stem}-{target}"
    elif link.bus:
        there, back = f"{stem}.out", f"{stem}.back"
    latency_back = link.latency_back or link.latency
    yield Connection(link.name, source, target, there, link.in_order, link.bandwidth, link.latency,
                     link.servers)
    yield Connection(link.name, target, source, back, link.in_order, link.bandwidth_back or link.bandwidth,
                     latency_back, link.servers)


def _pairs(link: LinkSpec, groups: Groups, meshes: Mapping[str, tuple[int, int]]) -> Iterator[Pair]:
    left, right = groups[link.source], groups[link.target]
    if link.pattern == "each":
        yield from ((a, b) for a in left for b in right)
    elif link.pattern == "all":
        yield from ((a, b) for i, a in enumerate(left) for b in left[i + 1:])
    elif link.pattern == "blocks":
        if len(left) % len(right):
            raise ConfigError(f"links.{link.name}: {len(left)} of {link.source} cannot be shared out evenly among "
                              f"{len(right)} of {link.target}")
        yield from ((a, right[i * len(right) // len(left)]) for i, a in enumerate(left))
    elif link.pattern == "mesh":
        rows, cols = meshes[link.target]
        yield from ((left[r * cols + c], left[r * cols + c + 1]) for r in range(rows) for c in range(cols - 1))
        yield from ((left[r * cols + c], left[(r + 1) * cols + c]) for r in range(rows - 1) for c in range(cols))
    else:
        ends = right
        if link.pattern == "corners":
            rows, cols = meshes[link.target]
            corners = dict.fromkeys((r * cols + c) for r in (0, rows - 1) for c in (0, cols - 1))
            ends = tuple(right[i] for i in corners)
        if len(left) != len(ends):
            raise ConfigError(f"links.{link.name}: {len(left)} of {link.source} cannot be joined one to one with "
                              f"{len(ends)} {'corners' if link.pattern == 'corners' else ''} of {link.target}")
        yield from zip(left, ends, strict=True)


def _extent(link: LinkSpec, groups: Groups, options: Mapping[str, int]) -> tuple[int, int]:
    rows, cols = (options[n] if isinstance(n, str) else n or 0 for n in (link.rows, link.cols))
    if rows * cols != len(groups[link.target]):
        raise ConfigError(f"links.{link.name}: a mesh of {rows} x {cols} has {rows * cols} places and "
                          f"{link.target} has {len(groups[link.target])} devices")
    return rows, cols
