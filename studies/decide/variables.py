"""Constants that may be off: which are drawn, over which range, what moves together, and their values at a place of it.

A place in a range is a number: -1 its low end, 0 the file's value, 1 its high end; further out, 2 and -2 are a factor
beyond the ends.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cluster.config.quantities import ENERGY, SI_UNITS, Quantity, Share, constants
from emulation.errors import ConfigError, unknown
from emulation.units import parse
from studies.decide import objectives
from studies.decide.decision import Member, Sampled
from studies.decide.space import Ground
from studies.decide.study import Decide

LOG_FROM = 4
"""A range that spans more than this factor is drawn uniformly by its logarithm."""

GROUPS = ("devices", "links")


class Part(NamedTuple):
    """A constant of one candidate's machine: SI values, and what its file and the study say of it."""

    candidate: str
    path: str
    value: float
    low: float
    high: float
    most: float
    member: Member


@dataclass(frozen=True)
class Variable:
    """What is drawn: constants that lie at the same place of their ranges. log: by the logarithm."""

    parts: tuple[Part, ...]
    dimension: str
    log: bool

    @property
    def name(self) -> str:
        """CANDIDATE.path of the first."""
        return f"{self.parts[0].candidate}.{self.parts[0].path}"

    @property
    def unit(self) -> str:
        """Of its values in SI."""
        return SI_UNITS[self.dimension]

    @property
    def candidates(self) -> tuple[str, ...]:
        """Whose machines have it."""
        return tuple(dict.fromkeys(part.candidate for part in self.parts))

    def value(self, place: float, beyond: float = 1.0) -> float:
        """The first one's value at a place of its range."""
        return _between(self.parts[0], place, beyond, self.log)

    def at(self, place: float, beyond: float = 1.0) -> dict[str, dict[str, str]]:
        """Candidate -> path -> its value there, as a config writes it."""
        return self._written({i: _between(part, place, beyond, self.log) for i, part in enumerate(self.parts)})

    def drawn(self, quantile: float) -> dict[str, dict[str, str]]:
        """The same at a share of the range, from its low end."""
        return self._written({i: _mix(part.low, part.high, quantile, self.log) for i, part in enumerate(self.parts)})

    def _written(self, values: Mapping[int, float]) -> dict[str, dict[str, str]]:
        out: dict[str, dict[str, str]] = {}
        for i, value in values.items():
            part = self.parts[i]
            out.setdefault(part.candidate, {})[part.path] = f"{value:.10g} {SI_UNITS[self.dimension]}".strip()
        return out

    def told(self, label: str) -> Sampled:
        """As it stands in a decision."""
        first = self.parts[0]
        return Sampled(name=self.name, label=label, unit=self.unit, value=first.value, low=first.low, high=first.high,
                       scale="log" if self.log else "linear", members=tuple(part.member for part in self.parts))


def _between(part: Part, place: float, beyond: float, log: bool) -> float:
    if place > 1:
        return min(part.high * math.pow(beyond, place - 1), part.most)
    if place < -1:
        return part.low / math.pow(beyond, -1 - place)
    end = part.high if place > 0 else part.low
    return _mix(part.value, end, abs(place), log or min(part.value, end) > 0)


def _mix(one: float, other: float, share: float, log: bool) -> float:
    if share <= 0 or one == other:
        return one
    if share >= 1:
        return other
    return one * (other / one) ** share if log else one + (other - one) * share


def variables(study: Decide, grounds: Mapping[str, Ground]) -> tuple[Variable, ...]:
    """What is drawn, in the order of candidates and of their files."""
    asked = study.uncertainty
    of: dict[tuple[str, str], list[tuple[str, Quantity]]] = {}  # (machine file, path) -> whose, and its constant
    known: dict[str, dict[str, tuple[str, str]]] = {}  # candidate -> path -> key
    for name, ground in grounds.items():
        known[name] = {}
        for path, quantity in constants("hardware", ground.hardware):
            key = (ground.machine.name, path.removeprefix("hardware."))
            known[name][key[1]] = key
            of.setdefault(key, []).append((name, quantity))

    def key_of(text: str, where: str) -> tuple[str, str]:
        name, _, path = text.partition(".")
        if path not in known[name]:
            raise ConfigError(f"{study.where}: uncertainty.{where}: "
                              f"{unknown(f'constant of {name}', path, known[name])}")
        return known[name][path]

    given = {}
    for text, said in asked.ranges.items():
        key = key_of(text, "ranges")
        if key in given:
            raise ConfigError(f"{study.where}: uncertainty.ranges: {text} stands there twice: {key[0]} is one file")
        given[key] = (text, said)
    fixed = dict.fromkeys(key_of(text, "fixed") for text in asked.fixed)
    found: dict[tuple[str, str], list[Part]] = {}
    for key, owners in of.items():
        if key in fixed or (study.objective != objectives.ENERGY and key[1].rpartition(".")[2] in ENERGY):
            continue
        span = given.get(key)
        parts = [part for name, quantity in owners if f"machine.constants.{key[1]}" not in grounds[name].searched
                 and (part := _part(study, name, key[1], quantity, span)) is not None]
        if parts:
            found[key] = parts
    dimensions = {key: owners[0][1].dimension for key, owners in of.items()}
    return tuple(_joined(study, found, dimensions, [[key_of(text, "together") for text in row]
                                                    for row in asked.together]))


