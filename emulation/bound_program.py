"""A linear program by rows, and the bound that the prices of its solution prove.

The solver's answer is not believed: its prices y >= 0 are repaired until no unbounded variable has a negative reduced
cost, and the bound is y b + the least of (c - y A) x over the boxes of x: weak duality, valid for any y.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from emulation.bound_solver import Rows, core, prices_of
from emulation.errors import ConfigError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MARGIN = 1e-9
"""Relative; far more than what sums of 10^4 doubles lose."""
DIGITS = 9
"""Digits that are kept, rounded down: the last bits of a solver's prices differ between machines."""
UNSAID = ("cover", "there", "rest")
"""Rows that say what must be done, not what is short."""


@dataclass(frozen=True)
class Relaxation:
    """The bound, and what is tight at it."""

    ps: int
    tight: str


@dataclass
class Program:
    """Rows `A x >= b` in coordinates, with a name each; boxes of x."""

    low: list[Floats] = field(default_factory=list)
    high: list[Floats] = field(default_factory=list)
    width: int = 0
    names: list[str] = field(default_factory=list)
    bounds: list[float] = field(default_factory=list)
    _row: list[Ints] = field(default_factory=list)
    _column: list[Ints] = field(default_factory=list)
    _value: list[Floats] = field(default_factory=list)

    def variables(self, count: int, low: float | Floats, high: float | Floats) -> Ints:
        """New variables in boxes; their numbers."""
        self.low.append(np.broadcast_to(np.asarray(low, np.float64), count))
        self.high.append(np.broadcast_to(np.asarray(high, np.float64), count))
        self.width += count
        return np.arange(self.width - count, self.width)

    def row(self, name: str, bound: float, *terms: tuple[Ints | int, Floats | float]) -> None:
        """One row."""
        self.rows(name, np.array([bound]), *((np.zeros(np.size(c), np.int64), np.atleast_1d(c), v) for c, v in terms))

    def rows(self, name: str, bounds: Floats, *terms: tuple[Ints, Ints, Floats | float]) -> None:
        """Rows of one name; terms: (row among these, column, value)."""
        first = len(self.bounds)
        self.bounds += bounds.tolist()
        self.names += [name] * len(bounds)
        for row, column, value in terms:
            self._row.append(np.asarray(row, np.int64) + first)
            self._column.append(np.asarray(column, np.int64))
            self._value.append(np.broadcast_to(np.asarray(value, np.float64), np.shape(row)))

    def matrix(self) -> Rows:
        """A."""
        return Rows(np.concatenate(self._row), np.concatenate(self._column), np.concatenate(self._value),
                    len(self.bounds), self.width)


def load_solver() -> None:
    """Import the solver: for a thread that has the time."""
    core()


def least(program: Program, scale: float) -> Relaxation:
    """The least first variable, times `scale`, rounded down; refuses rows that nothing satisfies."""
    matrix, bounds = program.matrix(), np.array(program.bounds)
    low, high = np.concatenate(program.low), np.concatenate(program.high)
    cost = np.zeros(program.width)
    cost[0] = 1.0
    answer = prices_of(matrix, bounds, low, high, cost)
    if isinstance(answer, str):
        raise ConfigError(f"there is no lower bound: the memories hold no placement of all experts ({answer})")
    prices = np.maximum(answer, 0.0)
    value = _proved(matrix, bounds, low, high, cost, prices)
    ps = int(np.floor(value * scale * (1 - MARGIN)))
    coarse = 10 ** max(len(str(max(ps, 1))) - DIGITS, 0)
    weight: dict[str, float] = {}
    for name, worth, price in zip(program.names, (prices * np.abs(bounds)).tolist(), prices.tolist(), strict=True):
        if name not in UNSAID and price > 1e-7:
            weight[name] = weight.get(name, 0.0) + worth
    tight = sorted(weight, key=lambda name: (-weight[name], name))
    return Relaxation(ps // coarse * coarse, "; ".join(tight[:3]) or "the chain of layers")


def _proved(matrix: Rows, bounds: Floats, low: Floats, high: Floats, cost: Floats, prices: Floats) -> float:
    """The bound that prices prove. Columns without an upper end must not gain: rows that give to them are cheapened."""
    begins, row_of, value_of = matrix.by_column()
    for _ in range(4):
        reduced = cost - matrix.priced(prices)
        bad = np.flatnonzero((reduced < 0) & np.isinf(high))
        if not len(bad):
            break
        for column in bad.tolist():
            rows, values = row_of[begins[column]:begins[column + 1]], value_of[begins[column]:begins[column + 1]]
            gives = values * prices[rows]
            have, want = gives[gives > 0].sum(), cost[column] - gives[gives < 0].sum()
            prices[rows[gives > 0]] *= max(0.0, want / have * (1 - 1e-12)) if have > 0 else 0.0
    reduced = cost - matrix.priced(prices)
    if (reduced[np.isinf(high)] < 0).any():
        return 0.0
    gain = np.where(reduced >= 0, reduced * low, reduced * np.where(np.isinf(high), 0.0, high))
    return float(prices @ bounds + gain.sum())
