"""Two results side by side: what was asked differently, and which figures differ."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from cluster.observe.result import Result
from cluster.observe.tidy import rows


class Asked(NamedTuple):
    """Something that one run has otherwise than the other: a key of its config, a constant, an input file.

    path: dotted. None: the run has no such thing.
    """

    path: str
    first: str | None
    second: str | None


class Found(NamedTuple):
    """A figure that differs. ratio: the second over the first; None where the first is zero or either is missing."""

    part: str
    name: str
    figure: str
    unit: str
    first: float | None
    second: float | None
    ratio: float | None


class Difference(NamedTuple):
    """same: one digest. asked, found: what differs; figures with the largest change first, up or down."""

    same: bool
    asked: tuple[Asked, ...]
    found: tuple[Found, ...]


DETAIL = ("busy", "stall", "skew", "runs", "critical path", "energy by link", "requests")
"""Parts by lane, layer or request: told only where all is asked for."""

INPUTS = ("trace", "prompts", "requests", "generator", "checkpoint", "machine", "model", "routing", "tokens")


def difference(first: Result, second: Result, *, whole: bool = False) -> Difference:
    """What differs between two results. whole: figures of single lanes, layers and devices, too."""
    asked = [*_asked("", first.config, second.config), *_constants(first, second),
             *(Asked(f"hash of {name}", first.hashes.get(name), second.hashes.get(name))
               for name in INPUTS if first.hashes.get(name) != second.hashes.get(name)),
             *([] if first.digest == second.digest else _versions(first, second))]
    before, after = ({(r.part, r.name, r.figure, r.unit): r.value for r in rows(of)} for of in (first, second))
    found = []
    for key in dict.fromkeys((*before, *after)):
        one, other = before.get(key), after.get(key)
        if one != other and (whole or key[0] not in DETAIL):
            found.append(Found(*key, one, other, other / one if one and other is not None else None))
    found.sort(key=_size, reverse=True)
    return Difference(first.digest == second.digest, tuple(asked), tuple(found))


def _size(row: Found) -> float:
    """How large a change is: twice as much and half as much are the same, and from or to zero is largest. What only
    one of them has is no change."""
    if row.first is None or row.second is None:
        return -1.0
    return abs(math.log(row.second / row.first)) if row.first * row.second > 0 else math.inf


HEAD = (("run", "", "makespan"), ("latency", "ttft", "p50"), ("latency", "tpot", "p50"),
        ("run", "", "output_tokens_per_s"))
"""Figures that are told first, whether they differ or not."""


def head(first: Result, second: Result) -> list[Found]:
    """The figures that both are compared by before all others, as far as both have them."""
    before, after = ({(r.part, r.name, r.figure): r for r in rows(of)} for of in (first, second))
    found = []
    for key in HEAD:
        one, other = before.get(key), after.get(key)
        if one is not None and other is not None and one.value and other.value is not None:
            found.append(Found(*key, one.unit, one.value, other.value, other.value / one.value))
    return found


def _versions(first: Result, second: Result) -> list[Asked]:
    """Packages of which both have another version, or only one has any."""
    before, after = first.host.versions, second.host.versions
    return [Asked(f"version of {name}", before.get(name), after.get(name)) for name in dict.fromkeys((*before, *after))
            if before.get(name) != after.get(name)]


def _asked(path: str, first: Any, second: Any) -> list[Asked]:
    """The keys of two configs whose values differ, down to the innermost."""
    if first == second:
        return []
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        keys = dict.fromkeys((*first, *second))
        return [row for key in keys for row in _asked(f"{path}.{key}".lstrip("."), first.get(key), second.get(key))]
    return [Asked(path, *(None if value is None else str(value) for value in (first, second)))]


def _constants(first: Result, second: Result) -> list[Asked]:
    """Constants of machine and precision that differ in value, where both runs have the same machine file."""
    if first.machine != second.machine:
        return []
    before, after = ({row.path: row.value for row in of.provenance} for of in (first, second))
    return [Asked(path, before.get(path), after.get(path)) for path in dict.fromkeys((*before, *after))
            if before.get(path) != after.get(path)]
