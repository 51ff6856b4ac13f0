"""Metrics of a run for Ray's own: its agents export them as ray_moelab_*, and no port of ours is opened.

Counters go by what they have grown since they were last told. Histograms are told as counters named as a histogram's
series are, ray_NAME_bucket_total, _sum_total and _count_total: exact, where Ray's own histograms guess their sums, and
of a cost that does not grow with what was counted. Agents keep counters; a gauge goes soon behind its actor.
"""

import time
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from cluster.observe.metrics.catalogue import BUCKETS_S, IDENTITY, Metric
from cluster.observe.metrics.families import Family, Labels, Samples, Spread, joined

SLACK_S = 0.5
EVERY_S = 5.0
"""Between two times that Ray is told: its agents report once in ten seconds by default."""

OLD_OUTPUT = "moelab_output_tokens"
"""What moelab_tokens_total{kind="output"} was called before; still told, for who asks for it."""


class Told(NamedTuple):
    """A value for one of Ray's metrics: its name there, its kind, and its tags."""

    name: str
    kind: str
    text: str
    tags: dict[str, str]
    value: float


class Figures:
    """Tells Ray what a run's watch tells. Ray's metrics are made when they are first needed, each once."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}
        self._counted: dict[tuple[str, Labels], float] = {}

    def tell(self, samples: Sequence[Samples]) -> None:
        """Bring Ray's metrics to these values."""
        for family in joined(samples):
            for told in values_of(family):
                self._put(told, (*IDENTITY, *family.metric.labels))
                if told.name == "moelab_tokens" and told.tags["kind"] == "output":
                    tags = {name: told.tags[name] for name in IDENTITY}
                    self._put(told._replace(name=OLD_OUTPUT, tags=tags), IDENTITY)

    def _put(self, told: Told, labels: Sequence[str]) -> None:
        if told.name not in self._made:
            self._made[told.name] = _metric(told, (*labels, "le") if "le" in told.tags else tuple(labels))
        made = self._made[told.name]
        if told.kind == "gauge":
            made.set(told.value, told.tags)
            return
        key = told.name, tuple(told.tags.values())
        more = told.value - self._counted.get(key, 0.0)
        if more > 0 or key not in self._counted:
            made._record(max(more, 0.0), told.tags)  # what `inc` does, which refuses to say that there was nothing yet
            self._counted[key] = told.value


def _metric(told: Told, names: tuple[str, ...]) -> Any:
    """One of Ray's metrics."""
    from ray.util.metrics import Counter, Gauge

    return (Counter if told.kind == "counter" else Gauge)(told.name, told.text, names)


def values_of(family: Family) -> Iterator[Told]:
    """A family as Ray is told it."""
    metric: Metric = family.metric
    for key, value in family.samples.items():
        tags = dict(zip((*IDENTITY, *metric.labels), key, strict=True))
        if not isinstance(value, Spread):
            yield Told(metric.family, metric.kind, metric.text, tags, float(value))
            continue
        bounds = (*(f"{bound:g}" for bound in BUCKETS_S), "+Inf")
        for bound, count in zip(bounds, accumulate(value.counts), strict=True):
            yield Told(f"{metric.name}_bucket", "counter", metric.text, {**tags, "le": bound}, count)
        yield Told(f"{metric.name}_sum", "counter", metric.text, tags, value.sum_s)
        yield Told(f"{metric.name}_count", "counter", metric.text, tags, sum(value.counts))


def flush() -> None:
    """Return when Ray's agent has what was told so far: it hears once in a report interval."""
    from ray import _raylet

    raylet: Any = _raylet
    time.sleep(raylet.Config.metrics_report_interval_ms() / 1000 + SLACK_S)
