"""What the page shows: small functions from a machine's status and figures to markup. Times are emulated ones."""

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.observe.report.axes import RATE, Axis
from cluster.observe.report.bars import Bar, Segment, Stack, bars, stacks
from cluster.observe.report.blocks import absent, facts, family_legend, figure, legend, note, section, sentences, table
from cluster.observe.report.colours import TITLES, by_family, fill, series
from cluster.observe.report.heat import heat_legend, heat_map, levels
from cluster.observe.report.markup import Markup, join, tag
from cluster.observe.report.plots import Curve, over_time
from cluster.observe.table import bytes_text, number_text, percent_text, time_text
from cluster.serve.contract import Identity, Status
from cluster.serve.page.past import Past
from emulation.units import PS_PER_S

Figures = Mapping[str, Any]

MOST_BARS = 24
LEAST = 0.0005
"""Lanes that were busy for a smaller share are not drawn."""
LATENCIES = (("ttft", "time to first token"), ("tpot", "time per output token"), ("itl", "between tokens"),
             ("end_to_end", "arrival to last token"), ("queueing", "arrival to first step"), ("step", "steps"))
SHOWN = ("ttft", "tpot", "itl", "step")
LOADS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
LOAD_WORDS = ("none", "below a quarter of the mean", "to half", "to the mean", "to twice", "to 4 times", "to 8 times",
              "8 times and more")
MOST_ROWS, MOST_COLUMNS = 64, 256


def shown(model: str, identity: Identity, status: Status, figures: Figures, past: Past) -> Markup:
    """All of it."""
    return join((
        _head(model, identity, status, figures),
        section("requests", "Requests and tokens", _numbers(status, figures, past), _throughput(past)),
        section("latency", "How long they take", _latency(figures)),
        section("experts", "Experts", _experts(figures), _load(figures)),
        section("machine", "What the machine does", _lanes(figures, past), _links(figures)),
        section("memory", "Memory", _memory(figures)),
        section("faults", "Faults", sentences(status.faults) or absent("None is in force."))))


def _head(model: str, identity: Identity, status: Status, figures: Figures) -> Markup:
    of = f"{model} on {identity.machine}, {identity.policy}, {identity.precision}: {status.state}"
    since = f"Switched on {time_text(status.emulated_ps / PS_PER_S)} of emulated time ago."
    if status.dilation is None:
        clock = ("The clock is virtual: the machine goes as fast as this host can, and what a client measures means "
                 "nothing.")
    else:
        late = figures.get("late") or {}
        behind = (f" Tokens come {time_text(late['p50_s'])} late in real time (median; P99 {time_text(late['p99_s'])})."
                  if late.get("count") else "")
        clock = f"The clock is the wall's: an emulated second takes {number_text(status.dilation)} real ones.{behind}"
    return tag("div", tag("p", tag("strong", of)), tag("p", f"{since} {clock}"),
               tag("p", "All times and rates below are in seconds of the emulated machine."),
               class_="verdict" if status.state == "ready" else "verdict alarm")


def _numbers(status: Status, figures: Figures, past: Past) -> Markup:
    asked, tokens = figures["requests"], figures["tokens"]
    seconds = status.emulated_ps / PS_PER_S
    return facts([
        ("running, waiting", f"{status.running}, {status.waiting}"),
        ("asked, ended, cancelled, refused",
         f"{asked['asked']}, {asked['stop'] + asked['length']}, {asked['cancelled']}, {asked['refused']}"),
        ("tokens in, out", f"{tokens['prompt']:,}, {tokens['output']:,}"),
        ("output tokens a second", f"{number_text(tokens['output'] / seconds if seconds else None)} since it was "
                                   f"switched on; {number_text(past.rate('output'))} lately"),
        ("steps", f"{status.steps:,}"), ("pre-empted", f"{figures.get('preempted', 0):,}")])


def _throughput(past: Past) -> Markup:
    slices, slice_s = past.slices()
    if not slices:
        return absent("Throughput is drawn once emulated time has passed while this page was looked at.")
    return figure(f"tokens a second of emulated time, in the last {time_text(slice_s * len(slices['output']))}",
                  over_time("output and prefill tokens a second over emulated time", [
                      Curve("output tokens", series(0), slices["output"]),
                      Curve("prefill tokens", series(1), slices["prefill"])], RATE, slice_s,
                      slice_s * len(slices["output"])),
                  legend([(series(0), "output tokens"), (series(1), "prefill tokens")]))


def _latency(figures: Figures) -> Markup:
    rows = [(words, f"{of['count']:,}", *(time_text(of.get(key)) for key in ("mean_s", "p50_s", "p90_s", "p99_s",
                                                                             "max_s")))
            for key, words in LATENCIES if (of := figures[key])["count"]]
    if not rows:
        return absent("Nothing was answered yet.")
    drawn = [figure(f"{words}: how many took how long", _histogram(figures["bounds_s"], figures[key]["buckets"]))
             for key, words in LATENCIES if key in SHOWN and figures[key]["count"]]
    return join((table(("", "count", "mean", "P50", "P90", "P99", "longest"), rows),
                 note("Percentiles and means are of the last values, counts and the longest of all."),
                 tag("div", *drawn, class_="grid2")))


def _histogram(bounds_s: Sequence[float], buckets: Sequence[int]) -> Markup:
    names = [f"up to {time_text(bound)}" for bound in bounds_s] + [f"above {time_text(bounds_s[-1])}"]
    there = [i for i, count in enumerate(buckets) if count]
    return bars([Bar(names[i], float(buckets[i]), f"{buckets[i]:,}") for i in range(there[0], there[-1] + 1)])


