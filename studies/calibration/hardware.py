"""A hardware file from what was measured: constants with their residuals, and where each is from."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from studies.calibration.measure import Column, Measured
from studies.fitting import Fit, fit_line, fit_roofline

FREE_RATE = 1e15
"""Bytes or flops a second where the rows show no limit: nothing that is measured comes near it."""

HIDDEN = 0.5
"""Where less than so much of the shorter of two works was hidden, both threads are taken to share the interpreter."""

Quantity = dict[str, Any]


@dataclass(frozen=True)
class Host:
    """What was measured, as the file's title and sources name it."""

    name: str
    title: str
    dtype: str
    date: str
    near_bytes: int
    far_bytes: int


def _quantity(value: str, source: str, kind: str = "measured", span: tuple[str, str] | None = None) -> Quantity:
    return {"value": value, "source": source, "kind": kind, **({"range": list(span)} if span else {})}


def time_of(seconds: float, source: str, kind: str = "measured") -> Quantity:
    """Seconds as microseconds; nanoseconds are kept."""
    return _quantity(f"{max(seconds, 0.0) * 1e6:.3f} us", source, kind)


def rate_of(per_s: float | None, limit: float | None, what: str, unit: str, source: str) -> Quantity:
    """A rate a second. Where the rows do not tell it, the highest that a row reached, with that said."""
    if per_s is not None:
        return _quantity(f"{per_s / 1e9:.4g} G{unit}", source)
    least = max(limit or 0.0, 1.0)
    lowest, highest = (f"{rate / 1e9:.4g} G{unit}" for rate in (least, max(FREE_RATE, least)))
    return _quantity(lowest, f"{source}; {what} does not show in these rows: the least that it can be", "assumed",
                     (lowest, highest))


def said(fit: Fit, what: str, host: Host) -> str:
    """Where a fitted constant is from, with its residuals."""
    return (f"{what}, {fit.n} rows on {host.date}: fit, |error| p50 {fit.p50:.1%}, p90 {fit.p90:.1%}, "
            f"p99 {fit.p99:.1%}")


def residuals(fits: Mapping[str, Fit]) -> dict[str, dict[str, float]]:
    """p50, p90, p99 and the largest of |error| by what was fitted."""
    return {what: {"rows": fit.n, "p50": round(fit.p50, 4), "p90": round(fit.p90, 4), "p99": round(fit.p99, 4),
                   "max": round(fit.max, 4)} for what, fit in fits.items()}


def _roofline(column: Column) -> Fit:
    return fit_roofline(column.bytes_, column.flops, column.seconds)


def _line(column: Column) -> Fit:
    return fit_line(column.bytes_, column.seconds)


def _halved(one: Column, other: Column) -> Column:
    """Rows of two columns that were measured together, added and halved."""
    return Column(one.bytes_, one.flops, [(a + b) / 2 for a, b in zip(one.seconds, other.seconds, strict=True)])


def _fitted(fit: Fit, what: str, host: Host) -> dict[str, Any]:
    """overhead and bandwidth of a family that reads."""
    source = said(fit, what, host)
    return {"overhead": time_of(float(fit.used[0]), source),
            "bandwidth": rate_of(fit.bytes_per_s, fit.limits.get("bytes_per_s"), "a bandwidth", "B/s", source)}


def _whole(fit: Fit, what: str, host: Host) -> dict[str, Any]:
    """overhead, bandwidth and peak of a family that reads and computes."""
    source = said(fit, what, host)
    return {**_fitted(fit, what, host),
            "peak": {host.dtype: rate_of(fit.flops_per_s, fit.limits.get("flops_per_s"), "a peak", "FLOP/s", source)}}


def _near(measured: Measured) -> tuple[Fit, float]:
    """The roofline of an expert near, and what gathering its rows adds: rows of both kinds, brought together."""
    whole, some = measured.column("near whole"), measured.column("near gathered")
    alike = [took - alone for bytes_, took in zip(some.bytes_, some.seconds, strict=True)
             for other, alone in zip(whole.bytes_, whole.seconds, strict=True) if other == bytes_]
    more = max(0.0, statistics.median(alike)) if alike else 0.0
    both = Column(whole.bytes_ + some.bytes_, whole.flops + some.flops,
                  whole.seconds + [max(took - more, 0.1 * took) for took in some.seconds])
    return _roofline(both), more


