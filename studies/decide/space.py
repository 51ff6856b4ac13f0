"""What may be chosen: a candidate's settings, and the run that one of them is at a place of the plane."""

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cluster.config.hardware import Hardware
from cluster.config.load import load_hardware, validate
from cluster.config.reading import policy_target, with_constants
from cluster.config.run import MachineChoice, PolicyChoice
from cluster.observe.digest import canonical
from emulation.errors import ConfigError, unknown
from schedulers.registry import policy_class
from studies.decide.decision import Setting
from studies.decide.study import Candidate, Decide
from studies.sweep_study import Base, Point, Study, fingerprint
from studies.sweep_table import short

OF_POLICY = "policy.parameters."


@dataclass(frozen=True)
class Choice:
    """A setting: a policy with its parameters, and what else was searched, by dotted path."""

    policy: str
    parameters: tuple[tuple[str, Any], ...] = ()
    others: tuple[tuple[str, Any], ...] = ()

    @property
    def changes(self) -> dict[str, Any]:
        """What it puts into a run."""
        return {"policy": {"name": self.policy, "parameters": dict(self.parameters)}, **dict(self.others)}

    @property
    def label(self) -> str:
        """As it is told: lru(slots=8), units=2."""
        inner = ", ".join(f"{name}={_text(value)}" for name, value in self.parameters)
        others = [f"{path.rpartition('.')[2]}={_text(value)}" for path, value in self.others]
        return ", ".join([f"{self.policy}({inner})" if inner else self.policy, *others])

    def told(self) -> Setting:
        """As it stands in a decision."""
        return Setting(label=self.label, policy=self.policy, parameters=dict(self.parameters), others=dict(self.others))


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class Ground:
    """A candidate made ready. study: its runs, as a sweep knows them. tried: its policies, each with the axes that a
    search varies for it (dotted path -> values)."""

    name: str
    study: Study
    base: Base
    tried: tuple[tuple[PolicyChoice, dict[str, tuple[Any, ...]]], ...]
    searched: tuple[str, ...]

    @property
    def size(self) -> int:
        """How many settings there are."""
        return sum(math.prod(map(len, axes.values())) for _, axes in self.tried)

    def choices(self) -> Iterator[Choice]:
        """Every setting, policies in their order, the last axis fastest."""
        for number, (_, axes) in enumerate(self.tried):
            for values in itertools.product(*axes.values()):
                yield self.choice(number, dict(zip(axes, values, strict=True)))

    def choice(self, policy: int, values: Mapping[str, Any]) -> Choice:
        """A setting: the number of its policy, and a value of each of that one's axes."""
        tried = self.tried[policy][0]
        own = {path.removeprefix(OF_POLICY): value for path, value in values.items() if path.startswith(OF_POLICY)}
        others = {path: value for path, value in values.items() if not path.startswith(OF_POLICY)}
        return Choice(tried.name, tuple({**tried.parameters, **own}.items()), tuple(others.items()))

    def point(self, place: Mapping[str, Any], choice: Choice) -> Point:
        """The run of a setting at a place."""
        return self.study.point({**place, **choice.changes}, self.base)

    @cached_property
    def machine(self) -> MachineChoice:
        """Its machine, as its runs name it."""
        return self.point({}, next(self.choices())).config.machine

    @cached_property
    def hardware(self) -> Hardware:
        """The file of its machine, with the constants that the study sets."""
        loaded = load_hardware(self.machine.name, self.base.folder)
        return with_constants(loaded, self.machine.constants, f"machine {self.machine.name}")


def with_values(point: Point, constants: Mapping[str, str], later_seed: int = 0) -> Point:
    """The same run on a machine with other constants (dotted path -> quantity), with a seed that is so much larger."""
    if not constants and not later_seed:
        return point
    config = point.config
    machine = config.machine.model_copy(update={"constants": {**config.machine.constants, **constants}})
    changed = config.model_copy(update={"machine": machine, "seed": config.seed + later_seed})
    other = changed.placed(config.name, config.folder)
    return Point(fingerprint(other), point.at, other)


def grounds(study: Decide) -> dict[str, Ground]:
    """Every candidate made ready; refuses a policy, a parameter or a search that leads nowhere."""
    return {name: _ground(study, name, candidate, {}) for name, candidate in study.candidates.items()}


