"""Arrays of chiplets fed by memory channels: where they lie, rings over them, in which order experts come. Pure."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.errors import ConfigError
from emulation.machine import Machine
from schedulers._places import runs_experts

Ints = NDArray[np.int64]


class Array(NamedTuple):
    """rows x cols chiplets, row by row, and the channels where experts rest; device numbers."""

    chips: tuple[int, ...]
    rows: int
    cols: int
    channels: tuple[int, ...]

    def near(self, machine: Machine, channel: int, among: tuple[int, ...]) -> int:
        """The chiplet with the fewest links from a channel; of several the first."""
        return min(among, key=lambda chip: len(machine.routes[channel, chip]))


def array_of(machine: Machine, policy: str) -> Array:
    """The machine's array; refuses one that is no mesh of homes with channels beside it."""
    chips = machine.homes
    place = {chip: i for i, chip in enumerate(chips)}
    joined = {(place[link.source], place[link.target]) for link in machine.links
              if link.source in place and link.target in place}
    channels = tuple(d for d in machine.stores if d not in place)
    n = len(chips)
    cols = min((b for a, b in joined if a == 0 and b > 1), default=n)
    mesh = {(i, i + 1) for i in range(n) if (i + 1) % cols} | {(i, i + cols) for i in range(n - cols)}
    if n < 2 or n % cols or joined != mesh | {(b, a) for a, b in mesh} or not channels \
            or not all(runs_experts(machine, chip) for chip in chips):
        raise ConfigError(f"{policy} needs a mesh of chiplets that hold tokens and run experts, with channels "
                          f"beside it where experts rest; machine {machine.name!r} has none")
    return Array(chips, n // cols, cols, channels)


def trajectory(name: str, rows: int, cols: int) -> list[list[int]]:
    """Rings over an array, as places counted row by row from 0; each closes from its last place to its first."""
    cells = [(y, x) for y in range(rows) for x in range(cols)]
    if name == "groups":
        return [[y * cols + x for x in range(cols)] for y in range(rows)]
    if name == "spiral":
        cells = _spiral(rows, cols)
    elif name == "boustrophedon":
        cells = [(y, x if y % 2 == 0 else cols - 1 - x) for y, x in cells]
    elif name == "hilbert":
        side = 1 << (max(rows, cols) - 1).bit_length()
        cells = sorted(cells, key=lambda cell: _hilbert(side, *cell))
    return [[y * cols + x for y, x in cells]]


def _spiral(rows: int, cols: int) -> list[tuple[int, int]]:
    """From (0, 0) to the right along the edge, turning inwards."""
    out: list[tuple[int, int]] = []
    top, left, bottom, right = 0, 0, rows - 1, cols - 1
    while top <= bottom and left <= right:
        turn = [(top, x) for x in range(left, right + 1)] + [(y, right) for y in range(top + 1, bottom + 1)]
        if top < bottom:
            turn += [(bottom, x) for x in range(right - 1, left - 1, -1)]
        if left < right:
            turn += [(y, left) for y in range(bottom - 1, top, -1)]
        out += dict.fromkeys(turn)
        top, left, bottom, right = top + 1, left + 1, bottom - 1, right - 1
    return out


def _hilbert(side: int, y: int, x: int) -> int:
    """A cell's place along the Hilbert curve over a square whose side is a power of two."""
    at, half = 0, side // 2
    while half:
        right, down = int(bool(x & half)), int(bool(y & half))
        at += half * half * ((3 * right) ^ down)
        if not down:
            if right:
                x, y = side - 1 - x, side - 1 - y
            x, y = y, x
        half //= 2
    return at


def successors(rings: list[list[int]]) -> dict[int, int]:
    """Each place's next one."""
    return {a: b for ring in rings for a, b in pairwise([*ring, ring[0]])}


def paired_order(active: Ints, counts: Ints) -> Ints:
    """Hot with cold: the expert with the most tokens, the one with the least, the second most, the second least ...
    (arXiv 2603.27624, paired load). active: first come first listed, which breaks ties; counts [experts]."""
    falling = active[np.argsort(-counts[active], kind="stable")]
    out, half = np.empty_like(falling), (len(falling) + 1) // 2
    out[0::2], out[1::2] = falling[:half], falling[half:][::-1]
    return out


def laid(experts: int, parts: int, channels: tuple[int, ...], placement: str) -> Ints:
    """Where parts rest, [experts, parts], in the order of ids: consecutive parts on channels in turn (even), or each
    channel filled before the next (sequential)."""
    number, of = np.arange(experts * parts), len(channels)
    chosen = number % of if placement == "even" else number * of // (experts * parts)
    return np.asarray(channels, np.int64)[chosen].reshape(experts, parts)
