"""How sure an answer is: draws of all constants at once, intervals, and in how many draws who wins."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from studies.decide.decision import Again, Interval, Stability
from studies.decide.objectives import OBJECTIVES, TOLD, figure, limits_s, ratio
from studies.decide.runs import Runs
from studies.decide.search import Found, Key, leaders
from studies.decide.space import with_values
from studies.decide.study import Decide
from studies.decide.variables import Variable, drawn, draws
from studies.sweep_study import Point

Z_95 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution: both ends of a 95 % interval."""

Values = dict[str, float | None]


@dataclass(frozen=True)
class Draw:
    """One draw. constants: candidate -> dotted path -> quantity. later_seed: what is added to the seed of its runs."""

    constants: Mapping[str, Mapping[str, str]]
    later_seed: int

    def point(self, point: Point, candidate: str) -> Point:
        """A candidate's run under this draw."""
        return with_values(point, self.constants.get(candidate, {}), self.later_seed)


@dataclass(frozen=True)
class Drawn:
    """What came of the draws. quantiles: [draws, variables]. values: (place, candidate) -> the objective of each draw;
    figures: the same of other figures, by name."""

    quantiles: NDArray[np.float64]
    values: dict[Key, list[float | None]]
    figures: dict[Key, dict[str, list[float | None]]]


def sample(study: Decide, variables: tuple[Variable, ...], found: Mapping[Key, Found], chosen: Mapping[Key, int],
           runs: Runs) -> tuple[Drawn, dict[int, Again]]:
    """Every place under every draw with the settings of the search; in the first ones its best settings anew."""
    count = study.uncertainty.draws(len(variables))
    quantiles = draws(count, len(variables), study.uncertainty.seed)
    each = [Draw(drawn(variables, quantiles[i]), i + 1 if study.uncertainty.routing else 0) for i in range(count)]
    keys = [(key, i) for i in range(count) for key in chosen]
    points = [each[i].point(found[key].points[chosen[key]], key[1]) for key, i in keys]
    limits = limits_s(study.slo)
    values: dict[Key, list[float | None]] = {key: [] for key in chosen}
    figures: dict[Key, dict[str, list[float | None]]] = {key: {name: [] for name in TOLD} for key in chosen}
    for (key, _), row in zip(keys, runs.rows(points, "samples"), strict=True):
        values[key].append(figure(row, study.objective, limits))
        for name in TOLD:
            figures[key][name].append(figure(row, name, limits))
    return Drawn(quantiles, values, figures), _again(study, each, found, chosen, values, runs)


def rivals(study: Decide, found: Mapping[Key, Found], chosen: Mapping[Key, int]) -> dict[Key, list[int]]:
    """Numbers of the settings that compete anew, the chosen one first; of candidates that have several."""
    more, most = OBJECTIVES[study.objective].more, study.uncertainty.settings
    ranked = {key: found[key].ranked(more)[:most] for key in chosen}
    return {key: numbers for key, numbers in ranked.items() if len(numbers) > 1}


def _again(study: Decide, each: Sequence[Draw], found: Mapping[Key, Found], chosen: Mapping[Key, int],
           fixed: Mapping[Key, list[float | None]], runs: Runs) -> dict[int, Again]:
    """Place -> what came of it where the best settings of the search competed anew."""
    count = min(study.uncertainty.again, len(each))
    several = rivals(study, found, chosen)
    if not count or not several:
        return {}
    asked = [(key, i, number) for i in range(count) for key, numbers in several.items() for number in numbers]
    points = [each[i].point(found[key].points[number], key[1]) for key, i, number in asked]
    limits, goal = limits_s(study.slo), OBJECTIVES[study.objective]
    best: dict[tuple[Key, int], float | None] = {}
    for (key, i, _), row in zip(asked, runs.rows(points, "again"), strict=True):
        value = figure(row, study.objective, limits)
        before = best.get((key, i))
        if before is None or (value is not None and ratio(goal, value, before) > 1):
            best[key, i] = value
    out = {}
    for place in dict.fromkeys(place for place, _ in several):
        names = [name for at, name in chosen if at == place]
        same, kept, loss = 0, dict.fromkeys(names, 0), dict.fromkeys(names, 0.0)
        for i in range(count):
            fixes: Values = {name: fixed[place, name][i] for name in names}
            bests: Values = {name: best.get(((place, name), i), fixes[name]) for name in names}
            same += leaders(study, fixes) == leaders(study, bests)
            for name in names:
                one, other = fixes[name], bests[name]
                kept[name] += one == other
                if other is not None and one != other:
                    lost = 1.0 if one is None else 1 - 1 / ratio(goal, other, one)
                    loss[name] = max(loss[name], lost)
        out[place] = Again(samples=count, settings=study.uncertainty.settings, same_winner=same, same_setting=kept,
                           loss=loss)
    return out