def _experts(figures: Figures) -> Markup:
    rows = []
    for name, phase in (figures.get("phases") or {}).items():
        asked = phase["hits"] + phase["misses"]
        rows.append((name, f"{phase['hits']:,}", f"{phase['misses']:,}",
                     percent_text(phase["hits"] / asked if asked else None), f"{phase['loads']:,}",
                     bytes_text(phase["loaded_bytes"])))
    ahead = figures.get("prefetch") or {}
    issued = ahead.get("issued", 0)
    told = (f"Prefetches: {issued:,} issued, {ahead['useful']:,} used, {ahead['late']:,} of them late."
            if issued else "Nothing was prefetched.")
    return join((table(("experts of a layer", "held", "not held", "held, share", "loads", "loaded"), rows), note(told)))


def _load(figures: Figures) -> Markup:
    of = figures.get("load") or {"layers": (), "prefill": (), "decode": ()}
    rows = [[a + b for a, b in zip(*pair, strict=True)] for pair in zip(of["prefill"], of["decode"], strict=True)]
    if not any(map(any, rows)):
        return absent("No token was routed to an expert yet.")
    down, across = -(-len(rows) // MOST_ROWS), -(-len(rows[0]) // MOST_COLUMNS)
    narrow = [[sum(row[at:at + across]) for at in range(0, len(row), across)] for row in rows]
    drawn = [[sum(column) for column in zip(*narrow[at:at + down], strict=True)] for at in range(0, len(rows), down)]
    names = [str(layer) for layer in of["layers"][::down]]
    shares = [[amount / (sum(row) / len(row) or 1.0) for amount in row] for row in drawn]
    told = [f"layer {name}: {sum(row):,} routed tokens; the fullest has {number_text(max(share))} times the mean"
            for name, row, share in zip(names, drawn, shares, strict=True)]
    experts = len(rows[0])
    step = next(step for step in (1 << n for n in range(16)) if experts <= 8 * step)
    axis = Axis(float(experts), tuple((float(at), str(at)) for at in range(0, experts, step)))
    picture = heat_map(f"load of {experts} experts in {len(rows)} layers", names,
                       [levels(row, LOADS) for row in shares], told, axis, row_px=10)
    grouped = f" A cell is {down} layers by {across} experts." if down * across > 1 else ""
    return figure("tokens by layer (down) and expert (across), over the layer's mean", picture, heat_legend(LOAD_WORDS),
                  note(f"Of all tokens since it was switched on.{grouped}"))


def _lanes(figures: Figures, past: Past) -> Markup:
    seconds, servers = figures["emulated_s"], figures.get("servers") or {}
    if not seconds:
        return absent("No emulated time has passed yet.")
    share = {lane: busy / seconds / servers.get(lane, 1) for lane, busy in figures["busy_s"].items()}
    lately = past.busy()
    order = sorted((lane for lane in share if share[lane] >= LEAST), key=lambda lane: (-share[lane], lane))
    rows = []
    for lane in order[:MOST_BARS]:
        now = lately.get(lane, 0.0) / servers.get(lane, 1) if lately else share[lane]
        now = min(now, 1.0)  # work is noted at its end, which may be in the next sample
        rows.append(Bar(lane, now, percent_text(now), series(0), share[lane],
                        f"{percent_text(share[lane])} since it was switched on"))
    scale = Bar("all of the time", 1.0, "100 %", "track")
    left = len(share) - len(rows)
    more = f" Lanes that did less are not drawn: {left}." if left else ""
    return figure("how busy lanes are, as shares of emulated time", bars([*rows, scale]),
                  note(f"Bars: lately. Ticks: since it was switched on.{more}"))


def _links(figures: Figures) -> Markup:
    used = sorted(((sum(causes.values()), name, causes) for name, causes in figures["links"].items() if causes),
                  key=lambda each: (-each[0], each[1]))
    if not used:
        return absent("Nothing crossed a link yet.")
    rows, names = [], list[str]()
    for total, link, causes in used[:MOST_BARS]:
        parts = by_family(causes)
        names += parts
        rows.append(Stack(link, tuple(
            Segment(f"f-{part}", float(amount), bytes_text(amount), f"{TITLES[part]} {bytes_text(amount)}")
            for part, amount in parts.items()), bytes_text(total)))
    return figure("bytes over links, by what for, since it was switched on", stacks(rows), family_legend(names))


def _memory(figures: Figures) -> Markup:
    rows, capacity = [], figures.get("memory") or {}
    for device, (used, budget) in (figures.get("experts_bytes") or {}).items():
        if budget:
            part = Segment(fill("expert"), float(used), percent_text(used / budget), f"experts {bytes_text(used)}")
            of = f", of {bytes_text(capacity[device])} in all" if capacity.get(device) else ""
            rows.append(Stack(device, (part,), f"{bytes_text(used)} of {bytes_text(budget)}{of}", float(budget)))
    kv = figures.get("kv") or {"block_tokens": 0, "used_blocks": (), "peak_blocks": (), "capacity_blocks": ()}
    blocks = [Stack(f"home {home}", (
        Segment(fill("attention"), float(used), number_text(used), f"{used:,} blocks in use"),
        Segment("s5", float(peak - used), "", f"{peak:,} at most so far")), f"{used:,} of {most:,}", float(most))
        for home, (used, peak, most) in enumerate(zip(kv["used_blocks"], kv["peak_blocks"], kv["capacity_blocks"],
                                                      strict=True)) if most]
    drawn = [figure("experts held, of the room for them, by device", stacks(rows))] if rows else []
    if blocks:
        drawn.append(figure(f"blocks of the KV cache ({kv['block_tokens']} tokens each)", stacks(blocks),
                            legend([(fill("attention"), "in use"), ("s5", "in use at most so far")])))
    return tag("div", *drawn, class_="grid2") if drawn else absent("The machine has no memory that is limited.")


