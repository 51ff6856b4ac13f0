"""The best setting of each candidate at each place: all of them where they are few, Optuna's TPE where they are not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emulation.errors import ConfigError, MoelabError
from emulation.extras import require
from studies.decide.objectives import OBJECTIVES, better, figure, limits_s
from studies.decide.runs import Runs
from studies.decide.space import Choice, Ground
from studies.decide.study import Decide
from studies.sweep_rows import FAILED, Row
from studies.sweep_study import Point

BATCH = 4
"""Trials that TPE proposes before it hears of their values: the same whatever the number of workers."""

Key = tuple[int, str]
"""The number of a place, and a candidate."""


@dataclass
class Found:
    """What a search found for a candidate at a place: settings with their runs and rows, in the order of trial."""

    choices: list[Choice] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    values: list[float | None] = field(default_factory=list)
    exhaustive: bool = True

    def ranked(self, more: bool) -> list[int]:
        """Numbers of the settings that ran, the best first, each run once; equals in the order of trial."""
        known: dict[str, int] = {}
        for i, value in enumerate(self.values):
            if value is not None:
                known.setdefault(self.points[i].key, i)
        values = self.values
        return sorted(known.values(), key=lambda i: (-1 if more else 1) * (values[i] or 0.0))

    @property
    def refused(self) -> str | None:
        """The sentences of settings that did not go through, each once, with the first of them that it is of."""
        first: dict[str, str] = {}
        for choice, row in zip(self.choices, self.rows, strict=True):
            if row["status"] == FAILED:
                first.setdefault(row["error"], choice.label)
        return "; ".join(f"{label}: {text}" for text, label in first.items()) or None


def planned(study: Decide, grounds: Mapping[str, Ground], where: Sequence[Key]) -> int:
    """At most how many runs a search takes."""
    return sum(min(grounds[name].size, study.budget) for _, name in where)


def search(study: Decide, grounds: Mapping[str, Ground], places: Sequence[Mapping[str, Any]], where: Sequence[Key],
           runs: Runs) -> dict[Key, Found]:
    """The settings of each candidate at each place that are tried, and what came out."""
    few = [key for key in where if grounds[key[1]].size <= study.budget]
    found = {key: Found() for key in where}
    asked = [(key, choice) for key in few for choice in grounds[key[1]].choices()]
    _carry_out(study, grounds, places, asked, found, runs)
    many = [key for key in where if key not in few]
    if many:
        require("a search of more settings than its budget", "decide")
        for key in many:
            found[key].exhaustive = False
        tpe = {key: _Tpe(study, grounds[key[1]], key) for key in many}
        for begin in range(0, study.budget, BATCH):
            count = min(BATCH, study.budget - begin)
            asked = [(key, choice) for key in many for choice in tpe[key].ask(count)]
            _carry_out(study, grounds, places, asked, found, runs)
            for key in many:
                tpe[key].tell(found[key].values[-count:])
    return found


def _carry_out(study: Decide, grounds: Mapping[str, Ground], places: Sequence[Mapping[str, Any]],
               asked: Sequence[tuple[Key, Choice]], found: Mapping[Key, Found], runs: Runs) -> None:
    points = [grounds[name].point(places[place], choice) for (place, name), choice in asked]
    limits = limits_s(study.slo)
    for (key, choice), point, row in zip(asked, points, runs.rows(points, "search"), strict=True):
        into = found[key]
        into.choices.append(choice)
        into.points.append(point)
        into.rows.append(row)
        into.values.append(_value(study, row, limits))


def _value(study: Decide, row: Row, limits: Mapping[str, float]) -> float | None:
    """The objective of a run; refuses an objective that its runs do not have."""
    value = figure(row, study.objective, limits)
    if value is None and row["status"] != FAILED:
        lacks = {"joules_per_token": f"the file of {row['machine']} carries no energy (docs/energy.md), so nothing "
                                     "says its joules a token"}
        why = lacks.get(study.objective, f"a run on {row['machine']} has none: its workload is too short")
        raise ConfigError(f"{study.where}: objective {study.objective}: {why}")
    return value


class _Tpe:
    """Optuna's TPE over the settings of a candidate at a place, seeded."""

    def __init__(self, study: Decide, ground: Ground, key: Key) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        more, number = OBJECTIVES[study.objective].more, list(study.candidates).index(key[1])
        seed = int(np.random.SeedSequence([study.seed, number, key[0]]).generate_state(1)[0])
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=min(10, max(study.budget // 3, 1)))
        self._study = optuna.create_study(direction="maximize" if more else "minimize", sampler=sampler)
        self._ground, self._failed = ground, optuna.trial.TrialState.FAIL
        self._open: list[Any] = []

    def ask(self, count: int) -> list[Choice]:
        """The next settings to try."""
        out = []
        for _ in range(count):
            trial = self._study.ask()
            self._open.append(trial)
            tried = self._ground.tried
            policy = trial.suggest_categorical("policy", range(len(tried))) if len(tried) > 1 else 0
            values = {path: given[_suggested(trial, f"{policy}.{path}", given)]
                      for path, given in tried[policy][1].items()}
            out.append(self._ground.choice(policy, values))
        return out

    def tell(self, values: Sequence[float | None]) -> None:
        """What came of them; None: it did not go through."""
        for trial, value in zip(self._open, values, strict=True):
            if value is None:
                self._study.tell(trial, state=self._failed)
            else:
                self._study.tell(trial, value)
        self._open = []


def _suggested(trial: Any, name: str, given: Sequence[Any]) -> int:
    """The number of a value: along an order where they are rising numbers."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in given)
    if numbers and list(given) == sorted(given):
        return int(trial.suggest_int(name, 0, len(given) - 1))
    return int(trial.suggest_categorical(name, range(len(given))))


def best(study: Decide, found: Mapping[Key, Found]) -> dict[Key, int]:
    """The number of the best setting of each candidate at each place where any went through."""
    more = OBJECTIVES[study.objective].more
    return {key: ranked[0] for key, one in found.items() if (ranked := one.ranked(more))}


def leaders(study: Decide, values: Mapping[str, float | None]) -> tuple[str, ...]:
    """Who is best: one, several that are equal to the last bit, or nobody, where none went through or has any of it."""
    goal = OBJECTIVES[study.objective]
    top: float | None = None
    for value in values.values():
        if better(goal, value, top):
            top = value
    if top is None or (goal.more and top == 0):
        return ()
    return tuple(name for name, value in values.items() if value == top)


def refuse_nothing(study: Decide, errors: Sequence[MoelabError | None]) -> None:
    """Where no candidate is a run anywhere, what is wrong is the study: told as the first's error."""
    first = next((error for error in errors if error is not None), None)
    if first is not None:
        raise type(first)(f"{study.where}: {first}")
