"""The least time from one router to the next, for many (step, layer) at once, wherever experts may lie.

Which devices take part in a layer is a case: the home or not, and how many units. In a case with weights a + b = 1,

    time >= a * (the home's constants + its runs) + b * (a unit's constants + an even share of the units' runs),

since a maximum is no less than a mean; each expert then goes where it weighs least (a fraction of it where its cost is
in proportion, which is no more than its true cost). The least over cases of the most over weights is a bound.
All sums are of integers rounded down, so that it is the same on every machine.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.bound_costs import Costs, Kind

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MANY_TOKENS = 32
ALL_TOKENS = 24
SAMPLED_TOKENS = (1, 2, 3, 4, 6, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
"""Token counts at whose ratio of costs the weights of a case are tried: all, if there are no more than ALL_TOKENS of
them (the best weights are then among those tried), else the nearest to these (any weights are valid)."""


@dataclass(frozen=True)
class Rows:
    """One row for each (step, MoE layer). counts [rows, experts]: tokens of each expert, early ones left out.

    tokens: distinct tokens among them. most: the most experts that one token visits. kernels_ps, issued_ps,
    floor_ps, shared_ps: the dense chain behind the layer (least over homes; the most that any home needs is floor_ps).
    """

    counts: Ints
    tokens: Ints
    most: Ints
    kernels_ps: Ints
    issued_ps: Ints
    floor_ps: Ints
    shared_ps: Ints


class Histogram:
    """How many experts of each row have each count of tokens, [rows, counts]."""

    def __init__(self, times: Ints) -> None:
        self.times, self._real = times, times.astype(np.float64)
        self.active = times.sum(axis=1)
        self._most = float(self.active.max(initial=0))

    def total(self, each_ps: Ints) -> Ints:
        """times @ each_ps, [counts] or [counts, several]. In doubles where that is exact (every sum below 2^53 of
        them), since it is much faster; several at once, since the histogram is then read once."""
        if self._most * float(np.abs(each_ps).max(initial=0)) < 2.0 ** 53:
            found: Ints = (self._real @ each_ps.astype(np.float64)).astype(np.int64)
            return found
        exact: Ints = self.times @ each_ps
        return exact

    def whole(self, rows: Rows, tokens: Ints) -> tuple[Ints, Ints]:
        """How many experts have all tokens of their row, and where in `tokens` that count stands; [rows]."""
        at = np.minimum(np.searchsorted(tokens, rows.tokens), len(tokens) - 1)
        return self.times[np.arange(len(at)), at] * (tokens[at] == rows.tokens), at


class Case(NamedTuple):
    """Whether the home takes part, and how many units do: at least `few`, at most `many`."""

    home: bool
    few: int
    many: int


class Mean(NamedTuple):
    """A weighted mean of what the devices of a case do: a constant of each row, [rows], and what an expert adds by its
    count of tokens, [counts]."""

    constant_ps: Ints
    each_ps: Ints


class Least:
    """The units as one kind (the cheapest of each figure where they differ), and so the homes."""

    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        self._units = sum(len(kind) for kind in costs.units)
        self._homes = sum(len(kind) for kind in costs.homes)

    def stretches_ps(self, rows: Rows) -> Ints:
        """From each layer's router to the next decision, [rows]. Rows of few tokens have few counts: they go apart."""
        least = np.zeros(len(rows.counts), np.int64)
        many = rows.counts.max(axis=1) > MANY_TOKENS
        for some in (many, ~many):
            if some.any():
                least[some] = self._stretches_ps(Rows(*(getattr(rows, field.name)[some] for field in fields(Rows))))
        return least

    def _stretches_ps(self, rows: Rows) -> Ints:
        unique = np.flatnonzero(np.bincount(rows.counts.ravel()))
        place = np.zeros(int(unique[-1]) + 1, np.int64)
        place[unique] = np.arange(len(unique))
        height, width = len(rows.counts), len(unique)
        key = np.arange(height)[:, None] * width + place[rows.counts]
        times = np.bincount(key.ravel(), minlength=height * width).reshape(height, width)
        histogram, unique = Histogram(times[:, unique > 0]), unique[unique > 0]
        if not len(unique):
            return rows.floor_ps
        most = rows.counts.max(axis=1)
        lasts = np.maximum(np.searchsorted(unique, most), 0)
        least = np.full(height, np.iinfo(np.int64).max)
        for case in self._cases():
            least = np.minimum(least, self._case_ps(case, rows, histogram, unique, lasts))
        return np.where(most > 0, np.maximum(least, rows.floor_ps), rows.floor_ps)

    def _cases(self) -> Iterator[Case]:
        """Beyond four units, how many take part is told by doubling ranges."""
        sizes = [(k, k) for k in range(1, min(self._units, 4) + 1)]
        while sizes and sizes[-1][1] < self._units:
            sizes.append((sizes[-1][1] + 1, min(2 * sizes[-1][1], self._units)))
        if self._homes:
            yield Case(True, 0, 0)
        for few, many in sizes:
            yield Case(False, few, many)
            if self._homes:
                yield Case(True, few, many)

    def _case_ps(self, case: Case, rows: Rows, histogram: Histogram, tokens: Ints, lasts: Ints) -> Ints:
        if self._costs.one_home and case == (True, 0, 0):
            return self._alone_at_home_ps(rows, histogram, tokens)
        if self._costs.one_home and case == (False, 1, 1):
            return self._alone_on_unit_ps(rows, histogram, tokens)
        return self._balanced_ps(case, rows, histogram, tokens, lasts)

    # one device does it all: the lowering's own integers

    def _alone_ps(self, kind: Kind, rows: Rows, histogram: Histogram, tokens: Ints) -> Ints:
        """All runs in a row; rows are gathered wherever an expert has not all of them."""
        run, gathered = (np.array([self._costs.exact_run_ps(kind, n, flag) for n in tokens.tolist()])
                         for flag in (False, True))
        whole, at = histogram.whole(rows, tokens)
        alone: Ints = (histogram.total(gathered) - whole * (gathered - run)[at]) // kind.servers
        return alone

    def _alone_at_home_ps(self, rows: Rows, histogram: Histogram, tokens: Ints) -> Ints:
        kind, device = self._costs.homes[0], self._costs.homes[0].devices[0]
        lanes_ps = rows.kernels_ps + rows.shared_ps // kind.servers + self._alone_ps(kind, rows, histogram, tokens)
        each_ps, gather_ps = (self._costs.issue_ps(device, *of) for of in
                              (("expert", "scatter", "record"), ("gather",)))
        active, (whole, _) = histogram.active, histogram.whole(rows, tokens)
        issued_ps = np.where(rows.issued_ps > 0, rows.issued_ps + active * each_ps + (active - whole) * gather_ps, 0)
        least: Ints = np.maximum(lanes_ps, issued_ps)
        return least

    def _alone_on_unit_ps(self, rows: Rows, histogram: Histogram, tokens: Ints) -> Ints:
        found = []
        for kind in self._costs.units:
            fixed = np.array([self._costs.fixed_ps(kind, n) for n in rows.tokens.tolist()])
            found.append(fixed + self._alone_ps(kind, rows, histogram, tokens))
        least: Ints = np.minimum.reduce(found) + rows.kernels_ps
        return least

    # several devices

    def _cheapest(self, kinds: list[Kind], tokens: Ints, *, gathered: bool) -> Floats:
        """The least that a run takes of a device, [tokens]."""
        at = tokens.astype(np.float64)
        each = [(self._costs.run_ps(k, at) + (self._costs.gather_ps(k, at) if gathered else 0.0)) / k.servers
                for k in kinds]
        least: Floats = np.minimum.reduce(each)
        return least

    def _balanced_ps(self, case: Case, rows: Rows, histogram: Histogram, tokens: Ints, lasts: Ints) -> Ints:
        costs = self._costs
        means: list[Mean] = []
        fixed_ps = np.zeros_like(rows.kernels_ps)
        if case.many:
            fixed_ps += min(costs.fixed_ps(kind, 1) for kind in costs.units)
        if case.many and not case.home:
            slope = min(costs.row_slope_ps(kind) for kind in costs.units)
            level = min(costs.fixed_ps(kind, 0) for kind in costs.units)
            fixed_ps = np.maximum(fixed_ps, level + (rows.tokens * slope / case.many).astype(np.int64))
        for gathered in (False, True):
            unit = self._cheapest(costs.units, tokens, gathered=gathered) / case.many if case.many else None
            home = self._cheapest(costs.homes, tokens, gathered=gathered) / self._homes if case.home else None
            present = (costs.homes if case.home else [], costs.units if case.many else [])
            spared_home, spared_unit = (self._spared_ps(kinds, rows, tokens, lasts) if gathered else 0
                                        for kinds in present)
            unit_ps = rows.kernels_ps + fixed_ps - spared_unit
            if home is None:
                assert unit is not None
                means.append(Mean(unit_ps, np.floor(unit).astype(np.int64)))
                continue
            home_ps = rows.kernels_ps + self._home_constant_ps(case, rows) - spared_home
            means += self._weighed(home_ps, home, unit_ps, unit, tokens)
            if costs.one_home and not gathered:
                device = costs.homes[0].devices[0]
                issue = np.full(len(tokens), float(costs.issue_ps(device, "expert", "scatter", "record")))
                if costs.issued_in_order(device):
                    means += self._weighed(rows.issued_ps + case.few * self._wait_ps(device), issue, unit_ps, unit,
                                           tokens)
        totals_ps = histogram.total(np.stack([mean.each_ps for mean in means], axis=1))
        least = rows.kernels_ps + self._longest_ps(case, tokens)[lasts]
        for mean, total_ps in zip(means, totals_ps.T, strict=True):
            np.maximum(least, mean.constant_ps + total_ps, out=least)
        return least

    def _weighed(self, home_ps: Ints, home: Floats, unit_ps: Ints, unit: Floats | None, tokens: Ints) -> list[Mean]:
        if unit is None:
            return [Mean(home_ps, np.floor(home).astype(np.int64))]
        return [Mean(np.floor(a * home_ps + (1 - a) * unit_ps).astype(np.int64) - 1,
                     np.floor(np.minimum(a * home, (1 - a) * unit)).astype(np.int64))
                for a in self._weights(home, unit, tokens)]

    def _weights(self, home: Floats, unit: Floats, tokens: Ints) -> list[float]:
        at = np.arange(len(tokens))
        if len(tokens) > ALL_TOKENS:
            at = np.unique(np.searchsorted(tokens, [n for n in SAMPLED_TOKENS if n <= tokens[-1]]))
        even = [float(unit[i] / (home[i] + unit[i])) for i in at.tolist() if home[i] + unit[i] > 0]
        return [0.0, 0.5, 1.0, *even]

    def _home_constant_ps(self, case: Case, rows: Rows) -> Ints:
        """On the lanes of a home: its shared experts, and adding what comes back from each unit."""
        added = case.few * self._costs.added_ps()
        servers = max(kind.servers for kind in self._costs.homes)
        constant: Ints = (rows.shared_ps + added) // servers
        return constant

    def _wait_ps(self, home: int) -> int:
        """What one visit of a unit costs the thread that issues the home's work."""
        waits = all(self._costs.machine.devices[kind.devices[0]].issuer is None for kind in self._costs.units)
        return self._costs.issue_ps(home, "reduce") + (self._costs.sync_ps(home) if waits else 0)

    def _spared_ps(self, kinds: list[Kind], rows: Rows, tokens: Ints, lasts: Ints) -> Ints | int:
        """Runs that gather nothing take all rows that their device was sent; one row is of at most `most` experts."""
        if not kinds:
            return 0
        at = tokens.astype(np.float64)
        each = np.ceil(np.maximum.reduce([self._costs.gather_ps(k, at) / k.servers for k in kinds])).astype(np.int64)
        spared: Ints = rows.most * each[lasts]
        return spared

    def _longest_ps(self, case: Case, tokens: Ints) -> Ints:
        """One expert by itself: at home, on units, or cut between them so that they end together; [tokens]."""
        costs = self._costs
        at = tokens.astype(np.float64)

        def alone(kinds: list[Kind], share: int, fixed_ps: int) -> tuple[int, Floats]:
            """Constant and proportional part of its time on some of these devices."""
            rest: Floats = np.minimum.reduce([(costs.run_ps(k, at) - costs.overhead_ps(k)) / k.servers for k in kinds])
            return fixed_ps + min(costs.overhead_ps(kind) for kind in kinds), rest / share

        visit_ps = min((costs.fixed_ps(kind, 1) for kind in costs.units), default=0)
        if not case.home:
            over, rest = alone(costs.units, case.many, visit_ps)
            found = over + rest
        elif not case.many:
            over, rest = alone(costs.homes, self._homes, 0)
            found = over + rest
        else:
            (over, rest), (away, share) = alone(costs.homes, self._homes, 0), alone(costs.units, case.many, visit_ps)
            x = np.clip((away - over + share) / np.maximum(rest + share, 1e-9), 0.0, 1.0)
            both = np.minimum(over + x * rest, away + (1 - x) * share)
            found = np.minimum(both, np.minimum(over + rest, away + share))
        least: Ints = np.floor(found).astype(np.int64) - 1
        return least
