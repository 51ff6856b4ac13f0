"""Values of metrics at one instant, of one run and policy: checked against the catalogue, and bounded."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cluster.observe.metrics.catalogue import BOUNDS, BUCKETS_S, BY_NAME, LONGEST_VALUE, METRICS, OTHER, Metric, bucket

HASH_LETTERS = 8


@dataclass
class Spread:
    """Durations as a histogram: counts by BUCKETS_S, not summed up, and one for what lies above."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    sum_s: float = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self.counts[bucket(seconds)] += 1
        self.sum_s += seconds


Value = float | Spread
Labels = tuple[str, ...]


class Family(NamedTuple):
    """A metric, and its values by labels: run, policy, then the metric's own in the catalogue's order."""

    metric: Metric
    samples: dict[Labels, Value]


class Samples:
    """Values of one run and policy. A label's values beyond its bound are summed under OTHER; the first ones stay, so
    that a counter never falls because another was larger."""

    def __init__(self, run: str, policy: str) -> None:
        self.identity = (clean(run), clean(policy))
        self._values: dict[str, dict[Labels, Value]] = {}
        self._seen: dict[str, set[str]] = {}

    def add(self, name: str, value: float, **labels: str) -> None:
        """A value; where the labels are there already, the sum. KeyError of what the catalogue does not have."""
        metric = BY_NAME[name]
        key = tuple(self._bounded(label, clean(labels.pop(label))) for label in metric.labels)
        if labels:
            raise KeyError(f"{name} has no label {', '.join(labels)}")
        values = self._values.setdefault(name, {})
        before = values.get(key, 0.0)
        assert not isinstance(before, Spread)
        values[key] = before + value

    def each(self, name: str, label: str, values: Mapping[str, float]) -> None:
        """A value for each value of one label."""
        for key, value in values.items():
            self.add(name, value, **{label: key})

    def spread(self, name: str, durations: Spread) -> None:
        """A histogram."""
        assert BY_NAME[name].kind == "histogram"
        self._values.setdefault(name, {})[()] = durations

    def begin(self, whole: "Samples") -> None:
        """Counters and histograms that another one has begin at nothing, where this one says nothing of them."""
        for name, values in whole._values.items():
            if BY_NAME[name].kind != "gauge":
                nothing = {key: Spread() if isinstance(value, Spread) else 0.0 for key, value in values.items()}
                self._values[name] = {**nothing, **self._values.get(name, {})}

    def _bounded(self, label: str, value: str) -> str:
        seen = self._seen.setdefault(label, set())
        if value in seen:
            return value
        if len(seen) >= BOUNDS[label]:
            return OTHER
        seen.add(value)
        return value

    def families(self) -> Iterator[Family]:
        """All of it, in the catalogue's order."""
        for metric in METRICS:
            if metric.name in self._values:
                values = self._values[metric.name]
                yield Family(metric, {(*self.identity, *key): value for key, value in values.items()})


def joined(several: Sequence[Samples]) -> list[Family]:
    """Families of several runs or policies, each family once."""
    found: dict[str, Family] = {}
    for samples in several:
        for family in samples.families():
            found.setdefault(family.metric.name, Family(family.metric, {})).samples.update(family.samples)
    return [found[metric.name] for metric in METRICS if metric.name in found]


def clean(value: str) -> str:
    """A label's value that UTF-8 can write, of a bounded length."""
    text = value.encode("utf-8", "replace").decode("utf-8")
    if len(text) <= LONGEST_VALUE:
        return text
    mark = hashlib.sha256(text.encode()).hexdigest()[:HASH_LETTERS]
    return f"{text[:LONGEST_VALUE - HASH_LETTERS - 1]}~{mark}"
