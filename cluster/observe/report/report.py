"""The report: results, one or several side by side, as one page that needs nothing else."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from cluster.observe.explanation import explain
from cluster.observe.report import load, memory, over_time, speed, trust, use
from cluster.observe.report.blocks import absent, folded, section, sentences
from cluster.observe.report.markup import Markup, join, tag
from cluster.observe.report.page import contents, page
from cluster.observe.result import Result
from cluster.observe.table import run_title

OPEN = 3
"""So many runs show a part at once; those behind them when it is asked for."""


def report(results: Mapping[str, Result], gantts: Mapping[str, Markup] | None = None,
           scripts: Sequence[str] = ()) -> str:
    """The page of results by the name under which each is shown; deterministic.

    gantts: pictures of a layer by lane, of the runs that have one; scripts: what they need.
    """
    runs = dict(results)
    if not runs:
        raise ValueError("nothing to report: name at least one result")
    parts = _parts(runs, gantts or {})
    shown = [(name, title) for name, title, _ in parts]
    body = join([speed.told(runs), contents(shown), *(section(name, title, part) for name, title, part in parts),
                 tag("footer", "Times are emulated, never the host's. Every figure stands in result.json.")])
    return page(_heading(runs), _subtitle(runs), body, scripts=scripts)


def _parts(runs: dict[str, Result], gantts: Mapping[str, Markup]) -> list[tuple[str, str, Markup]]:
    """(name, title, content) of each section, in the order of a reader's questions."""
    each = partial(_each, runs)
    first = ("compare", "Side by side", speed.comparison(runs)) if len(runs) > 1 else (
        "glance", "At a glance", speed.at_a_glance(next(iter(runs.values()))))
    return [
        first,
        ("latency", "Where the time goes", speed.breakdown(runs)),
        ("layer", "One layer, lane by lane", _by_name(runs, lambda name: gantts.get(name) or absent(NO_SPANS))),
        ("utilisation", "Use of lanes over time", each(over_time.utilisation)),
        ("links", "Bytes over links", each(lambda run: join([over_time.traffic(run), use.links(run)]))),
        ("load", "Load of experts", each(load.load)),
        ("residency", "Caches over time", each(over_time.residency)),
        ("memory", "Memory against capacity", each(memory.memory)),
        ("requests", "Requests", speed.requests(runs)),
        ("energy", "Energy", use.energy(runs)),
        ("faults", "Faults", each(trust.faults) if any(run.faults for run in runs.values()) else
         absent("There was no fault in this run." if len(runs) == 1 else "There was no fault in these runs.")),
        ("devices", "Busy and waiting", each(use.devices)),
        ("sentences", "In sentences", each(lambda run: sentences(explain(run)))),
        ("approximations", "What is approximated", trust.approximations(runs)),
        ("provenance", "Where the constants are from", trust.provenance(runs)),
        ("again", "The same again", trust.identity(runs))]


NO_SPANS = "No layer is drawn: none was kept beside this result (layers.json)."


def _each(runs: dict[str, Result], part: Callable[[Result], Markup]) -> Markup:
    """A part of every run."""
    return _by_name(runs, lambda name: part(runs[name]))


def _by_name(runs: dict[str, Result], part: Callable[[str], Markup]) -> Markup:
    """A part of every run, the first of several open; runs of which the same is to be said together."""
    said: dict[Markup, list[str]] = {}
    for name in runs:
        said.setdefault(part(name), []).append(name)
    if len(said) == 1:
        return next(iter(said))
    out = []
    for i, (markup, names) in enumerate(said.items()):
        title = ", ".join(names)
        out.append(tag("div", tag("h3", title), markup) if i < OPEN else folded(title, markup))
    return tag("div", *out, class_="grid2")


def _heading(runs: dict[str, Result]) -> str:
    titles = list(dict.fromkeys(str(run.config.get("title") or run_title(run)) for run in runs.values()))
    return titles[0] if len(titles) == 1 else f"{titles[0]}, and {len(titles) - 1} more"


def _subtitle(runs: dict[str, Result]) -> str:
    kinds = list(dict.fromkeys(run_title(run) for run in runs.values()))
    return f"{'; '.join(kinds)}: {', '.join(runs)}"
