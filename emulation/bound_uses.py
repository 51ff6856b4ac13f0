"""What a run asks of its experts, added up over its steps: as much as the relaxation needs, and no more."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.bound_costs import Costs
from emulation.bound_path import Rows

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

EXACT_TOKENS, EXACT_ACTIVE, GRID = 8, 16, 4
"""Counts up to these are kept; larger ones are rounded to GRID values for each doubling, to the side that is safe."""


class Entries(NamedTuple):
    """Uses that are alike, [entries]: layer, expert, tokens (at least), active experts of their layer (at most), early,
    and how many there are."""

    layer: Ints
    expert: Ints
    tokens: Ints
    active: Ints
    early: Ints
    times: Ints


class Uses:
    """Counts of (layer, expert, tokens, active, early)."""

    def __init__(self, layers: int, experts: int) -> None:
        self._shape = (layers, experts)
        self._keys: list[Ints] = [np.zeros(0, np.int64)]
        self._count: list[Ints] = [np.zeros(0, np.int64)]
        self.steps = 0

    def add(self, counts: Ints, early: list[tuple[int, int, Ints]]) -> None:
        """counts [steps, layers, experts]; early: (step, layer, counts [experts]) of what ran before its layer."""
        self.steps += len(counts)
        active = (counts > 0).sum(axis=2)
        step, layer, expert = np.nonzero(counts)
        keys = [self._key(layer, expert, counts[step, layer, expert], active[step, layer], np.zeros_like(layer))]
        if early:
            of, ran = np.nonzero(rows := np.array([row for _, _, row in early]))
            one = np.ones_like(ran)
            keys.append(self._key(np.array([moe for _, moe, _ in early])[of], ran, rows[of, ran], one, one))
        new, times = np.unique(np.concatenate(keys), return_counts=True)
        self._keys.append(new)
        self._count.append(times)

    def _key(self, layer: Ints, expert: Ints, tokens: Ints, active: Ints, early: Ints) -> Ints:
        low, high = rounded(tokens, EXACT_TOKENS, up=False), rounded(active, EXACT_ACTIVE, up=True)
        return (((layer * self._shape[1] + expert) << 40) | (low << 16) | (high << 1) | early).astype(np.int64)

    def entries(self) -> Entries:
        """All counts; sorted by layer and expert."""
        if len(self._keys) > 1:
            every, count = np.concatenate(self._keys), np.concatenate(self._count)
            order = np.argsort(every, kind="stable")  # a merge of ascending runs
            first = np.flatnonzero(np.diff(every[order], prepend=-1))
            self._keys, self._count = [every[order][first]], [np.add.reduceat(count[order], first)]
        keys = self._keys[0]
        layer, expert = np.divmod(keys >> 40, self._shape[1])
        return Entries(layer, expert, (keys >> 16) & 0xFFFFFF, (keys >> 1) & 0x7FFF, keys & 1, self._count[0])


def rounded(values: Ints, exact: int, *, up: bool) -> Ints:
    """To the grid, up or down; what is at most `exact` stays."""
    largest = int(values.max(initial=exact))
    steps = int(np.ceil(GRID * np.log2(max(largest / exact, 1)))) + 2
    above = [round(exact * 2 ** (i / GRID)) for i in range(1, steps)]
    grid = np.unique([*range(exact + 1), *above])
    return grid[np.searchsorted(grid, values, side="left")] if up else grid[np.searchsorted(grid, values, "right") - 1]


@dataclass
class Totals:
    """Sums over steps, by MoE layer [layers]: the dense chains behind it, the least time of its stretch, and the
    gathers that may be spared, by kind. before_ps: dense work before first routers, with the first arrival."""

    kernels_ps: Ints
    issued_ps: Ints
    shared_ps: Ints
    least_ps: Ints
    spared: dict[int, Ints] = field(default_factory=dict)
    before_ps: int = 0
    first_ps: int = -1
    last_ps: int = 0
    most: int = 1

    @staticmethod
    def none(layers: int) -> "Totals":
        """Of no step."""
        none = np.zeros((4, layers), np.int64)
        return Totals(none[0], none[1], none[2], none[3])

    def step(self, not_before_ps: int, dense_ps: int) -> None:
        """A step's dense work before its first router. Only the first arrival is sure to be waited for."""
        if self.first_ps < 0:
            self.first_ps = self.before_ps = not_before_ps + dense_ps
        else:
            self.before_ps += dense_ps

    def add(self, costs: Costs, rows: Rows, least: Ints, dense: Ints) -> None:
        """The figures of some steps: least [steps, layers], dense [steps, layers, 4]."""
        self.kernels_ps += dense[..., 0].sum(axis=0)
        self.issued_ps += dense[..., 1].sum(axis=0)
        self.shared_ps += dense[..., 3].sum(axis=0)
        self.least_ps += least.sum(axis=0)
        self.last_ps = int(dense[-1, -1, 0]) if dense.shape[1] else 0
        largest = rows.counts.max(axis=1)
        self.most = max(self.most, int(rows.most.max(initial=1)))
        for number, kind in enumerate(costs.kinds):
            spared = np.ceil(rows.most * costs.gather_ps(kind, largest.astype(np.float64))).astype(np.int64)
            at = self.spared.setdefault(number, np.zeros(least.shape[1], np.int64))
            at += spared.reshape(least.shape).sum(axis=0)
