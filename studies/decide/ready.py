"""A decision's study made ready: what is held equal, what fits where, what is drawn, and how many runs that takes."""

from dataclasses import dataclass
from typing import Any

from emulation.errors import ConfigError
from studies.decide.decision import Amount, Equality
from studies.decide.equal import made_equal
from studies.decide.fits import Fit, fit
from studies.decide.objectives import ENERGY
from studies.decide.search import Key, planned, refuse_nothing
from studies.decide.space import Ground, grounds, places, with_options
from studies.decide.study import Decide
from studies.decide.turning import planned_swings
from studies.decide.variables import Variable, variables

BREAK_EVEN_RUNS = 3
"""Runs that a constant's break-even takes at a place, as it is planned beforehand; those that are needed are told."""


@dataclass(frozen=True)
class Ready:
    """A study made ready: candidates with what is held equal, the plane, what fits where, and what is drawn."""

    study: Decide
    grounds: dict[str, Ground]
    equality: Equality | None
    amounts: dict[str, Amount]
    places: list[dict[str, Any]]
    fits: dict[Key, Fit]
    variables: tuple[Variable, ...]

    @property
    def where(self) -> list[Key]:
        """(place, candidate) of everything that can be run."""
        return [key for key, one in self.fits.items() if one.status == "ran"]

    @property
    def planned(self) -> dict[str, int]:
        """About how many runs each stage takes: at most, but for the last one."""
        asked, size = self.study.uncertainty, planned(self.study, self.grounds, self.where)
        samples = asked.draws(len(self.variables))
        again = min(asked.again, samples) * sum(min(self.grounds[name].size, asked.settings) - 1
                                                for _, name in self.where)
        at = [{name: True for key, name in self.where if key == number} for number in range(len(self.places))]
        at = [names for names in at if len(names) > 1]
        turns = planned_swings(at, self.variables) if asked.break_even else 0
        further = BREAK_EVEN_RUNS * asked.constants * len(at) if turns else 0
        return {"search": size, "samples": samples * len(self.where), "again": again, "swings": turns,
                "break_even": further}


def prepare(study: Decide) -> Ready:
    """Read all that a study names, hold equal what it says, and tell what fits; nothing runs."""
    ground, equality = grounds(study), None
    amounts: dict[str, Amount] = {}
    if study.objective == ENERGY:
        _check_energy(study, ground)
    if study.equal is not None:
        equality, options, amounts = made_equal(study, ground)
        ground |= {name: with_options(study, ground[name], chosen) for name, chosen in options.items()}
    plane = places(study)
    known: dict[str, Fit] = {}
    fits: dict[Key, Fit] = {}
    for number, place in enumerate(plane):
        for name, one in ground.items():
            point = one.point(place, next(one.choices()))
            if point.key not in known:
                known[point.key] = fit(point)
            fits[number, name] = known[point.key]
    if all(one.status == "failed" for one in fits.values()):
        refuse_nothing(study, [one.error for one in fits.values()])
    ready = Ready(study, ground, equality, amounts, plane, fits, variables(study, ground))
    if (count := sum(ready.planned.values())) > study.limit:
        told = ", ".join(f"{stage.replace('_', '-')} {runs}" for stage, runs in ready.planned.items())
        raise ConfigError(f"{study.where}: this takes about {count} runs ({told}) and the limit is {study.limit}: take "
                          "fewer values, samples or a smaller budget, or raise limit where so many are meant")
    return ready


def _check_energy(study: Decide, ground: dict[str, Ground]) -> None:
    """Refuse joules of a machine of which a part says nothing of them: they would be too few."""
    for name, one in ground.items():
        silent = [group for group, spec in one.hardware.devices.items() if spec.kind != "switch" and not any(
            (spec.idle_power, spec.busy_power, spec.energy_per_byte, spec.energy_per_flop))]
        if silent:
            raise ConfigError(f"{study.where}: objective {ENERGY}: the file of {name}'s machine says nothing of what "
                              f"its {silent[0]} draws, so its joules would be too few (docs/energy.md)")
