"""How fast, and what bound it: the verdict, all runs side by side, the critical path, and times of requests."""

from collections.abc import Callable, Mapping, Sequence

from cluster.observe.energy_table import joules_text
from cluster.observe.explanation import critical_path, verdict, word
from cluster.observe.report.bars import Bar, Segment, Stack, bars, stacks
from cluster.observe.report.blocks import absent, facts, family_legend, figure, legend, note, table
from cluster.observe.report.colours import TITLES as FAMILY_TITLES
from cluster.observe.report.colours import by_family, family, in_order, series
from cluster.observe.report.markup import NOTHING, Markup, join, tag
from cluster.observe.report.plots import Curve, cumulative
from cluster.observe.result import Result
from cluster.observe.schema import Quantiles
from cluster.observe.table import number_text, percent_text, time_text, winner
from emulation.units import PS_PER_S, seconds

Results = Mapping[str, Result]
LEAST_REQUESTS = 8
"""With fewer requests a distribution is drawn of single steps: the table says it better."""


def told(results: Results) -> Markup:
    """The verdict: of several runs who is fastest and by how much, and of each what bound it."""
    lines = [tag("p", tag("strong", _fastest(results)))] if len(results) > 1 else []
    for name, result in results.items():
        words = " ".join(verdict(result)) or "No step was run."
        lines.append(tag("p", tag("strong", f"{name}: "), words) if len(results) > 1 else tag("p", words))
        if (wall := result.host.wall) is not None and wall.verdict != "OK":
            lines.append(tag("p", f"{name} at the wall clock: {wall.verdict}: {wall.reason}", class_="alarm"))
    return tag("div", *lines, class_="verdict")


def _fastest(results: Results) -> str:
    first = winner(results)
    ps = results[first].makespan_ps
    others = sorted(((result.makespan_ps, name) for name, result in results.items() if name != first))
    behind = ", ".join(f"{name} takes {number_text(other / ps)} times as long" if ps else name
                       for other, name in others)
    return f"{first} is the fastest, with {time_text(seconds(ps))}; {behind}."


def at_a_glance(result: Result) -> Markup:
    """The figures of one run that are asked for first."""
    bound = result.bound
    rows = [("time", time_text(seconds(result.makespan_ps))),
            ("lower bound", "none" if bound is None else f"{time_text(seconds(bound.lb_ps))} ({bound.binds} binds)"),
            ("times the bound", number_text(bound.times if bound is not None else None)),
            ("TTFT P50, P99", _two(result.ttft)), ("TPOT P50, P99", _two(result.tpot)),
            ("ITL P50, P99", _two(result.itl)),
            ("tokens out", f"{result.emitted_tokens:,} ({number_text(result.output_tokens_per_s)} a second)"),
            ("requests", f"{len(result.requests.sequence):,} ({sum(result.requests.prompt_tokens):,} tokens in)"),
            ("hit rate in decode", percent_text(result.phases["decode"].hit_rate)),
            ("routing served as routed", "yes" if result.exact else "no: the policy changes it")]
    return facts(rows)


def _two(found: Quantiles | None) -> str:
    return "-" if found is None else f"{time_text(found.p50_s)}, {time_text(found.p99_s)}"


Value = Callable[[Result], float | None]
COMPARED: tuple[tuple[str, Value, Callable[[float | None], str]], ...] = (
    ("time of the whole run (less is better)", lambda r: seconds(r.makespan_ps), time_text),
    ("TTFT P50: time to first token (less is better)", lambda r: r.ttft.p50_s if r.ttft else None, time_text),
    ("TPOT P50: time per output token (less is better)", lambda r: r.tpot.p50_s if r.tpot else None, time_text),
    ("tokens out a second (more is better)", lambda r: r.output_tokens_per_s, number_text),
    ("requests within the SLO (more is better)",
     lambda r: r.serving.slo.share if r.serving is not None and r.serving.slo is not None else None, percent_text),
    ("energy a token (less is better)",
     lambda r: r.energy.joules_per_token if r.energy is not None and not r.no_energy_data else None, joules_text))


def comparison(results: Results) -> Markup:
    """A bar a run for each figure that any run has; on the time of the whole run the lower bound is marked."""
    pictures = []
    for i, (title, value, words) in enumerate(COMPARED):
        found = {name: value(result) for name, result in results.items()}
        if not any(found.values()):
            continue
        marks = {name: result.bound.lb_ps / PS_PER_S for name, result in results.items() if result.bound is not None
                 } if i == 0 else {}
        known = [amount for amount in found.values() if amount is not None]
        best = (min if "less" in title else max)(known)
        rows = [Bar(name, amount, words(amount), "best" if amount == best else "rest", marks.get(name),
                    f"lower bound {words(marks[name])}" if name in marks else "")
                for name, amount in found.items()]
        behind = table(("run", "value", *(["lower bound"] if marks else [])),
                       [(name, words(amount), *([words(marks.get(name))] if marks else []))
                        for name, amount in found.items()])
        pictures.append(figure(title, bars(rows), legend([("mark", "lower bound of any schedule")]) if marks
                               else NOTHING, behind=behind))
    return tag("div", *pictures, class_="grid2")