def interval(values: Sequence[float | None]) -> Interval | None:
    """Nearest-rank P5, P50 and P95 of those that there are."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    p5, p50, p95 = (known[max(math.ceil(len(known) * percent / 100), 1) - 1] for percent in (5, 50, 95))
    return Interval(p5=p5, p50=p50, p95=p95, samples=len(known), failed=len(values) - len(known))


def stability(study: Decide, names: Sequence[str], values: Mapping[str, Sequence[float | None]],
              first: tuple[str, ...]) -> Stability | None:
    """In how many draws who wins, beside who wins with the files' values (`first`)."""
    count = len(next(iter(values.values()), ()))
    if not count:
        return None
    wins, ties, none, same = dict.fromkeys(names, 0), 0, 0, 0
    for i in range(count):
        top = leaders(study, {name: values[name][i] for name in values})
        same += bool(top) and top == first
        if len(top) == 1:
            wins[top[0]] += 1
        elif top:
            ties += 1
        else:
            none += 1
    low, high = wilson(same, count)
    return Stability(samples=count, wins=wins, ties=ties, none=none, share=same / count, low=low, high=high)


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (JASA 22, 1927)."""
    share, z2 = hits / count, Z_95 * Z_95 / count
    middle, half = share + z2 / 2, Z_95 * math.sqrt(share * (1 - share) / count + z2 / (4 * count))
    return (middle - half) / (1 + z2) if hits else 0.0, (middle + half) / (1 + z2) if hits < count else 1.0


def margin(study: Decide, values: Mapping[str, float | None], of: str) -> float | None:
    """How many times better one is than the best other; None where either is not there, or has none of it."""
    goal, mine = OBJECTIVES[study.objective], values.get(of)
    others = [value for name, value in values.items() if name != of and value is not None]
    if mine is None or not others:
        return None
    best = max(others) if goal.more else min(others)
    found = ratio(goal, mine, best)
    return found if 0 < found < math.inf else None


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's rank correlation; None of fewer than three, or where all of one are equal."""
    if len(one) < 3:
        return None
    ranks = [_ranks(np.array(values)) for values in (one, other)]
    a, b = (rank - rank.mean() for rank in ranks)
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale else None


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks of values, equals at their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: NDArray[np.float64] = ((ends - counts) + (ends - 1)) / 2
    return np.asarray(means[inverse], np.float64)


def correlations(study: Decide, drawn_: Drawn, values: Mapping[str, list[float | None]], winner: str) -> list[
        float | None]:
    """Of each variable's draws with the margin of a winner at a place."""
    count = len(drawn_.quantiles)
    margins: list[tuple[int, float]] = []
    for i in range(count):
        found = margin(study, {name: column[i] for name, column in values.items()}, winner)
        if found is not None:
            margins.append((i, math.log(found)))
    rows: Any = [i for i, _ in margins]
    return [spearman(drawn_.quantiles[rows, j].tolist(), [found for _, found in margins])
            for j in range(drawn_.quantiles.shape[1])]
