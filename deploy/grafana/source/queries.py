"""PromQL of the panels: what was counted, over what it is told for. Never over the host's seconds.

A panel over time divides the rate of a counter by the rate of the emulated time, so that the scrape interval and the
pace of the host cancel out. A panel of totals divides the counters themselves, as they stand at the end of the range.
"""

from collections.abc import Sequence

EMULATED = "moelab_emulated_seconds_total"
CHOSEN = 'run=~"$run", policy=~"$policy"'
"""The runs that the dashboard's variables choose."""
EACH = ("run", "policy")
"""Labels that every series of a run carries, and every panel keeps."""


def series(metric: str, where: str = "", chosen: str = CHOSEN) -> str:
    """The series of a metric. where: further matchers."""
    return f"{metric}{{{', '.join(part for part in (chosen, where) if part)}}}"


def by(how: str, labels: Sequence[str], of: str) -> str:
    """Aggregated by run, policy and these labels."""
    return f"{how} by ({', '.join((*EACH, *labels))}) ({of})"


def rate(metric: str, *labels: str, where: str = "", chosen: str = CHOSEN) -> str:
    """A counter's rate. Means something over another rate only."""
    return by("sum", labels, f"rate({series(metric, where, chosen)}[$__rate_interval])")


def total(metric: str, *labels: str, where: str = "", chosen: str = CHOSEN) -> str:
    """A counter as it stood last within the range, also of a run that is over."""
    return by("sum", labels, f"last_over_time({series(metric, where, chosen)}[$__range])")


def gauge(metric: str, *labels: str, where: str = "", chosen: str = CHOSEN) -> str:
    """A gauge over time."""
    return by("sum", labels, series(metric, where, chosen))


def level(metric: str, *labels: str, where: str = "", chosen: str = CHOSEN) -> str:
    """A gauge as it stood last within the range."""
    return by("max", labels, f"last_over_time({series(metric, where, chosen)}[$__range])")


def level_sum(metric: str, *labels: str, where: str = "", chosen: str = CHOSEN) -> str:
    """Gauges as they stood last within the range, added up."""
    return by("sum", labels, f"last_over_time({series(metric, where, chosen)}[$__range])")


def over(top: str, bottom: str) -> str:
    """A ratio of what has the same labels. Where the denominator is zero there is none, rather than NaN."""
    return f"{top} / ({bottom} > 0)"


def spread_over(top: str, bottom: str) -> str:
    """A ratio of what has further labels to what has run and policy only."""
    return f"{top} / on (run, policy) group_left () ({bottom} > 0)"


def per_emulated_second(metric: str, *labels: str, where: str = "", chosen: str = CHOSEN) -> str:
    """A counter's rate in emulated time."""
    ratio = spread_over if labels else over
    return ratio(rate(metric, *labels, where=where, chosen=chosen), rate(EMULATED, chosen=chosen))


def total_per_emulated_second(metric: str, *labels: str, where: str = "", chosen: str = CHOSEN) -> str:
    """A counter over all emulated time."""
    ratio = spread_over if labels else over
    return ratio(total(metric, *labels, where=where, chosen=chosen), total(EMULATED, chosen=chosen))


def mean(histogram: str, where: str = "", chosen: str = CHOSEN) -> str:
    """The mean of what a histogram saw of late: exact."""
    return over(rate(f"{histogram}_sum", where=where, chosen=chosen),
                rate(f"{histogram}_count", where=where, chosen=chosen))


def total_mean(histogram: str, where: str = "", chosen: str = CHOSEN) -> str:
    """The mean of all that a histogram saw: exact."""
    return over(total(f"{histogram}_sum", where=where, chosen=chosen),
                total(f"{histogram}_count", where=where, chosen=chosen))


def quantile(rank: float, histogram: str, chosen: str = CHOSEN) -> str:
    """A percentile of late, read from buckets: known to the width of one."""
    return f"histogram_quantile({rank}, {rate(f'{histogram}_bucket', 'le', chosen=chosen)})"
