"""Where the winner changes: what each constant does alone at the ends of its range, and the value that turns it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from studies.decide.objectives import figure, limits_s
from studies.decide.runs import Runs
from studies.decide.search import Found, Key, leaders
from studies.decide.space import with_values
from studies.decide.study import Decide
from studies.decide.uncertain import Values, margin
from studies.decide.variables import Variable
from studies.sweep_study import Point

TOLERANCE = 1e-3
"""How far the two values that a break-even lies between may be apart, as a share: what three digits can tell."""

MOST_ROUNDS = 40


class Spot(NamedTuple):
    """A constant at a place of its range, at a place of the plane."""

    place: int
    variable: int
    at: float


@dataclass
class Ends:
    """What a constant does at a place of the plane: who wins, and the nominal winner's margin, at its low and high end.

    beyond: the same a factor beyond an end, where that was looked at."""

    leaders: dict[float, tuple[str, ...]]
    margins: dict[float, float | None]

    @property
    def swing(self) -> float:
        """The larger margin of both ends over the smaller; 1 where either is not there."""
        low, high = self.margins.get(-1.0), self.margins.get(1.0)
        return max(low / high, high / low) if low and high else 1.0


@dataclass
class Turn:
    """A break-even. winner: on the near side. inner, outer: places in the range on either side of it, with who wins
    there and by which margin. other: who wins on the outer side. last: what the last round asked, with margins."""

    place: int
    variable: int
    winner: str
    inner: float
    outer: float
    inner_margin: float | None
    outer_margin: float | None
    other: tuple[str, ...]
    last_width: float = math.inf
    last: tuple[tuple[float, float | None], ...] = ()

    @property
    def side(self) -> int:
        """-1: below the file's value; 1: above it."""
        return 1 if self.outer > self.inner else -1


@dataclass(frozen=True)
class Plane:
    """What runs with the files' values found, and how to ask for others."""

    study: Decide
    variables: tuple[Variable, ...]
    found: Mapping[Key, Found]
    chosen: Mapping[Key, int]
    values: Mapping[int, Values]
    winners: Mapping[int, str]
    runs: Runs

    def names(self, spot: Spot) -> list[str]:
        """Candidates at its place whose machine has the constant."""
        return [name for name in self.variables[spot.variable].candidates if (spot.place, name) in self.chosen]

    def ask(self, spots: Sequence[Spot], stage: str) -> list[Values]:
        """The objective of every candidate at each spot; None: its run does not go through."""
        beyond, limits = self.study.uncertainty.beyond, limits_s(self.study.slo)
        points: list[Point] = []
        whose: list[tuple[int, str]] = []
        for i, spot in enumerate(spots):
            constants = self.variables[spot.variable].at(spot.at, beyond)
            for name in self.names(spot):
                key = (spot.place, name)
                points.append(with_values(self.found[key].points[self.chosen[key]], constants[name]))
                whose.append((i, name))
        out = [dict(self.values[spot.place]) for spot in spots]
        for (i, name), row in zip(whose, self.runs.rows(points, stage), strict=True):
            out[i][name] = figure(row, self.study.objective, limits)
        return out

    def value(self, turn: Turn, at: float) -> float:
        """A constant's value at a place of its range, SI."""
        return self.variables[turn.variable].value(at, self.study.uncertainty.beyond)


def swings(plane: Plane) -> dict[tuple[int, int], Ends]:
    """(place, variable) -> what the constant does there alone, for every place that has a winner."""
    spots = [Spot(place, i, at) for place, winner in plane.winners.items() for i, variable in enumerate(plane.variables)
             if winner and plane.names(Spot(place, i, 0.0)) for at in (-1.0, 1.0)]
    out: dict[tuple[int, int], Ends] = {}
    for spot, values in zip(spots, plane.ask(spots, "swings"), strict=True):
        ends = out.setdefault((spot.place, spot.variable), Ends({}, {}))
        ends.leaders[spot.at] = leaders(plane.study, values)
        ends.margins[spot.at] = margin(plane.study, values, plane.winners[spot.place])
    return out


def planned_swings(plane_places: Sequence[Mapping[str, bool]], variables: Sequence[Variable]) -> int:
    """How many runs the swings take: two for each place, constant, and candidate that has it."""
    return sum(2 * sum(name in fits for name in variable.candidates) for fits in plane_places for variable in variables)


