"""Axes in human steps: 1, 2 or 5 of a unit in which the largest value reads well."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cluster.observe.table import bytes_text, number_text, percent_text, time_text


class Unit(NamedTuple):
    """How values of a kind read: on an axis (scale -> symbol, largest first), and one by one."""

    scales: tuple[tuple[float, str], ...]
    text: Callable[[float | None], str]


TIME = Unit(((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"), (1e-12, "ps")), time_text)
BYTES = Unit(((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")), bytes_text)
BANDWIDTH = Unit(((1e12, "TB/s"), (1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1.0, "B/s")),
                 lambda value: "-" if value is None else f"{bytes_text(value)}/s")
SHARE = Unit(((0.01, "%"),), percent_text)
COUNT = Unit(((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")), number_text)
RATE = Unit(((1e6, "M/s"), (1e3, "k/s"), (1.0, "/s")),
            lambda value: "-" if value is None else f"{number_text(value)}/s")


class Axis(NamedTuple):
    """From 0 to `end`; ticks: (value, text)."""

    end: float
    ticks: tuple[tuple[float, str], ...]

    def share(self, value: float) -> float:
        """Where a value lies, 0 to 1."""
        return value / self.end if self.end else 0.0


def axis(most: float, unit: Unit, *, whole: bool = False) -> Axis:
    """An axis from 0 that holds `most`; whole: it ends at a tick, and has up to five steps, otherwise at `most`."""
    if not most > 0:
        return Axis(1.0, ((0.0, _tick(0.0, *unit.scales[-1])),))
    scale, symbol = next(((scale, symbol) for scale, symbol in unit.scales if most >= scale), unit.scales[-1])
    step = _step(most / scale / (5 if whole else 4)) * scale
    count = math.ceil(most / step - 1e-9) if whole else math.floor(most / step + 1e-9)
    end = step * count if whole else most
    return Axis(end, tuple((i * step, _tick(i * step, scale, symbol)) for i in range(count + 1)))


def _step(least: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is no smaller."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def _tick(value: float, scale: float, symbol: str) -> str:
    return f"{value / scale:.4g} {symbol}".rstrip()


def most(rows: Sequence[Sequence[float]]) -> float:
    """The largest value; 0 of none."""
    return max((max(row, default=0.0) for row in rows), default=0.0)
