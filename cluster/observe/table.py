"""Results as tables for a terminal."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from rich.console import Group
from rich.table import Table

from cluster.observe.energy_table import compare_energy, energy_lines, energy_table, joules_text, missing_text
from cluster.observe.faults_table import compare_faults, faults_table
from cluster.observe.result import Result
from cluster.observe.schema import Quantiles, Serving, Wall
from emulation.units import seconds

_GROUPS = {"host": ("issue", "sync", "join", "place"), "loads": ("demand load", "prefetch", "behind prefetch", "copy"),
           "activations": ("dispatch", "return"), "memory": ("memory",), "lane": ("lane",), "arrival": ("arrival",),
           "no work": ("no work",)}
"""Column of the stall table -> labels; every other label is computation."""


def time_text(value_s: float | None) -> str:
    """A time in the unit in which it reads best."""
    if value_s is None:
        return "-"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if abs(value_s) >= scale:
            return f"{value_s / scale:.4g} {unit}"
    return f"{value_s / 1e-9:.4g} ns"


def bytes_text(value: float | None) -> str:
    """Bytes in the decimal unit in which they read best."""
    if value is None:
        return "-"
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= scale:
            return f"{value / scale:.4g} {unit}"
    return f"{value:.0f} B"


def number_text(value: float | None) -> str:
    """Four digits, or all those before the point."""
    return "-" if value is None else f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def percent_text(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def tables(result: Result) -> Group:
    """Latency and throughput, traffic, the use of devices, and memory."""
    shown = [_summary(result), _latency(result), _phases(result)]
    shown += [_serving(result.serving)] if result.serving is not None else []
    shown += faults_table(result)
    shown += [_traffic(result)] if any(link.total_bytes for link in result.traffic) else []
    shown += [_devices(result), *energy_table(result), _memory(result)]
    return Group(*shown, *(f"approximation: {a}" for a in result.approximations))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=i == 0)
    return table


def run_title(result: Result) -> str:
    """Model, precision, and the machine with its options."""
    precision, options = result.config.get("precision"), result.config.get("machine_options")
    chosen = "".join(f", {key}={value}" for key, value in options.items()) if isinstance(options, dict) else ""
    return f"{result.model}{f' at {precision}' if precision else ''} on {result.machine}{chosen}"


def _summary(result: Result) -> Table:
    table = _table(f"{run_title(result)}: {result.policy}", "run", "")
    bound = result.bound
    binds = f" ({bound.binds} binds)" if bound is not None else ""
    for name, value in (
            ("requests", _requests(result)),
            ("time", time_text(seconds(result.makespan_ps))),
            ("lower bound", time_text(seconds(bound.lb_ps)) + binds if bound is not None else "-"),
            ("times the bound", number_text(bound.times) if bound is not None else "-"),
            ("tokens out", str(result.emitted_tokens)),
            ("tokens out/s", number_text(result.output_tokens_per_s)),
            *energy_lines(result),
            ("exact", _exactness(result)),
            ("constants", result.confidence.label),
            ("digest", result.digest[:16])):
        table.add_row(name, value)
    if (wall := result.host.wall) is not None:
        table.add_row("wall clock", _wall(wall))
    return table


def _wall(wall: Wall) -> str:
    """The verdict of a run at the wall clock, in words."""
    if wall.verdict != "OK":
        return f"{wall.verdict}: {wall.reason}"
    read = f"; {bytes_text(wall.bytes_per_s)}/s read" if wall.read_bytes else ""
    return (f"OK: {time_text(wall.real_s)} at dilation {wall.dilation:,.4g}, {100 * wall.error:+.2f} % off; "
            f"{wall.late_ops} of {wall.ops:,} operations late{read}")


def _requests(result: Result) -> str:
    """How many requests were served, and the tokens in and out of all of them."""
    requests = result.requests
    return f"{len(requests.sequence)} ({sum(requests.prompt_tokens):,} tokens in, {result.emitted_tokens:,} out)"


def _exactness(result: Result) -> str:
    if result.exact:
        return "yes"
    substituted, dropped = (sum(getattr(p, key) for p in result.phases.values()) for key in ("substituted", "dropped"))
    return f"no: {substituted} pairs substituted, {dropped} dropped"


def _latency(result: Result) -> Table:
    table = _table("latency", "", "mean", "P50", "P90", "P99", "count")
    figures: dict[str, Quantiles | None] = {"TTFT": result.ttft, "TPOT": result.tpot, "ITL": result.itl}
    if result.serving is not None:
        figures |= {"queueing": result.serving.queueing, "end to end": result.serving.end_to_end}
    for name, found in figures.items():
        if found is None:
            table.add_row(name, *["-"] * 4, "0")
        else:
            times = (found.mean_s, found.p50_s, found.p90_s, found.p99_s)
            table.add_row(name, *map(time_text, times), str(found.count))
    return table


def _serving(served: Serving) -> Table:
    table = _table("serving", served.batcher, "")
    peak, capacity = sum(served.kv_peak_blocks), sum(served.kv_capacity_blocks)
    rows = {"finished": str(served.finished), "KV peak": f"{bytes_text(peak * served.block_bytes)} of "
            f"{bytes_text(capacity * served.block_bytes)}", "pre-emptions":
            f"{served.preemptions} ({served.recomputed_tokens:,} tokens again)"}
    if served.prefix_tokens:
        rows["shared prefixes"] = f"{served.prefix_tokens:,} tokens spared"
    if (slo := served.slo) is not None:
        limits = [f"{name} {time_text(limit)}" for name, limit in (("TTFT", slo.ttft_s), ("TPOT", slo.tpot_s))
                  if limit is not None]
        rows["SLO"] = ", ".join(limits)
        rows["met"] = f"{percent_text(slo.share)} (TTFT {percent_text(slo.ttft_share)}, TPOT " \
                      f"{percent_text(slo.tpot_share)})"
        rows["goodput"] = f"{number_text(slo.requests_per_s)} requests/s"
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _phases(result: Result) -> Table:
    table = _table("phases", "", "steps", "tokens", "time", "tok/s", "hit rate", "S-MBU", "S-MFU")
    for name, phase in result.phases.items():
        table.add_row(name, str(phase.steps), str(phase.prefill_tokens + phase.decode_tokens),
                      time_text(seconds(phase.time_ps)), number_text(phase.tokens_per_s), percent_text(phase.hit_rate),
                      percent_text(phase.s_mbu), percent_text(phase.s_mfu))
    return table


def _traffic(result: Result) -> Table:
    causes = list(dict.fromkeys(cause for link in result.traffic for cause in link.bytes))
    table = _table("bytes by link", "link", *causes, "total")
    for link in result.traffic:
        if not link.total_bytes:
            continue
        table.add_row(link.link, *(bytes_text(link.bytes.get(cause, 0)) for cause in causes),
                      bytes_text(link.total_bytes))
    return table


def stall_groups(stall: Mapping[str, int]) -> dict[str, int]:
    """Stalled time by what a reader asks first; sums to the same."""
    out = {"compute": 0, **dict.fromkeys(_GROUPS, 0)}
    of = {label: group for group, labels in _GROUPS.items() for label in labels}
    for label, ps in stall.items():
        out[of.get(label, "compute")] += ps
    return out


def _devices(result: Result) -> Table:
    """Shares of the run's time, of each device's busiest compute lane."""
    groups = [group for group in ("compute", *_GROUPS) if any(stall_groups(d.stall)[group] for d in result.devices)]
    table = _table("busy, and waiting for", "device", "lane", "busy", *groups)
    for device in result.devices:
        total_ps = device.busy_ps + device.stall_ps
        stall = stall_groups(device.stall)
        shares = [percent_text(ps / total_ps if total_ps else None)
                  for ps in (device.busy_ps, *(stall[group] for group in groups))]
        table.add_row(device.device, device.lane, *shares)
    return table


def _memory(result: Result) -> Table:
    table = _table("peak memory", "device", "experts", "dense", "caches", "sum", "activations", "capacity")
    for memory in result.memory:
        parts = (memory.experts_peak_bytes, memory.dense_bytes, memory.kv_peak_bytes, memory.peak_bytes,
                 memory.activations_peak_bytes)
        table.add_row(memory.device, *map(bytes_text, parts),
                      bytes_text(memory.capacity_bytes) if memory.capacity_bytes else "-")
    return table


class _Line(NamedTuple):
    """A line of a comparison: its value in a result, how it reads, and whether less is better (None: neither is)."""

    name: str
    value: Callable[[Result], float | None]
    text: Callable[[float | None], str]
    less: bool | None


def _quantile(of: str, figure: str) -> Callable[[Result], float | None]:
    return lambda result: getattr(getattr(result, of), figure) if getattr(result, of) is not None else None


def _phase(name: str, figure: str) -> Callable[[Result], float | None]:
    return lambda result: getattr(result.phases[name], figure)


_LINES = (
    _Line("time", lambda r: seconds(r.makespan_ps), time_text, True),
    _Line("times the bound", lambda r: r.bound.times if r.bound is not None else None, number_text, True),
    _Line("TTFT P50", _quantile("ttft", "p50_s"), time_text, True),
    _Line("TTFT P99", _quantile("ttft", "p99_s"), time_text, True),
    _Line("TPOT P50", _quantile("tpot", "p50_s"), time_text, True),
    _Line("ITL P99", _quantile("itl", "p99_s"), time_text, True),
    _Line("SLO met", lambda r: r.serving.slo.share if r.serving is not None and r.serving.slo is not None else None,
          percent_text, False),
    _Line("tokens out/s", lambda r: r.output_tokens_per_s, number_text, False),
    _Line("prefill tok/s", _phase("prefill", "tokens_per_s"), number_text, False),
    _Line("decode tok/s", _phase("decode", "tokens_per_s"), number_text, False),
    _Line("J/token", lambda r: r.energy.joules_per_token if r.energy is not None else None, joules_text, True),
    _Line("tok/kJ", lambda r: r.energy.tokens_per_kilojoule if r.energy is not None else None, number_text, False),
    _Line("hit rate, decode", _phase("decode", "hit_rate"), percent_text, None),
    _Line("bytes over links", lambda r: sum(link.total_bytes for link in r.traffic), bytes_text, None),
    _Line("peak memory, fullest", lambda r: max((m.peak_bytes for m in r.memory), default=0), bytes_text, None))


PARTIAL = ("J/token", "tok/kJ")
"""Lines of which none is the best unless every device is counted."""


def winner(results: Mapping[str, Result]) -> str:
    """The name of the run that took least time; the first of equals."""
    return min(results, key=lambda name: results[name].makespan_ps)


def compare_table(results: Mapping[str, Result]) -> Table:
    """One column a policy, ratios to the first, the best of a line marked *; the fastest is named in its head."""
    names = list(results)
    if not names:
        raise ValueError("nothing to compare: name at least one result")
    first = results[names[0]]
    table = _table(run_title(first), "",
                   *(f"{name} (fastest)" if name == winner(results) else name for name in names))
    for line in _LINES:
        values = [line.value(results[name]) for name in names]
        known = [value for value in values if value is not None]
        if not known:
            continue
        best = None if line.less is None else min(known) if line.less else max(known)
        if line.name in PARTIAL and any(result.no_energy_data for result in results.values()):
            best = None  # what is left out may decide
        table.add_row(line.name, *(_cell(line, value, values[0], best, i) for i, value in enumerate(values)))
    table.add_row("lower bound from", *(r.bound.binds if r.bound is not None else "-" for r in results.values()))
    table.add_row("requests", *(_requests(result) for result in results.values()))
    if first.no_energy_data:
        table.add_row("energy", *(missing_text(result) for result in results.values()))
    table.add_row("exact", *(_exactness(result) for result in results.values()))
    table.add_row("digest", *(result.digest[:16] for result in results.values()))
    if any(result.host.wall is not None for result in results.values()):
        table.add_row("wall clock", *("-" if r.host.wall is None else _wall(r.host.wall) for r in results.values()))
    return table


def compare_details(results: Mapping[str, Result]) -> Group:
    """What lies behind a comparison: bytes by link and the use of devices, one column a policy."""
    by_link = {name: {link.link: link.total_bytes for link in result.traffic} for name, result in results.items()}
    links = dict.fromkeys(link for column in by_link.values() for link, total in column.items() if total)
    traffic = _table("bytes by link", "link", *results)
    for link in links:
        traffic.add_row(link, *(bytes_text(column.get(link, 0)) for column in by_link.values()))
    use = _table("busy and waiting", "device", *results)
    first = next(iter(results.values()))
    for i, device in enumerate(first.devices):
        use.add_row(device.device, *(_use(result, i) for result in results.values()))
    memory = _table("peak memory", "device", *results)
    for i, held in enumerate(first.memory):
        capacity = bytes_text(held.capacity_bytes) if held.capacity_bytes else "-"
        memory.add_row(f"{held.device} (of {capacity})",
                       *(bytes_text(result.memory[i].peak_bytes) for result in results.values()))
    return Group(*([traffic] if links else []), use, *compare_faults(results),
                 *compare_energy(results), memory,
                 *(f"approximation: {sentence}" for sentence in approximated(results)))


def approximated(results: Mapping[str, Result]) -> list[str]:
    """What the emulation of several runs leaves out; where they differ, of which."""
    of: dict[str, list[str]] = {}
    for name, result in results.items():
        for line in result.approximations:
            of.setdefault(line, []).append(name)
    return [line if len(names) == len(results) else f"{line} ({', '.join(names)})" for line, names in of.items()]


def _use(result: Result, device: int) -> str:
    """Busy share of a device, and what it waited for most, largest first, from one percent."""
    use = result.devices[device]
    total_ps = use.busy_ps + use.stall_ps
    if not total_ps:
        return "-"
    waits = sorted(stall_groups(use.stall).items(), key=lambda item: -item[1])
    told = [f"{group} {percent_text(ps / total_ps)}" for group, ps in waits if ps * 100 >= total_ps]
    return f"busy {percent_text(use.busy_ps / total_ps)}; waits for " + (", ".join(told) or "nothing")


def _cell(line: _Line, value: float | None, first: float | None, best: float | None, column: int) -> str:
    ratio = f" ({value / first:.3g}x)" if column and value is not None and first else ""
    return line.text(value) + ratio + (" *" if value is not None and value == best else "")