def break_evens(plane: Plane, ends: Mapping[tuple[int, int], Ends]) -> tuple[list[Turn], list[tuple[int, int]]]:
    """Every turn of a winner, within ranges and, for the constants that swing most, beyond; and which of these have
    none: (place, variable)."""
    turns = [turn for key, one in ends.items() for turn in _within(plane, key, one)]
    turned = dict.fromkeys((turn.place, turn.variable) for turn in turns)
    looked, never = [], []
    for place in plane.winners:
        own = sorted((key for key in ends if key[0] == place and ends[key].swing > 1 + TOLERANCE),
                     key=lambda key: (-ends[key].swing, key[1]))[:plane.study.uncertainty.constants]
        for key in own:
            if key in turned:
                continue
            side = _falling(ends[key])
            variable = plane.variables[key[1]]
            further = variable.value(2.0 * side, plane.study.uncertainty.beyond)
            if further == variable.value(float(side)):
                never.append(key)
            else:
                looked.append((key, side))
    answers = plane.ask([Spot(place, i, 2.0 * side) for (place, i), side in looked], "break_even")
    for (key, side), values in zip(looked, answers, strict=True):
        winner, top = plane.winners[key[0]], leaders(plane.study, values)
        if top and top != (winner,) and values.get(winner) is not None:
            turns.append(Turn(key[0], key[1], winner, float(side), 2.0 * side, ends[key].margins[side],
                              margin(plane.study, values, winner), top))
        else:
            never.append(key)
    _narrow(plane, turns)
    order = {key: i for i, key in enumerate(ends)}
    turns.sort(key=lambda turn: (order[turn.place, turn.variable], turn.side))
    return turns, sorted(never, key=lambda key: order[key])


def _within(plane: Plane, key: tuple[int, int], ends: Ends) -> Iterator[Turn]:
    place, variable = key
    winner = plane.winners[place]
    for at in (-1.0, 1.0):
        if ends.leaders[at] and ends.leaders[at] != (winner,):
            yield Turn(place, variable, winner, 0.0, at, margin(plane.study, plane.values[place], winner),
                       ends.margins[at], ends.leaders[at])


def _falling(ends: Ends) -> int:
    """The side on which the winner's margin is smaller."""
    low, high = ends.margins[-1.0] or 0.0, ends.margins[1.0] or 0.0
    return -1 if low < high else 1


def _narrow(plane: Plane, turns: list[Turn]) -> None:
    """Bring both sides of every turn together: rounds of runs for all of them at once.

    A round asks two values that lie closely around the place at which the logarithm of the margin would be zero on a
    straight line: through both sides, or through the last round's two values (Newton's method). One round is enough
    where time goes as a power of the constant. Where there is no such line they lie at the thirds of what is left.
    """
    for _ in range(MOST_ROUNDS):
        open_ = [turn for turn in turns if _gap(plane, turn) > TOLERANCE]
        if not open_:
            return
        spots = [(turn, Spot(turn.place, turn.variable, at)) for turn in open_ for at in _probes(plane, turn)]
        answers = plane.ask([spot for _, spot in spots], "break_even")
        for turn in open_:
            turn.last_width, turn.last = abs(turn.outer - turn.inner), ()
        for (turn, spot), values in zip(spots, answers, strict=True):
            turn.last += ((spot.at, margin(plane.study, values, turn.winner)),)
            _place(plane, turn, spot.at, values)


def _place(plane: Plane, turn: Turn, at: float, values: Values) -> None:
    """Take what was found at a place of the range for a new inner or outer side."""
    top, found = leaders(plane.study, values), margin(plane.study, values, turn.winner)
    between = min(turn.inner, turn.outer) < at < max(turn.inner, turn.outer)
    if not between:
        return
    if top == (turn.winner,):
        turn.inner, turn.inner_margin = at, found
    else:
        turn.outer, turn.outer_margin = at, found
        turn.other = top or turn.other


def _gap(plane: Plane, turn: Turn) -> float:
    """How far both sides are apart, as a share of their values."""
    one, other = plane.value(turn, turn.inner), plane.value(turn, turn.outer)
    return abs(math.log(one / other)) if one > 0 and other > 0 else abs(one - other) / max(one, other)


def _probes(plane: Plane, turn: Turn) -> tuple[float, float]:
    """The two places that are asked next, the inner one first."""
    width = turn.outer - turn.inner
    halved = abs(width) <= 0.5 * turn.last_width
    line = _straight(turn)
    guess = _newton(turn) or (turn.inner + line * width if halved and line is not None else None)
    if guess is None:
        return turn.inner + width / 3, turn.outer - width / 3
    step = 0.4 * TOLERANCE / _gap(plane, turn) * width
    return guess - step, guess + step


def _newton(turn: Turn) -> float | None:
    """Where the line through the last round's two values crosses a margin of 1; None where that is not between both
    sides, or they lay apart already."""
    (one, f), (other, g) = turn.last or ((0.0, None), (0.0, None))
    if not f or not g or f == g or abs(other - one) > 0.1 * turn.last_width:
        return None
    at = one - math.log(f) * (other - one) / (math.log(g) - math.log(f))
    return at if min(turn.inner, turn.outer) < at < max(turn.inner, turn.outer) else None


def _straight(turn: Turn) -> float | None:
    """Where between inner (0) and outer (1) the margin would be 1, its logarithm being a straight line."""
    if turn.inner_margin is None or turn.outer_margin is None:
        return None
    one, other = math.log(turn.inner_margin), math.log(turn.outer_margin)
    return one / (one - other) if one > other else None


def value_of(plane: Plane, turn: Turn) -> float:
    """The break-even, SI: on a straight line between both sides, in the middle where their margins are not known."""
    guess = _straight(turn)
    share = 0.5 if guess is None else min(max(guess, 0.0), 1.0)
    one, other = plane.value(turn, turn.inner), plane.value(turn, turn.outer)
    return one + share * (other - one)
