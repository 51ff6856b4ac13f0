"""OpenMetrics 1.0 text with timestamps: what `promtool tsdb create-blocks-from openmetrics` reads."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from cluster.observe.metrics.catalogue import BUCKETS_S, IDENTITY, METRICS, Metric
from cluster.observe.metrics.families import Labels, Samples, Spread, Value

BUCKET_NAMES = (*(f"{bound:g}" for bound in BUCKETS_S), "+Inf")
MS_PER_S = 1000


class Instant(NamedTuple):
    """Values as they stood at a timestamp, in whole milliseconds since 1970."""

    at_ms: int
    samples: Samples


def openmetrics(instants: Sequence[Instant]) -> Iterator[str]:
    """The lines of a whole exposition: families in the catalogue's order, each series in order of time."""
    found: dict[str, dict[Labels, list[tuple[int, Value]]]] = {}
    for at_ms, samples in instants:
        for family in samples.families():
            series = found.setdefault(family.metric.name, {})
            for key, value in family.samples.items():
                series.setdefault(key, []).append((at_ms, value))
    for metric in METRICS:
        if metric.name in found:
            yield from _family(metric, found[metric.name])
    yield "# EOF\n"


def _family(metric: Metric, series: dict[Labels, list[tuple[int, Value]]]) -> Iterator[str]:
    yield f"# HELP {metric.family} {escaped(metric.text)}\n"
    yield f"# TYPE {metric.family} {metric.kind}\n"
    if metric.unit:
        yield f"# UNIT {metric.family} {metric.unit}\n"
    for key, values in series.items():
        named = ",".join(f'{name}="{escaped(value)}"'
                         for name, value in zip((*IDENTITY, *metric.labels), key, strict=True))
        plain, buckets = f"{{{named}}}", [f'{{{named},le="{bound}"}}' for bound in BUCKET_NAMES]
        for at_ms, value in values:
            at = timestamp(at_ms)
            if not isinstance(value, Spread):
                yield f"{metric.name}{plain} {number(value)} {at}\n"
                continue
            for bucket, count in zip(buckets, accumulate(value.counts), strict=True):
                yield f"{metric.name}_bucket{bucket} {count} {at}\n"
            yield f"{metric.name}_count{plain} {sum(value.counts)} {at}\n"
            yield f"{metric.name}_sum{plain} {number(value.sum_s)} {at}\n"


def timestamp(at_ms: int) -> str:
    """Seconds with exactly three places."""
    return f"{at_ms // MS_PER_S}.{at_ms % MS_PER_S:03d}"


def number(value: float) -> str:
    """A value as text; a whole one without a point where that is exact."""
    return str(value) if isinstance(value, int) else repr(float(value))


def escaped(value: str) -> str:
    """A label's value or a help text as it stands between quotes."""
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