def breakdown(results: Results) -> Markup:
    """The critical path of a mean step of prefill and of decode, by what it was spent on."""
    out = []
    for phase in ("prefill", "decode"):
        rows = {name: result.phases[phase] for name, result in results.items() if result.phases[phase].time_ps}
        if not rows:
            out.append(absent(f"No step of this run is a {phase} step."))
            continue
        bars_, names = [], list[str]()
        for name, found in rows.items():
            parts = by_family(found.latency_ps)
            names += parts
            bars_.append(Stack(name, tuple(
                Segment(f"f-{part}", ps / found.steps, percent_text(ps / found.time_ps),
                        f"{FAMILY_TITLES[part]} {time_text(seconds(round(ps / found.steps)))} "
                        f"({percent_text(ps / found.time_ps)})") for part, ps in parts.items()),
                time_text(found.time_ps / found.steps / PS_PER_S)))
        out.append(figure(f"{phase}: critical path of a mean step", stacks(bars_), family_legend(names),
                          behind=_path_table({name: results[name] for name in rows}, phase)))
    return tag("div", *out, class_="grid2")


def _path_table(results: Results, phase: str) -> Markup:
    """Each label of the critical path: time of all steps and share, a column a run."""
    paths = {name: {share.label: share.share for share in critical_path(result, result.phases[phase])}
             for name, result in results.items()}
    labels = list(dict.fromkeys(label for path in paths.values() for label in path))
    order = in_order(family(label) for label in labels)
    labels.sort(key=lambda label: order.index(family(label)))
    rows = [(word(label), *(_cell(results[name].phases[phase].latency_ps.get(label), path.get(label))
                            for name, path in paths.items())) for label in labels]
    steps = ("steps", *(f"{result.phases[phase].steps:,}" for result in results.values()))
    return table(("all steps together", *paths), [*rows, steps])


def _cell(ps: int | None, share: float | None) -> str:
    return "-" if ps is None else f"{time_text(seconds(ps))} ({percent_text(share)})"


def requests(results: Results) -> Markup:
    """Distributions of TTFT and TPOT over requests, and the quantiles of everything that is timed of them."""
    out = []
    for title, times, limit in (("TTFT", ttft_s, "ttft_s"), ("TPOT", tpot_s, "tpot_s")):
        curves = [Curve(name, series(i), found) for i, (name, result) in enumerate(results.items())
                  if len(found := times(result)) >= LEAST_REQUESTS]
        if not any(min(curve.values) < max(curve.values) for curve in curves):
            continue
        slo = next((getattr(r.serving.slo, limit) for r in results.values()
                    if r.serving is not None and r.serving.slo is not None), None)
        entries = [(curve.class_, curve.name) for curve in curves]
        out.append(figure(f"{title}: share of requests whose {title} is at most so long", cumulative(
            f"distribution of {title} over {len(curves[0].values)} requests", curves, slo), legend(entries),
            note(f"dashed: the objective, {time_text(slo)}") if slo is not None else NOTHING,
            behind=table(("share of requests", *(curve.name for curve in curves)), _spread(curves))))
    parts = [tag("div", *out, class_="grid2")] if out else [
        note(f"No distribution is drawn: there are fewer than {LEAST_REQUESTS} requests, or all took equally long.")]
    return join([*parts, table(("", "", "mean", "P50", "P90", "P99", "count"), _quantiles(results), words=2)])


def _spread(curves: Sequence[Curve]) -> list[tuple[str, ...]]:
    """By nearest rank: within what time each tenth of the requests was served."""
    ordered = [sorted(curve.values) for curve in curves]
    return [(f"{10 * tenth} %", *(time_text(row[-(-len(row) * tenth // 10) - 1]) for row in ordered))
            for tenth in range(1, 11)]


def _quantiles(results: Results) -> list[tuple[str, ...]]:
    rows = []
    for name, result in results.items():
        found: dict[str, Quantiles | None] = {"TTFT": result.ttft, "TPOT": result.tpot, "ITL": result.itl}
        if result.serving is not None:
            found |= {"queueing": result.serving.queueing, "end to end": result.serving.end_to_end}
        rows += [(name, of, *map(time_text, (q.mean_s, q.p50_s, q.p90_s, q.p99_s)), f"{q.count:,}")
                 for of, q in found.items() if q is not None]
    return rows


def ttft_s(result: Result) -> list[float]:
    """Of each request that was prefilled: from its arrival to its first token."""
    requests = result.requests
    return [seconds(first - arrival) for first, arrival in zip(requests.first_ps, requests.arrival_ps, strict=True)
            if first is not None]


def tpot_s(result: Result) -> list[float]:
    """Of each request with several tokens whose first is known: what each further one took."""
    columns = zip(result.requests.first_ps, result.requests.last_ps, result.requests.emitted_tokens, strict=True)
    return [(last - first) / ((made - 1) * PS_PER_S) for first, last, made in columns
            if made > 1 and first is not None and last is not None]
