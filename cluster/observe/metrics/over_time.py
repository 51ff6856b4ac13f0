"""The metrics of a finished run as they stood at the end of each slice of its series: what a scraper that was quick
enough would have seen.

What a result tells only as a whole (stalls, loads by phase, energy) is 0 at the first instant and whole at the last.
"""

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate

from cluster.observe.metrics.families import Samples
from cluster.observe.metrics.of_result import (
    durations,
    finishes,
    of_result,
    spread_of,
    tell_machine,
    tell_memory,
    tell_who,
    until,
)
from cluster.observe.metrics.text import MS_PER_S, Instant
from cluster.observe.result import Result
from emulation.errors import ConfigError
from emulation.units import PS_PER_S

PS_PER_MS = PS_PER_S // MS_PER_S
SCRAPE_MS = 15 * MS_PER_S
"""What `auto` makes of a slice that is shorter: the interval at which Prometheus is mostly set to scrape, so that
windows of some minutes hold several slices."""
SINCE_MS = 1_767_225_600_000
"""2026-01-01T00:00:00Z: where emulated time begins, unless somebody says otherwise."""
LATEST_MS = 4_102_444_800_000
"""2100-01-01T00:00:00Z: a run that would end behind it is refused."""

Cumulated = list[int]


def dilation_of(result: Result, asked: Fraction | None) -> Fraction:
    """Seconds of Prometheus' time for an emulated one: as asked, or as `auto` has it, which makes slices of 15 s of
    shorter ones. ConfigError where slices would share a millisecond, which is as fine as Prometheus tells time."""
    slice_ps = result.series.slice_ps
    if asked is None:
        return max(Fraction(1), Fraction(SCRAPE_MS * PS_PER_MS, slice_ps))
    if slice_ps * asked < PS_PER_MS:
        least = -(-PS_PER_MS // slice_ps)
        raise ConfigError(f"at a dilation of {float(asked):g} a slice of this run takes {float(slice_ps * asked):.3g} "
                          f"ps, and Prometheus tells milliseconds apart: {least} is the least dilation, and auto "
                          f"takes {float(dilation_of(result, None)):g}")
    return asked


def over_time(result: Result, run: str, policy: str, since_ms: int, dilation: Fraction) -> list[Instant]:
    """The metrics of a run at each end of a slice, the first at emulated time 0, which is since_ms."""
    slice_ps, count = result.series.slice_ps, result.series.slices
    at_ms = [since_ms + round(i * slice_ps * dilation / PS_PER_MS) for i in range(count + 1)]
    if at_ms[-1] > LATEST_MS:
        raise ConfigError(f"stretched {float(dilation):g} times, this run would end behind the year 2100: take a "
                          "smaller dilation")
    whole = of_result(result, run, policy, float(dilation))
    course = _Course(result)
    between = [Instant(at_ms[i], course.at(i, run, policy, float(dilation))) for i in range(count)]
    between[0].samples.begin(whole)
    return [*between, Instant(at_ms[count], whole)]


class _Course:
    """What a result tells of its time course, summed up slice by slice."""

    def __init__(self, result: Result) -> None:
        self._result, series = result, result.series
        self._sums = {name: _sums(getattr(series, name)) for name in (
            "steps", "prefill_steps", "prefill_tokens", "decode_tokens", "tokens", "hits", "prefill_hits", "misses",
            "prefill_misses", "prefetch_issued", "prefetch_useful", "prefetch_late", "prefetch_wasted")}
        self._busy = {lane: _sums(values) for lane, values in series.busy_ps.items()}
        self._moved = {(link, cause): _sums(values) for link, causes in series.link_bytes.items()
                       for cause, values in causes.items()}
        self._durations = {name: sorted(values) for name, values in durations(result.requests).items()}
        self._spreads = result.spreads
        asked = result.requests
        self._came = sorted(zip(asked.arrival_ps, asked.prompt_tokens, strict=True))
        self._began = sorted(ps for ps in asked.started_ps if ps is not None)
        self._over = sorted(ps for ps, is_whole in zip(asked.last_ps, finishes(asked), strict=True)
                            if is_whole and ps is not None)

    def at(self, index: int, run: str, policy: str, dilation: float) -> Samples:
        """Values at an end of a slice; index 0 is the beginning."""
        result, out = self._result, Samples(run, policy)
        now_ps = min(index * result.series.slice_ps, result.makespan_ps)
        tell_who(out, result)
        out.add("moelab_dilation_ratio", dilation)
        tell_machine(out, result)
        out.add("moelab_emulated_seconds_total", now_ps / PS_PER_S)
        out.add("moelab_done_ratio", now_ps / result.makespan_ps if result.makespan_ps else 0.0)
        self._tell_steps(out, index)
        self._tell_requests(out, now_ps)
        for lane, busy in self._busy.items():
            out.add("moelab_lane_busy_seconds_total", busy[index] / PS_PER_S, lane=lane)
        for (link, cause), moved in self._moved.items():
            out.add("moelab_link_bytes_total", moved[index], link=link, cause=cause)
        for name, spread in self._spreads.items():
            out.spread(f"moelab_{name}_seconds", until(spread, index))
        if index:
            tell_memory(out, result, index - 1)
        for fault in result.faults or ():
            lasts = fault.took_ps is not None and fault.took_ps <= now_ps and (
                fault.over_ps is None or fault.over_ps > now_ps)
            out.add("moelab_faults", float(lasts))
        return out

    def _tell_steps(self, out: Samples, index: int) -> None:
        sums = {name: values[index] for name, values in self._sums.items()}
        for name, figure in (("steps", "steps"), ("experts_hits", "hits"), ("experts_misses", "misses")):
            first = sums[f"prefill_{figure}"]
            out.each(f"moelab_{name}_total", "phase", {"prefill": first, "decode": sums[figure] - first})
        out.each("moelab_tokens_total", "kind", {"output": sums["tokens"], "prefill": sums["prefill_tokens"],
                                                 "decode": sums["decode_tokens"]})
        out.each("moelab_prefetches_total", "outcome", {
            outcome: sums[f"prefetch_{outcome}"] for outcome in ("issued", "useful", "late", "wasted")})

    def _tell_requests(self, out: Samples, now_ps: int) -> None:
        # Counters begin at 0: a rate sees nothing of what the first sample has already.
        came = bisect_right(self._came, now_ps, key=lambda request: request[0]) if now_ps else 0
        began, over = bisect_right(self._began, now_ps) if now_ps else 0, bisect_right(self._over, now_ps)
        out.add("moelab_tokens_total", sum(tokens for _, tokens in self._came[:came]), kind="prompt")
        out.each("moelab_requests_total", "outcome", {"asked": came, "length": over})
        out.add("moelab_requests_waiting", came - began)
        out.add("moelab_requests_running", began - over)
        for name, values in self._durations.items():
            known = values[:bisect_right(values, now_ps, key=lambda duration: duration[0])]
            out.spread(f"moelab_{name}_seconds", spread_of([ps for _, ps in known]))


def _sums(values: Sequence[int]) -> Cumulated:
    """Sums up to each end of a slice, the first 0."""
    return [0, *accumulate(values)]
