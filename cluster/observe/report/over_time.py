"""What happened when: use of lanes, tokens, bytes by cause, hits, prefetches and what memories held."""

from collections.abc import Mapping, Sequence
from itertools import accumulate

from cluster.observe.report.axes import BANDWIDTH, BYTES, COUNT, RATE, TIME, Unit, axis
from cluster.observe.report.blocks import absent, family_legend, figure, legend, note, table
from cluster.observe.report.colours import TITLES, family, fill, in_order, series
from cluster.observe.report.heat import heat_legend, heat_map, levels
from cluster.observe.report.markup import NOTHING, Markup, join, tag
from cluster.observe.report.plots import Curve, over_time
from cluster.observe.result import Result
from cluster.observe.table import percent_text, time_text
from emulation.units import PS_PER_S, seconds

USE = (0.05, 0.2, 0.4, 0.6, 0.8, 0.95)
"""Where the steps of the utilisation's colours end, as shares of a slice."""

USE_WORDS = ("idle", "below 5 %", "to 20 %", "to 40 %", "to 60 %", "to 80 %", "to 95 %", "95 % and more")
MOST_CURVES = 8
STEPS_A_SLICE = 4


def widths_ps(result: Result) -> list[int]:
    """How long each slice is: the last ends with the run."""
    slice_ps, end_ps = result.series.slice_ps, result.horizon_ps
    return [max(min(slice_ps, end_ps - i * slice_ps), 1) for i in range(result.series.slices)]


def utilisation(result: Result) -> Markup:
    """The use of every lane that did anything, slice by slice, and the tokens that came out."""
    found, widths = result.series, widths_ps(result)
    order = [lane.lane for lane in result.lanes if lane.lane in found.busy_ps]
    order += [lane for lane in sorted(found.busy_ps) if lane not in order]  # those of many, summed up
    busy = {lane: row for lane in order if any(row := found.busy_ps[lane])}
    if not busy:
        return absent("No lane did anything in this run.")
    rows = {lane: [ps / (found.servers[lane] * width) for ps, width in zip(row, widths, strict=True)]
            for lane, row in busy.items()}
    mean = {lane: sum(row) / (found.servers[lane] * sum(widths)) for lane, row in busy.items()}
    picture = heat_map("busy share of each lane over emulated time", list(rows),
                       [levels(row, USE) for row in rows.values()],
                       [f"{lane}: {percent_text(mean[lane])} busy" for lane in rows],
                       axis(seconds(found.slices * found.slice_ps), TIME))
    behind = table(("lane", "busy", "share of the run", "most in a slice"), [
        (lane, time_text(seconds(sum(busy[lane]))), percent_text(mean[lane]), percent_text(max(rows[lane])))
        for lane in rows])
    idle = len(found.busy_ps) - len(busy)
    return join([figure(f"busy share of each lane, in slices of {time_text(seconds(found.slice_ps))} of emulated time",
                        picture, heat_legend(USE_WORDS), behind=behind),
                 note(f"{idle} lanes did nothing and are not drawn.") if idle else NOTHING, _tokens(result)])


def _tokens(result: Result) -> Markup:
    """The rate of tokens; where most slices are shorter than a step, which would look like a comb, their sum so far."""
    found = result.series
    if not any(found.tokens):
        return NOTHING
    if sum(found.steps) < STEPS_A_SLICE * found.slices:
        return _curves(result, "tokens out so far", [Curve("tokens out", series(0), list(accumulate(found.tokens)))],
                       COUNT)
    return _curves(result, "tokens out a second", [Curve("tokens out", series(0), _rates(result, found.tokens))], RATE)


def _rates(result: Result, row: Sequence[int]) -> list[float]:
    """Amounts of slices, a second; of the last slice too as if it were whole."""
    return [amount * PS_PER_S / result.series.slice_ps for amount in row]


def traffic(result: Result) -> Markup:
    """Bytes of all links together that arrived in each slice, by cause, as a bandwidth."""
    names = in_order(family(cause) for row in result.series.link_bytes.values() for cause in row)
    sums = {name: [0] * result.series.slices for name in names}
    for row in result.series.link_bytes.values():
        for cause, amounts in row.items():
            sums[family(cause)] = [a + b for a, b in zip(sums[family(cause)], amounts, strict=True)]
    curves = [Curve(TITLES[name], f"f-{name}", _rates(result, sums[name])) for name in names if any(sums[name])]
    if not curves:
        return NOTHING
    return _curves(result, "bytes over all links together, by cause, when their transfers ended", curves, BANDWIDTH,
                   stacked=True, explained=family_legend([name for name in names if any(sums[name])]))


def residency(result: Result) -> Markup:
    """Hits and misses, prefetches, and what experts and caches took of memories, over time."""
    found, parts = result.series, []
    for title, amounts in (
            ("routed experts that were there when their layer was decided, or were not",
             {"hits": (series(2), found.hits), "misses": (fill("demand load"), found.misses)}),
            ("prefetches, by what became of them",
             {"used in time": (series(2), [all_ - late for all_, late in
                                           zip(found.prefetch_useful, found.prefetch_late, strict=True)]),
              "used, but late": (fill("prefetch"), found.prefetch_late),
              "wasted": (fill("demand load"), found.prefetch_wasted)})):
        curves = [Curve(name, class_, row) for name, (class_, row) in amounts.items()]
        if any(any(curve.values) for curve in curves):
            parts.append(_curves(result, f"{title}, a slice", curves, COUNT, stacked=True))
    for title, held in (("experts' bytes in each memory", found.resident_bytes),
                        ("bytes of KV caches in each memory", found.kv_bytes)):
        parts.append(_held(result, title, held))
    drawn = [part for part in parts if part]
    return tag("div", *drawn, class_="grid2") if drawn else absent("No memory held an expert or a cache.")


def _held(result: Result, title: str, held: Mapping[str, Sequence[int]]) -> Markup:
    used = sorted((name for name, row in held.items() if any(row)), key=lambda name: (-max(held[name]), name))
    if not used:
        return NOTHING
    rows: dict[tuple[int, ...], list[str]] = {}
    for name in used:
        rows.setdefault(tuple(held[name]), []).append(name)
    curves = [Curve(", ".join(names), series(i), row) for i, (row, names) in
              enumerate(list(rows.items())[:MOST_CURVES])]
    more = len(rows) - len(curves)
    return _curves(result, title + (f" (the {MOST_CURVES} fullest; {more} more)" if more else ""), curves, BYTES)


def _curves(result: Result, title: str, curves: Sequence[Curve], unit: Unit, *, stacked: bool = False,
            explained: Markup = NOTHING) -> Markup:
    """A figure of curves over the run, with mean, least and most of each behind it."""
    slice_s, end_s = seconds(result.series.slice_ps), seconds(result.horizon_ps)
    rows = [(curve.name, *map(unit.text, (sum(curve.values) / len(curve.values), min(curve.values),
                                          max(curve.values), curve.values[-1]))) for curve in curves]
    shown = explained or (legend([(curve.class_, curve.name) for curve in curves if any(curve.values)]))
    return figure(title, over_time(title, curves, unit, slice_s, end_s, stacked=stacked), shown,
                  behind=table(("", "mean of slices", "least", "most", "last"), rows))
