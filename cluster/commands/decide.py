"""`moelab decide`: machines against machines, each with its best policy; who wins where, and how surely."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.run import CLEARED, Json, Wait, cleared
from cluster.commands.show import Bar, console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from studies.decide.decision import Decision, Need
    from studies.decide.study import Decide

STAGES = {"search": "search", "samples": "draws", "again": "again", "swings": "ends of ranges"}
BREAK_EVEN_RUNS = "2 to 40"
"""Two values a round, for one candidate or both: one round where time goes as a power of the constant, nine or ten
where only thirds are taken (studies/decide/turning.py)."""
PICTURE, PICTURE_FILE = "studies.decide.picture", "decision.svg"

Study = Annotated[str, typer.Argument(metavar="STUDY", help="A decision's study by name (`moelab list decisions`) or "
                                                            "by path.")]
Out = Annotated[str | None, typer.Option("--out", metavar="DIR", help="Where rows are kept, and decision.json and the "
                                                                      "picture go (default: runs/NAME).")]
Samples = Annotated[int | None, typer.Option("--samples", min=0, help="Draws of the uncertain constants, in place of "
                                                                      "the study's.")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Worker processes (default: one a core).")]
Transport = Annotated[str, typer.Option("--transport", help="processes (this host) or ray (a cluster).")]
Retry = Annotated[bool, typer.Option("--retry-failed", help="Carry out again what failed before.")]
Fits = Annotated[bool, typer.Option("--fits", help="Tell only what fits and how many runs it takes; run nothing.")]


def decide(study: Study, samples: Samples = None, workers: Workers = None, transport: Transport = "processes",
           out: Out = None, wait: Wait = None, retry_failed: Retry = False, fits: Fits = False,
           as_json: Json = False) -> None:
    """Say who wins where, with intervals and break-even values; stopped at any moment, it goes on from there."""
    from cluster.observe.files import write_texts
    from cluster.observe.store import folder_of
    from studies.decide.decide import decide as decided
    from studies.decide.study import load_decide, with_samples
    from studies.decide.table import shown
    from studies.sweep import Options

    asked = load_decide(study)
    if samples is not None:
        asked = with_samples(asked, samples)
    if fits:
        _tell_fits(asked)
        return
    folder = folder_of(out or f"runs/{asked.name}")
    with Bar() as bar:
        made, carried = decided(asked, folder, Options(workers, transport, retry_failed, False, wait), bar)
    files = ["decision.json"]
    if (picture := _picture(made)) is not None:
        write_texts(folder, {PICTURE_FILE: picture})
        files.append(PICTURE_FILE)
    if as_json:
        print(made.to_json(), end="")
        return
    screen = console()
    screen.print(shown(made), markup=False, highlight=False)
    runs = made.runs
    lines = [f"{sum(runs.model_dump().values())} runs: search {runs.search}, draws {runs.samples}, again {runs.again}, "
             f"ends of ranges {runs.swings}, break-evens {runs.break_even}; {carried} of them carried out now",
             *([CLEARED] if cleared(folder) else []), f"files: {', '.join(f'{folder}/{name}' for name in files)}"]
    for line in lines:
        screen.print(line, markup=False, highlight=False)


def _picture(made: "Decision") -> str | None:
    """Who wins where, as an SVG picture."""
    if find_spec(PICTURE) is None:
        return None
    drawn: str = import_module(PICTURE).draw(made)
    return drawn


def _tell_fits(asked: "Decide") -> None:
    from rich.table import Table

    from cluster.observe.table import bytes_text
    from studies.decide.ready import prepare
    from studies.decide.space import place_label

    ready = prepare(asked)
    out = Table(title="what must lie where, before anything runs", title_justify="left")
    for head in ("place", "candidate", "fits", "needs"):
        out.add_column(head)
    for (place, name), fit in ready.fits.items():
        needs = [f"{what} {bytes_text(size)} of {bytes_text(room)} on {devices}"
                 for (what, size, room), devices in alike(fit.needs).items()]
        out.add_row(place_label(asked, ready.places[place]), name, "yes" if fit.status == "ran" else "no",
                    fit.why or "; ".join(needs))
    console().print(out, markup=False, highlight=False)
    planned = {STAGES[stage]: count for stage, count in ready.planned.items() if stage != "break_even"}
    turns = f"; and {BREAK_EVEN_RUNS} for each break-even" if ready.planned["break_even"] else ""
    console().print(f"about {sum(planned.values())} runs: {', '.join(f'{name} {n}' for name, n in planned.items())}"
                    f"{turns}", markup=False, highlight=False)


def alike(needs: "Sequence[Need]") -> dict[tuple[str, int, int], str]:
    """What must lie where, devices that need the same of it as one: (what, bytes, capacity) -> their names."""
    of: dict[tuple[str, int, int], list[str]] = {}
    for need in needs:
        of.setdefault((need.what, need.bytes, need.capacity_bytes), []).append(need.device)
    return {key: names[0] if len(names) == 1 else f"each of {', '.join(names[:2])}" if len(names) == 2 else
            f"each of {names[0]} to {names[-1]}" for key, names in of.items()}
