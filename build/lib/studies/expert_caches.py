"""Miss rates of expert caches and loads of devices on recorded routing, without timing (arXiv 2303.06182, Fig. 12, 14).

A cache serves what a run's `expert_buffering` serves, by the same rules; a test holds both against each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.errors import ConfigError, unknown
from emulation.trace import NO_EXPERT, Trace
from emulation.view import Visits
from schedulers._eviction import Eviction, first_cached, next_active, pass_through

Ints = NDArray[np.int64]


class Rule(NamedTuple):
    """An eviction, and whether what a batch does not need goes first."""

    eviction: Eviction
    inactive_first: bool


RULES = {"lifo": Rule("lifo", True), "fifo": Rule("fifo", False), "lru": Rule("lru", False),
         "belady": Rule("belady", False), "fifo_inactive_first": Rule("fifo", True),
         "lru_inactive_first": Rule("lru", True), "lifo_plain": Rule("lifo", False)}
"""By the names under which they are asked for: lifo and fifo as published, where only the former looks at the batch."""


@dataclass(frozen=True)
class Missed:
    """Accesses to caches and misses, by layer; an access is one active expert of one batch."""

    accesses: Ints
    misses: Ints

    @property
    def rates(self) -> NDArray[np.float64]:
        """Misses of each layer over its accesses, [moe_layers]; nan of a layer that idles."""
        rates: NDArray[np.float64] = np.divide(self.misses, self.accesses, out=np.full(len(self.misses), np.nan),
                                               where=self.accesses > 0)
        return rates

    @property
    def worst(self) -> float:
        """The rate of the worst layer."""
        return float(np.nanmax(self.rates))


def visits_of(trace: Trace) -> Visits:
    """How many tokens visit each expert, step by step."""
    numbers, at = np.unique(trace.step, return_inverse=True)
    counts = np.zeros((len(numbers), len(trace.layer_ids), trace.num_experts), np.int64)
    row, layer, place = np.nonzero(trace.experts != NO_EXPERT)
    np.add.at(counts, (at[row], layer, trace.experts[row, layer, place]), 1)
    return Visits(numbers.astype(np.int64), counts)


def halves(visits: Visits, share: float) -> tuple[Visits, Visits]:
    """The first part of the steps, which places, and the rest, which scores."""
    first = int(len(visits.step) * share)
    if not 0 < first < len(visits.step):
        raise ConfigError(f"a history of {share} of {len(visits.step)} steps leaves none to one of the two parts")
    return Visits(*(column[:first] for column in visits)), Visits(*(column[first:] for column in visits))


def misses(visits: Visits, owner: Ints, units: int, slots: int, rule: str, popularity: Ints | None = None) -> Missed:
    """What caches of `slots` experts a layer on each unit miss; owner, popularity [moe_layers, experts].

    Each begins with its unit's most frequent experts by `popularity`, or its lowest ids.
    """
    if rule not in RULES:
        raise ConfigError(unknown("eviction", rule, RULES))
    eviction, inactive_first = RULES[rule]
    active = visits.counts > 0
    steps, layers, _ = active.shape
    again = next_active(active) if eviction == "belady" else None
    accesses, missed = np.zeros((2, layers), np.int64)
    for layer in range(layers):
        for unit in range(units):
            own = np.flatnonzero(owner[layer] == unit)
            cached = first_cached(own, slots, None if popularity is None else popularity[layer]).tolist()
            for step in range(steps):
                used = own[active[step, layer, own]].tolist()
                ahead = None if again is None else again[step, layer].__getitem__
                uses, cached = pass_through(cached, used, slots, eviction, inactive_first=inactive_first, again=ahead)
                accesses[layer] += len(uses)
                missed[layer] += sum(not use.hit for use in uses)
    return Missed(accesses, missed)


def sizes_in(text: str) -> list[int]:
    """Cache sizes as they are asked for: 4, or 1..8, or several with commas between."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("..")
        if not first.isdecimal() or not (last or first).isdecimal() or not 1 <= int(first) <= int(last or first):
            raise ConfigError(f"slots {text!r}: a cache's size is a whole number from 1, like 4, or a range like 1..8")
        found += range(int(first), int(last or first) + 1)
    return found


def curve(visits: Visits, owner: Ints, units: int, slots: Sequence[int], rules: Sequence[str],
          popularity: Ints | None = None) -> list[dict[str, Any]]:
    """A row for each rule and cache size: all accesses and misses, the rate of all, and that of the worst layer."""
    rows = []
    for rule in rules:
        for size in slots:
            found = misses(visits, owner, units, size, rule, popularity)
            accesses, missed = int(found.accesses.sum()), int(found.misses.sum())
            rows.append({"policy": rule, "slots": size, "accesses": accesses, "misses": missed,
                         "miss_rate": missed / accesses if accesses else None, "worst_layer": found.worst,
                         "by_layer": [None if np.isnan(rate) else rate for rate in found.rates.tolist()]})
    return rows


class Loads(NamedTuple):
    """The largest share of a batch that one device gets: in the worst batch, and on the mean over batches."""

    max: float
    mean: float


def loads(device_shares: NDArray[np.float64]) -> Loads:
    """Max Load and mean Max Load over all batches and layers; shares [steps, moe_layers, units]."""
    largest = device_shares.max(axis=2)
    return Loads(float(np.nanmax(largest)), float(np.nanmean(largest)))
