"""Families in Prometheus' or OpenMetrics' text, as a scraper asks. The only file that imports prometheus_client."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from cluster.observe.metrics.catalogue import BOUNDS, BUCKETS_S, IDENTITY, OTHER
from cluster.observe.metrics.families import Family, Spread
from cluster.observe.metrics.of_machine import of_machine

if TYPE_CHECKING:
    from cluster.serve.contract import Machine

BUCKET_NAMES = (*(f"{bound:g}" for bound in BUCKETS_S), "+Inf")
Source = Callable[[], Iterable[Family]]


class Exposition:
    """What a source tells, as text. It is asked when it is scraped."""

    def __init__(self, source: Source) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Asked(source))

    def text(self, accept: str) -> tuple[bytes, str]:
        """All of it, and its content type, in the format that is asked for."""
        encode, kind = choose_encoder(accept)
        return encode(self._registry), kind


class _Asked(Collector):
    def __init__(self, source: Source) -> None:
        self._source = source

    def describe(self) -> list[Metric]:
        """Nothing: the source is not asked before it is scraped."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every metric, as it is just now."""
        for family in self._source():
            yield as_metric(family)


def as_metric(family: Family) -> Metric:
    """A family in the library's own words."""
    metric, labels = family.metric, (*IDENTITY, *family.metric.labels)
    if metric.kind == "histogram":
        made = HistogramMetricFamily(metric.family, metric.text, labels=labels)
        for key, spread in family.samples.items():
            assert isinstance(spread, Spread)
            made.add_metric(key, list(zip(BUCKET_NAMES, accumulate(spread.counts), strict=True)), spread.sum_s)
        return made
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    plain: CounterMetricFamily | GaugeMetricFamily = kind(metric.family, metric.text, labels=labels)
    for key, value in family.samples.items():
        assert not isinstance(value, Spread)
        plain.add_metric(key, value)
    return plain


class Metrics:
    """The metrics of one served machine and its HTTP front door. streams: how many answers are under way there."""

    def __init__(self, machine: "Machine", streams: Callable[[], int] | None = None) -> None:
        self._machine, self._streams = machine, streams
        self._answered: Counter[tuple[str, int]] = Counter()
        self._named: list[tuple[int, int]] = []
        self._exposition = Exposition(self._families)

    def answered(self, path: str, status: int) -> None:
        """One more answer. Paths that are counted are few."""
        key = path, status
        if key not in self._answered and len(self._answered) >= BOUNDS["code"]:
            key = OTHER, status
        self._answered[key] += 1

    def text(self, accept: str) -> tuple[bytes, str]:
        """All of it, and its content type, in the format that is asked for."""
        return self._exposition.text(accept)

    def _families(self) -> Iterator[Family]:
        out = of_machine(self._machine, self._named)
        if self._streams is not None:
            out.add("moelab_http_streams", self._streams())
        for (path, code), count in sorted(self._answered.items()):
            out.add("moelab_http_responses_total", count, path=path, code=str(code))
        return out.families()