def _part(study: Decide, name: str, path: str, quantity: Quantity, given: "tuple[str, object] | None") -> Part | None:
    """A constant with the range that the study or its file gives it; None where it has none, or one without width."""
    span, kind, source = quantity.range, str(quantity.kind), quantity.source
    if given is not None:
        said = study.uncertainty.ranges[given[0]]
        span, kind, source = said.range, "assumed", f"{quantity.source}; its range: {said.source}"
    if span is None:
        return None
    value = float(quantity.si)
    try:
        low, high = (float(parse(text, quantity.dimension)) for text in span)
    except ConfigError as error:
        raise ConfigError(f"{study.where}: uncertainty.ranges.{name}.{path}: {error}") from None
    if low > high:
        raise ConfigError(f"{study.where}: uncertainty.ranges.{name}.{path} is {list(span)}, its high end first: write "
                          "[low, high]")
    if not low <= value <= high:
        raise ConfigError(f"{study.where}: uncertainty.ranges.{name}.{path} is {list(span)}, and the file's value "
                          f"{quantity.value!r} lies outside")
    if low == high:
        return None
    share = isinstance(quantity, Share)
    if share and high > 1:
        raise ConfigError(f"{study.where}: uncertainty.ranges.{name}.{path} is {list(span)}, and a share is at most 1")
    return Part(name, path, value, low, high, 1.0 if share else math.inf,
                Member(candidate=name, path=path, value=quantity.value, kind=kind, source=source, range=span))


def _joined(study: Decide, found: dict[tuple[str, str], list[Part]], dimensions: Mapping[tuple[str, str], str],
            together: list[list[tuple[str, str]]]) -> list[Variable]:
    group: dict[tuple[str, str], int] = {}
    for number, row in enumerate(together):
        for key in row:
            text = f"{study.where}: uncertainty.together: {key[1]} of {key[0]}"
            if key in group:
                raise ConfigError(f"{text} stands there twice")
            if key not in found:
                raise ConfigError(f"{text} is not drawn: it has no range (uncertainty.ranges gives it one), it is "
                                  f"fixed or searched, or changes no {study.objective}")
            if dimensions[key] != dimensions[row[0]]:
                raise ConfigError(f"{text} is a {dimensions[key]}, and {row[0][1]} a {dimensions[row[0]]}: one "
                                  "physical thing has one dimension")
            group[key] = number
    sets: dict[object, list[tuple[str, str]]] = {}
    for key in found:
        sets.setdefault(group.get(key, key), []).append(key)
    out = []
    for keys in sets.values():
        parts = tuple(part for key in keys for part in found[key])
        log = all(part.low > 0 for part in parts) and any(part.high > LOG_FROM * part.low for part in parts)
        out.append(Variable(parts, dimensions[keys[0]], log))
    return out


def labels(found: tuple[Variable, ...]) -> list[str]:
    """How each is told: ndp memory_bandwidth; with its candidate where two would read alike."""
    plain = []
    for variable in found:
        words = variable.parts[0].path.split(".")
        plain.append(" ".join(words[1:] if words[0] in GROUPS else words))
    return [text if plain.count(text) == 1 else f"{variable.parts[0].candidate} {text}"
            for text, variable in zip(plain, found, strict=True)]


def draws(count: int, dimensions: int, seed: int) -> NDArray[np.float64]:
    """A Latin hypercube: count draws of so many quantiles each, one of each dimension in every stratum of (0, 1)."""
    rng = np.random.default_rng(seed)
    strata = rng.permuted(np.tile(np.arange(count), (dimensions, 1)), axis=1).T
    cube: NDArray[np.float64] = (strata + rng.random((count, dimensions))) / max(count, 1)
    return cube


def drawn(found: tuple[Variable, ...], quantiles: NDArray[np.float64]) -> dict[str, dict[str, str]]:
    """Candidate -> path -> value of one draw [variables]."""
    out: dict[str, dict[str, str]] = {}
    for variable, quantile in zip(found, quantiles.tolist(), strict=True):
        for name, values in variable.drawn(quantile).items():
            out.setdefault(name, {}).update(values)
    return out