def with_options(study: Decide, ground: Ground, options: Mapping[str, int]) -> Ground:
    """The candidate with other options of its machine."""
    return _ground(study, ground.name, study.candidates[ground.name], options)


def _ground(study: Decide, name: str, candidate: Candidate, options: Mapping[str, int]) -> Ground:
    where = f"{study.where}: candidates.{name}"
    machine = candidate.machine.model_dump()
    settings = {**study.settings, **candidate.settings,
                "machine": {**machine, "options": {**machine["options"], **options}}}
    if study.slo is not None and _serves(study, settings):
        settings["workload.serving.slo"] = study.slo.model_dump(exclude_none=True)
    runs = validate(Study, {"run": study.run, "set": settings, "points": [{}]}, where)
    runs = runs.placed(study.name, study.folder, where)
    base = runs.base()
    named = candidate.policies or (_own(base, where),)
    has = [_fields(one, study.folder, base.folder, where) for one in named]
    searched = {path: candidate.values(path) for path in candidate.search}
    for path in searched:
        if path.startswith(OF_POLICY) and not any(path.removeprefix(OF_POLICY) in fields for fields in has):
            known = list(dict.fromkeys(field for fields in has for field in fields))
            raise ConfigError(f"{where}.search.{path}: no policy of this candidate has it: "
                              f"{unknown('parameter', path.removeprefix(OF_POLICY), known)}")
    tried = []
    for one, fields in zip(named, has, strict=True):
        axes = {path: values for path, values in searched.items()
                if not path.startswith(OF_POLICY) or (
                    (own := path.removeprefix(OF_POLICY)) in fields and own not in one.parameters)}
        tried.append((one, axes))
    if len({canonical([one.model_dump(), list(axes)]) for one, axes in tried}) < len(tried):
        raise ConfigError(f"{where}.policies names a policy with the same parameters twice")
    return Ground(name, runs, base, tuple(tried), tuple(searched))


def _serves(study: Decide, settings: Mapping[str, Any]) -> bool:
    """Whether a candidate's runs serve requests that arrive over time, whose SLO is part of their workload."""
    if any(path.startswith("workload.serving") for path in (*settings, *study.over)):
        return True
    base = validate(Study, {"run": study.run, "points": [{}]}, study.where)
    base = base.placed(study.name, study.folder, study.where)
    found = base.base()
    work = settings.get("workload", found.data.get("workload"))
    if isinstance(work, str):
        work = found.workload(work, study.folder)
    return isinstance(work, Mapping) and work.get("serving") is not None


def _own(base: Base, where: str) -> PolicyChoice:
    """The policy that the run itself names."""
    own = validate(PolicyChoice, base.data.get("policy"), f"{where}: policy of its run")
    return own.model_copy(update={"name": str(base.folder.absolute() / own.name)}) if own.name.endswith(".py") else own


def _fields(tried: PolicyChoice, study: Path, run: Path, where: str) -> tuple[str, ...]:
    """The parameters that a policy has."""
    target, _ = policy_target(PolicyChoice(name=tried.name), study if tried.name.endswith(".py") else run)
    fields = getattr(policy_class(target), "__dataclass_fields__", {})
    for name in tried.parameters:
        if name not in fields:
            raise ConfigError(f"{where}.policies: {tried.name}: {unknown('parameter', name, fields)}")
    return tuple(fields)


def places(study: Decide) -> list[dict[str, Any]]:
    """The points of the plane, the last axis fastest."""
    return [dict(zip(study.over, values, strict=True)) for values in itertools.product(*study.over.values())]


def words(study: Decide) -> dict[str, str]:
    """The short word of each axis."""
    return dict(zip(study.over, short(list(study.over)), strict=True))


def value_text(value: object) -> str:
    """A value of an axis as it is told: a mapping by its name where it has one."""
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return str(value["name"])
    return _text(value)


def place_label(study: Decide, place: Mapping[str, Any]) -> str:
    """A place as it is told: fp8, batch 8."""
    named = words(study)
    return ", ".join(value_text(value) if isinstance(value, str) else f"{named[path]} {value_text(value)}"
                     for path, value in place.items()) or "everywhere"
