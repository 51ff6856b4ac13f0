"""What a figure owes to constants that nobody published: each swept over its range, then all at once both ways."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cluster.config.quantities import ENERGY
from cluster.observe.result import Result
from studies.reproduce.laboratory import Laboratory
from studies.reproduce.measure import Case, Figure, Measure

NOTICED = 0.01
"""A figure depends on a choice that moves it by more than this share of itself."""

PREFIX = "hardware."


class Choice(NamedTuple):
    """Something assumed: a setting, and its values to try. of: the machine files that carry it, where it is a constant
    (empty: every case takes the setting)."""

    setting: str
    values: tuple[str, ...]
    of: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As it is shown."""
        return self.setting.removeprefix("machine.constants.")


class Tried(NamedTuple):
    """A value of a choice, and the figure with it."""

    value: str
    figure: Figure


@dataclass(frozen=True)
class Sweep:
    """What was tried. base: the figure of the quick cases as committed. tried: choice -> values and figures.
    corners: the figure with every choice at its least favourable and its most favourable value."""

    base: Figure = None
    tried: Mapping[str, tuple[Tried, ...]] = field(default_factory=dict)
    corners: tuple[Figure, ...] = ()

    @property
    def matters(self) -> tuple[str, ...]:
        """The choices that the figure depends on, what moves it most first."""
        spread = {name: _spread(self.base, tried) for name, tried in self.tried.items()}
        return tuple(sorted((name for name, by in spread.items() if by > NOTICED), key=lambda name: -spread[name]))

    def figures(self) -> Iterator[Figure]:
        """Every figure that was found."""
        for tried in self.tried.values():
            yield from (one.figure for one in tried)
        yield from self.corners


def _spread(base: Figure, tried: Sequence[Tried]) -> float:
    """How far a choice moves a figure, as a share of it; a trend that it turns over is moved by all."""
    if base is None:
        return 0.0
    if isinstance(base, bool):
        return float(any(one.figure is not None and one.figure != base for one in tried))
    moved = [abs(one.figure - base) for one in tried if one.figure is not None]
    return max(moved, default=0.0) / (abs(base) or 1.0)


def choices(measure: Measure, results: Mapping[str, Result]) -> list[Choice]:
    """What the runs of a measure rest on and no source gives: assumed constants of machines, and the measure's own."""
    found: dict[tuple[str, tuple[str, str]], list[str]] = {}
    for result in results.values():
        for constant in result.provenance:
            if constant.path.rpartition(".")[2] in ENERGY and not measure.of_energy:
                continue
            if constant.kind != "assumed" or constant.range is None or not constant.path.startswith(PREFIX):
                continue
            if constant.range[0] != constant.range[1]:  # what a case sets itself is its point, and no guess
                of = found.setdefault((constant.path.removeprefix(PREFIX), constant.range), [])
                of.extend([result.machine] if result.machine not in of else [])
    constants = [Choice(f"machine.constants.{path}", ends, tuple(of)) for (path, ends), of in found.items()]
    return [*constants, *(Choice(setting, tuple(values)) for setting, values in measure.sweeps.items())]


class Sweeper:
    """Sweeps measures: first told of all, so that their runs share the cores, then asked for each."""

    def __init__(self, laboratory: Laboratory) -> None:
        self._laboratory = laboratory

    def sweep_all(self, measures: Mapping[str, Measure], say: str) -> dict[str, Sweep]:
        """The sweep of every measure that has runs."""
        quick = {name: dict(measure.cases(True)) for name, measure in measures.items()}
        quick = {name: cases for name, cases in quick.items() if cases}
        self._laboratory.carry_out(_all(quick), f"{say}, quick cases")
        plans = {name: self._choices(measures[name], cases) for name, cases in quick.items()}
        self._laboratory.carry_out((case for name, cases in quick.items() for choice in plans[name]
                                    for value in choice.values for case in self._changed(cases, [(choice, value)])),
                                   f"{say}, one constant at a time")
        singles = {name: self._singles(measures[name], cases, plans[name]) for name, cases in quick.items()}
        ends = {name: _corners(base, plans[name], tried) for name, (base, tried) in singles.items()}
        self._laboratory.carry_out((case for name, cases in quick.items() for corner in ends[name]
                                    for case in self._changed(cases, corner)), f"{say}, all constants at once")
        read = {name: Sweep(measure.value({}), {choice: (Tried("otherwise", figure()),)
                                                for choice, figure in measure.readings.items()})
                for name, measure in measures.items() if measure.readings}
        return read | {name: Sweep(base, tried, tuple(self._figure(measures[name], quick[name], corner)
                                                      for corner in ends[name]))
                       for name, (base, tried) in singles.items()}

    def _choices(self, measure: Measure, cases: Mapping[str, Case]) -> list[Choice]:
        done = {key: self._laboratory.result(case) for key, case in cases.items()
                if case not in self._laboratory.failed}
        return choices(measure, done)

    def _singles(self, measure: Measure, cases: Mapping[str, Case],
                 plan: list[Choice]) -> tuple[Figure, dict[str, tuple[Tried, ...]]]:
        tried: dict[str, tuple[Tried, ...]] = {}
        for choice in plan:
            found = tuple(Tried(value, self._figure(measure, cases, [(choice, value)])) for value in choice.values)
            tried[choice.name] = (*tried.get(choice.name, ()), *found)
        return self._figure(measure, cases, []), tried

    def _figure(self, measure: Measure, cases: Mapping[str, Case], changes: list[tuple[Choice, str]]) -> Figure:
        changed = dict(zip(cases, self._changed(cases, changes), strict=True))
        return evaluate(measure, changed, self._laboratory)

    def _changed(self, cases: Mapping[str, Case], changes: list[tuple[Choice, str]]) -> list[Case]:
        out = []
        for case in cases.values():
            settings = []
            for choice, value in changes:
                if not choice.of or self._machine(case) in choice.of:
                    settings.append(f"{choice.setting}={value}")
            out.append(case.with_(*settings) if settings else case)
        return out

    def _machine(self, case: Case) -> str | None:
        return None if case in self._laboratory.failed else self._laboratory.result(case).machine


def evaluate(measure: Measure, cases: Mapping[str, Case], laboratory: Laboratory) -> Figure:
    """A measure's figure; None where a run that it needs was refused or failed."""
    if any(case in laboratory.failed for case in cases.values()):
        return None
    return measure.value({key: laboratory.result(case) for key, case in cases.items()})


def _all(cases: Mapping[str, Mapping[str, Case]]) -> Iterator[Case]:
    for one in cases.values():
        yield from one.values()


def _corners(base: Figure, plan: list[Choice], tried: Mapping[str, tuple[Tried, ...]]) -> list[
        list[tuple[Choice, str]]]:
    """Every choice that moves a figure at the value that makes it least, and at the one that makes it most."""
    if base is None or isinstance(base, bool):
        return []
    corners: list[list[tuple[Choice, str]]] = []
    pick: Callable[..., tuple[float, str]]
    for pick in (min, max):
        corner = []
        for choice in plan:
            found = [(float(one.figure), one.value) for one in tried[choice.name]
                     if one.figure is not None and one.value in choice.values]
            if found and abs(pick(found)[0] - base) > NOTICED * abs(base) and pick(pick(found)[0], base) != base:
                corner.append((choice, pick(found)[1]))
        if len(corner) > 1:
            corners.append(corner)
    return corners