def _beyond_bytes(column: Column, fit: Fit) -> float:
    """Median seconds of rows beyond what their bytes take at a fitted bandwidth."""
    return statistics.median(max(0.0, took - bytes_ * float(fit.used[1]))
                             for bytes_, took in zip(column.bytes_, column.seconds, strict=True))


def _far(fit: Fit, overlap: float, host: Host, lanes: list[Any], thread: str) -> dict[str, Any]:
    expert = _whole(fit, "experts on the worker thread, in an engine: rows picked and added, too", host)
    return {"kind": "cpu", "rests": True,
            "memory": _quantity(f"{host.far_bytes // 10**6} MB", "free memory when measured"),
            "memory_bandwidth": expert["bandwidth"], "peak": expert["peak"], "lanes": lanes,
            **({"thread": thread} if overlap < HIDDEN else {}),
            "kernels": {"expert": {"overhead": expert["overhead"]}}}


class Plain(yaml.SafeDumper):
    """YAML without aliases, which configs do not hold."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write everything out."""
        return True


def as_yaml(file: Mapping[str, Any]) -> str:
    """A hardware file's text."""
    return yaml.dump(dict(file), Dumper=Plain, sort_keys=False, allow_unicode=True, width=120)


def _sum_up(measured: Measured, host: Host, fits: dict[str, Fit], devices: dict[str, Any], link: dict[str, Any],
            leaves_out: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    shared = min(1.0, max(0.0, measured.overlap))
    file = {"title": host.title, "description":
            f"Measured by `moelab calibrate` on {host.date}: {measured.samples} samples in running engines, of queued "
            f"kernels and of copies. Of two works, one near and one on the worker thread, {shared:.0%} of the shorter "
            "was hidden.", "devices": devices, "links": [link], "homes": ["near"],
            "quantum": _quantity("1 GiB", "a copy of a whole matrix is not cut: larger than any expert", "computed"),
            "leaves_out": leaves_out}
    return file, {"name": host.name, "date": host.date, "samples": measured.samples, "overlap": shared,
                  "residuals": residuals(fits)}


def cpu_file(measured: Measured, host: Host) -> tuple[dict[str, Any], dict[str, Any]]:
    """A CPU that is its own near memory: what the main thread computes is near, a worker computes what is far."""
    fits = {what: _roofline(measured.column(what)) for what in ("attention", "router")}
    fits["norm"] = _line(_halved(measured.column("norm"), measured.column("between")))
    fits["copy"] = _line(measured.column("copy in engine"))
    fits["near expert"], gathered = _near(measured)
    fits["far expert"] = _roofline(measured.column("far"))
    near, copy = fits["near expert"], fits["copy"]
    expert = _whole(near, "experts over tokens of a batch, in an engine", host)
    kernels = {"expert": expert,
               "attention": _whole(fits["attention"], "attention at decode, in an engine", host),
               "router": _whole(fits["router"], "router, softmax and top-k, in an engine", host),
               "norm": _fitted(fits["norm"], "norm and what lies between parts, halved: a layer has two", host),
               "gather": {"overhead": time_of(gathered, "experts over one of several tokens, less those over the only "
                                                        f"one, median on {host.date}")},
               "copy": {"issue": time_of(measured.column("fetch").median_s,
                                         f"asking for a copy, median on {host.date}")}}
    devices: dict[str, Any] = {"near": {
        "kind": "cpu", "memory": _quantity(f"{host.near_bytes // 10**6} MB", "free memory when measured"),
        "memory_bandwidth": expert["bandwidth"], "peak": expert["peak"], "lanes": [{"name": "core", "in_order": True}],
        "issuer": {"thread": "main", "sync": _quantity("0 us", "what it computes has ended when it returns",
                                                         "computed")},
        "thread": "main", "kernels": kernels}}
    devices["far"] = _far(fits["far expert"], measured.overlap, host, [{"name": "worker", "in_order": True}], "main")
    start = measured.column("far start").median_s
    source = said(copy, "paced copies of an engine on demand, until their expert runs", host)
    link = {"name": "copies", "from": "far", "to": "near", "in_order": True,
            "bandwidth": rate_of(copy.bytes_per_s, copy.limits.get("bytes_per_s"), "a bandwidth", "B/s", source),
            "latency": time_of(copy.used[0], source),
            "bandwidth_back": _quantity("1 TB/s", "rows stay in the same memory", "assumed", ("10 GB/s", "10 TB/s")),
            "latency_back": time_of(start, f"a job: from being queued to its first expert, median on {host.date}")}
    return _sum_up(measured, host, fits, devices, link,
                   ["Two threads of one interpreter slow each other by more or less than was measured on average."])


def cuda_file(measured: Measured, host: Host) -> tuple[dict[str, Any], dict[str, Any]]:
    """A GPU issued by one host thread, with a copy stream, and the host's CPU with a worker thread."""
    fits = {"near expert": _roofline(measured.column("gpu expert")), "far expert": _roofline(measured.column("far")),
            "copy queued": _line(measured.column("copy queued"))}
    expert, copy = fits["near expert"], fits["copy queued"]
    seconds = {what: measured.column(what).median_s for what in measured.columns}
    spent = f"in an engine, median on {host.date}"
    source = said(expert, "experts queued behind a wait, issue hidden", host)

    def family(gpu: float, issue: float, what: str) -> dict[str, Any]:
        return {"overhead": time_of(gpu, f"{what}: GPU time with issue hidden, {host.date}"),
                **({"issue": time_of(issue, f"{what}: time of the issuing thread {spent}")} if issue > 0 else {})}

    gathered = max(0.0, seconds["near gathered"] - seconds["near whole"])
    once = {"overhead": time_of(expert.used[0], source)}
    kernels = {
        "expert": {**once, "issue": time_of(seconds["near whole"], f"an expert with its add and its event, {spent}")},
        "attention": family(_beyond_bytes(measured.column("gpu attention"), expert), seconds["attention"],
                            "attention, beyond its bytes at the device's bandwidth"),
        "router": family(seconds["gpu router"], max(0.0, seconds["router"] - seconds["sync"]),
                         "router, softmax and top-k, less the synchronisation"),
        "norm": family(seconds["gpu norm"], (seconds["norm"] + seconds["between"]) / 2,
                       "norm and what lies between a layer's parts, halved: a layer has two"),
        "gather": family(seconds["gpu gather"], gathered, "rows picked and added by index, beyond an add"),
        "scatter": family(seconds["gpu scatter"], 0.0, "rows added"),
        "reduce": family(seconds["gpu add"], seconds["issue of an add"], "add"),
        "copy": {"issue": time_of(seconds["fetch"], f"a copy with its stream and event, {spent}")}}
    devices: dict[str, Any] = {"near": {
        "kind": "gpu", "memory": _quantity(f"{host.near_bytes // 10**6} MB", "memory of the GPU"),
        "memory_bandwidth": rate_of(expert.bytes_per_s, expert.limits.get("bytes_per_s"), "a bandwidth", "B/s", source),
        "peak": {host.dtype: rate_of(expert.flops_per_s, expert.limits.get("flops_per_s"), "a peak", "FLOP/s", source)},
        "lanes": [{"name": "stream", "in_order": True}, "sm"],
        "copy_lanes": [{"name": "copy_stream", "in_order": True}],
        "issuer": {"thread": "host",
                   "sync": time_of(seconds["sync"], f".cpu() of a few numbers, stream empty, {host.date}")},
        "kernels": kernels}}
    lanes = [{"name": "worker", "in_order": True}, "cores"]
    devices["far"] = _far(fits["far expert"], measured.overlap, host, lanes, "host")
    source = said(copy, "copies queued back to back, pinned", host)
    link = {"name": "copies", "from": "far", "to": "near",
            "bandwidth": rate_of(copy.bytes_per_s, copy.limits.get("bytes_per_s"), "a bandwidth", "B/s", source),
            "latency": time_of(copy.used[0], source),
            "latency_back": time_of(seconds["far start"], "a job: from being queued to its first expert, in an engine")}
    return _sum_up(measured, host, fits, devices, link,
                   ["Copies and kernels that share the host's memory bandwidth do not slow each other."])
