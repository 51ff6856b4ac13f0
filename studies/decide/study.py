"""The schema of a decision's study: candidates, the plane that they are compared over, what is held equal."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, model_validator

from cluster.config.load import read_yaml, shown, validate
from cluster.config.names import locate
from cluster.config.quantities import Power, Quantity, Strict, refuse
from cluster.config.run import MachineChoice, PolicyChoice
from cluster.config.serving import Slo
from cluster.identity import HOST_KEYS
from emulation.errors import ConfigError, unknown
from emulation.units import parse
from studies.decide.objectives import GOODPUT, OBJECTIVES
from studies.from_file import FromFile, with_lists

MOST_CANDIDATES, MOST_PLACES, MOST_SAMPLES, MOST_STEPS = 8, 1024, 4096, 10_000

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]
Part = TypeVar("Part", bound=Strict)
Span = Annotated[tuple[str, str], Field(strict=False)]


class Money(Quantity):
    """A price."""

    dimension: ClassVar[str] = "money"


class Steps(Strict):
    """Values of a search from low to high, both included where a step falls on them."""

    low: float
    high: float
    step: float = Field(gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> "Steps":
        if self.low > self.high:
            raise refuse(f"low {self.low} is above high {self.high}")
        if (self.high - self.low) / self.step > MOST_STEPS:
            raise refuse(f"a step of {self.step} from {self.low} to {self.high} makes more than {MOST_STEPS} values")
        return self

    def values(self) -> tuple[float | int, ...]:
        """Whole numbers where low and step are whole."""
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        whole = self.low == int(self.low) and self.step == int(self.step)
        return tuple(int(self.low + i * self.step) if whole else self.low + i * self.step for i in range(count))


class Candidate(Strict):
    """One of those compared. machine: a hardware file, with options. set: dotted path -> value, for its runs.

    policies: those that may serve it; by default the run's own. search: dotted path -> values that are tried, a list or
    {low, high, step}; `policy.parameters.X` goes to those of its policies that have a parameter X.
    """

    machine: MachineChoice
    settings: dict[str, Any] = Field(default_factory=dict, alias="set")
    policies: tuple[PolicyChoice, ...] = Field(default=(), strict=False)
    search: dict[str, tuple[Any, ...] | Steps] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, data: object) -> object:
        search = data.get("search") if isinstance(data, Mapping) else None
        if isinstance(data, Mapping) and isinstance(search, Mapping):
            for path, values in search.items():
                if not isinstance(values, Mapping | Steps) and (not isinstance(values, list | tuple) or not values):
                    raise refuse(f"search.{path} is {values!r} and should be a list of values, one at least, or "
                                 "{low, high, step}")
            return {**data, "search": {path: validate_part(Steps, values, f"search.{path}")
                                       if isinstance(values, Mapping) else tuple(values)
                                       if isinstance(values, list) else values for path, values in search.items()}}
        return data

    def values(self, path: str) -> tuple[Any, ...]:
        """What a search tries of a path."""
        given = self.search[path]
        return given.values() if isinstance(given, Steps) else given


class Equal(Strict):
    """What is held equal. by: capacity (bytes of memory of all devices), power (watts of all devices at work) or cost.

    scale: candidate -> the option of its machine that is chosen so that its amount comes nearest to `to`; a candidate
    that is not in it stays as it is. to: an amount with its unit, or the name of a candidate. within: by how much an
    amount may be off, as a share; more is refused. each: candidate -> device group -> what one such device costs or
    draws; power that is not given here is the hardware file's busy_power.
    """

    by: Literal["capacity", "power", "cost"]
    to: str
    scale: dict[Name, str] = Field(default_factory=dict)
    within: float = Field(default=0.1, ge=0, lt=1)
    each: dict[Name, dict[str, Any]] = Field(default_factory=dict)

    @property
    def dimension(self) -> str:
        """Of the amount that is held equal."""
        return {"capacity": "bytes", "power": "power", "cost": "money"}[self.by]

    @model_validator(mode="after")
    def _sound(self) -> "Equal":
        if self.by == "capacity" and self.each:
            raise refuse("each gives prices or powers, and capacity is told by the hardware files")
        kind: type[Quantity] = Money if self.by == "cost" else Power
        for name, groups in self.each.items():
            for group, given in groups.items():
                validate_part(kind, given, f"each.{name}.{group}")
        return self

    def of(self, candidate: str) -> dict[str, Quantity]:
        """What each device of a group costs or draws, as far as it is given here."""
        kind: type[Quantity] = Money if self.by == "cost" else Power
        return {group: validate_part(kind, given, f"equal.each.{candidate}.{group}")
                for group, given in self.each.get(candidate, {}).items()}


def validate_part(kind: type[Part], given: object, where: str) -> Part:
    """A part of a schema, checked inside of another: refused in one sentence."""
    try:
        return validate(kind, given, where)
    except ConfigError as error:
        raise refuse(str(error)) from None


class Range(Strict):
    """How far a constant may be off, said by the study: for one whose file gives no range, or another."""

    range: Span
    source: str = Field(min_length=1)


class Uncertainty(Strict):
    """How far the answer can be trusted. samples: draws of all constants with a range. seed: of the draws.
    routing: each draw has a seed of its own for its runs too, the same for all candidates: other routing of the same
    kind, other arrivals, other lengths. A recorded trace stays what it is.

    ranges: CANDIDATE.constant -> its range. together: lists of CANDIDATE.constant that are one physical thing, and lie
    at the same place of their ranges in every draw; the same constant of one machine file always does. fixed:
    CANDIDATE.constant that are not sampled. again: in how many draws the best settings of the search compete anew,
    and how many of them. beyond: a break-even that lies outside its range is looked for up to this factor beyond it,
    for so many constants a place.
    """

    samples: int = Field(default=32, ge=0, le=MOST_SAMPLES)
    seed: int = Field(default=0, ge=0, le=(1 << 32) - 1)
    routing: bool = False
    ranges: dict[str, Range] = Field(default_factory=dict)
    together: tuple[tuple[str, ...], ...] = Field(default=(), strict=False)
    fixed: tuple[str, ...] = Field(default=(), strict=False)
    again: int = Field(default=4, ge=0, le=MOST_SAMPLES)
    settings: int = Field(default=4, ge=1, le=64)
    break_even: bool = True
    beyond: float = Field(default=4.0, ge=1, le=1000)
    constants: int = Field(default=3, ge=0, le=64)

    def draws(self, constants: int) -> int:
        """How many draws there are of so many constants: none where nothing differs from draw to draw."""
        return self.samples if constants or self.routing else 0

    @model_validator(mode="before")
    @classmethod
    def _tuples(cls, data: object) -> object:
        if isinstance(data, Mapping) and isinstance(data.get("together"), list | tuple):
            for row in data["together"]:
                if not isinstance(row, list | tuple) or len(row) < 2:
                    raise refuse(f"together: {row!r} should be a list of two constants or more, each written as "
                                 "CANDIDATE.constant")
            return {**data, "together": tuple(tuple(row) for row in data["together"])}
        return data


class Decide(FromFile):
    """Who wins where. run: a run by name or path, or a whole run written here. set: for every candidate. over: dotted
    path -> values: the plane. objective: what is compared. slo: for goodput. budget: settings that a search tries for
    each candidate and place; a larger space is searched by TPE (Optuna) with so many trials. seed: of that search.
    limit: the most runs that are meant, all together.
    """

    title: str = ""
    run: str | dict[str, Any]
    settings: dict[str, Any] = Field(default_factory=dict, alias="set")
    candidates: dict[Name, Candidate] = Field(min_length=1, max_length=MOST_CANDIDATES)
    over: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    objective: str = "output_tokens_per_s"
    slo: Slo | None = None
    equal: Equal | None = None
    uncertainty: Uncertainty = Uncertainty()
    budget: int = Field(default=64, ge=1, le=10_000)
    seed: int = Field(default=0, ge=0, le=(1 << 32) - 1)
    limit: int = Field(default=20_000, ge=1, le=1_000_000)

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, data: object) -> object:
        found = with_lists(data, "over")
        over = found.get("over") if isinstance(found, Mapping) else None
        for path, values in over.items() if isinstance(over, Mapping) else ():
            if len({repr(value) for value in values}) < len(values):
                raise refuse(f"over.{path} names a value twice")
        return found

    @model_validator(mode="after")
    def _sound(self) -> "Decide":
        if self.objective not in OBJECTIVES:
            raise refuse(f"objective: {unknown('objective', self.objective, OBJECTIVES)}")
        if self.slo is not None and self.objective != GOODPUT:
            raise refuse(f"slo belongs to objective: {GOODPUT}; {self.objective} is compared whatever it is")
        if self.objective == GOODPUT and self.slo is None:
            raise refuse(f"objective: {GOODPUT} needs slo: {{ttft: ..., tpot: ...}}, one of them at least")
        if (count := math.prod(map(len, self.over.values()))) > MOST_PLACES:
            raise refuse(f"over makes {count} places, and a decision has at most {MOST_PLACES}")
        searched = [(f"candidates.{name}.{kind}", path) for name, one in self.candidates.items()
                    for kind, paths in (("set", one.settings), ("search", one.search)) for path in paths]
        for place, path in (*(("set", p) for p in self.settings), *(("over", p) for p in self.over), *searched):
            if (key := path.split(".")[0]) in HOST_KEYS:
                raise refuse(f"{place}.{path}: {key} says how a run is carried out and changes no result")
            if path in ("machine", "machine.name", "policy", "policy.name"):
                raise refuse(f"{place}.{path}: each candidate has its machine and its policies "
                             "(candidates.NAME.machine, candidates.NAME.policies)")
            if place not in ("over", "set") and path in self.over:
                raise refuse(f"{place}.{path} is in over too: the plane says its value")
        for path in self.over:
            if path.startswith(("policy.", "machine.")):
                raise refuse(f"over.{path}: the plane is what all candidates share; a machine's options and a policy's "
                             "parameters belong to a candidate's search or set")
        if self.equal is not None:
            self._equal_names(self.equal)
        for path in (*self.uncertainty.ranges, *self.uncertainty.fixed,
                     *(path for row in self.uncertainty.together for path in row)):
            name, dot, _ = path.partition(".")
            if not dot or name not in self.candidates:
                raise refuse(f"uncertainty: {path!r} does not begin with a candidate: "
                             f"{unknown('candidate', name, self.candidates)}")
        return self

    def _equal_names(self, equal: Equal) -> None:
        for what, names in (("scale", equal.scale), ("each", equal.each)):
            for name in names:
                if name not in self.candidates:
                    raise refuse(f"equal.{what}: {unknown('candidate', name, self.candidates)}")
        for name, option in equal.scale.items():
            if f"machine.options.{option}" in self.candidates[name].search:
                raise refuse(f"equal.scale.{name}: option {option} is searched, too: it is one or the other")
        if equal.to in self.candidates:
            if equal.to in equal.scale:
                raise refuse(f"equal.to is {equal.to}, which is scaled itself: what is aimed at stays as it is")
            return
        try:
            if not parse(equal.to, equal.dimension):
                raise refuse(f"equal.to is {equal.to!r}: it is above zero")
        except ConfigError as error:
            raise refuse(f"equal.to: {error}, or the name of a candidate ({', '.join(self.candidates)})") from None


def load_decide(name: str | Path) -> Decide:
    """A decision's study by name or path."""
    path = name if isinstance(name, Path) else locate("decide", "decision", name)
    return validate(Decide, read_yaml(path), shown(path)).placed(path.stem, path.parent, shown(path))


def with_samples(study: Decide, samples: int) -> Decide:
    """The study with another number of draws."""
    uncertain = study.uncertainty.model_copy(update={"samples": min(samples, MOST_SAMPLES)})
    return study.model_copy(update={"uncertainty": uncertain}).placed(study.name, study.folder, study.where)
