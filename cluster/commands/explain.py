"""`moelab explain` and `moelab diff`: what a result says, in sentences; what differs between two."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.run import Json
from cluster.commands.show import Bar, console

if TYPE_CHECKING:
    from cluster.observe.result import Result
    from studies.what_if import Gain

ResultPath = Annotated[Path, typer.Argument(metavar="RESULT", help="A result.json, or the folder of a run.")]
MOST_ROWS = 25


def explain(result: ResultPath,
            runs: Annotated[bool, typer.Option("--runs/--no-runs", help="Run it again with each part of the machine "
                                                                        "twice as good.")] = True,
            folder: Annotated[Path, typer.Option("--from", metavar="DIR", help="What relative paths in its config "
                                                                               "start from.")] = Path(),
            workers: Annotated[int | None, typer.Option("--workers", min=1, help="Runs at once (default: one a "
                                                                                 "core).")] = None,
            as_json: Json = False) -> None:
    """What bound a run, what everybody waited for, and what twice of each part of its machine would give."""
    from cluster.observe.explanation import explain as sentences
    from cluster.observe.result import Result

    read = Result.read(result)
    told = sentences(read)
    same, found = True, list["Gain"]()
    if runs:
        from studies.sweep_crew import Processes
        from studies.what_if import gains

        with Bar() as bar, Processes(workers) as crew:
            same, found = gains(read, folder.resolve(), crew, bar)
    if as_json:
        print(json.dumps({"digest": read.digest, "sentences": told, "reproduced": same if runs else None,
                          "gains": [gain._asdict() for gain in found]}, indent=1))
        return
    screen = console()
    screen.print(f"{read.model} on {read.machine}, {read.policy} ({read.digest[:16]})", markup=False, highlight=False)
    for sentence in (*told, made_by(read)):
        screen.print(f"- {sentence}", markup=False, highlight=False)
    if runs:
        _show(found)
        if not same:
            screen.print("Run again, it gives another digest: files that it names have changed since, or this moelab "
                         "is another one. The gains are those of the run as it goes now.")


def made_by(result: "Result") -> str:
    """What a result says of where it comes from: versions, seed, and the hashes of what it was asked."""
    from cluster.observe.digest import value_digest

    versions = ", ".join(f"{name} {version}" for name, version in sorted(result.host.versions.items()))
    inputs = ", ".join(f"{name} {value[:8]}" for name, value in sorted(result.hashes.items()))
    return (f"Made by {versions or 'unknown versions'}, with seed {result.config.get('seed')}; config "
            f"{value_digest(result.config)[:8]}, {inputs} (SHA-256, first digits).")


def _show(found: "list[Gain]") -> None:
    from rich.table import Table

    table = Table(title="what if (times faster; each line is a run of its own)", title_justify="left")
    for i, column in enumerate(("part", "TTFT", "TPOT", "time")):
        table.add_column(column, justify="left" if i == 0 else "right")
    failed = []
    for gain in found:
        if gain.failed is not None:
            failed.append(gain)
            continue
        table.add_row(gain.part, *("-" if value is None else f"{value:.3f}x"
                                   for value in (gain.ttft, gain.tpot, gain.time)))
    console().print(table)
    for gain in failed:
        console().print(f"{gain.part}: that run failed: {gain.failed}", markup=False, highlight=False)


def diff(first: Annotated[Path, typer.Argument(metavar="A", help="A result.json, or the folder of a run.")],
         second: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
         whole: Annotated[bool, typer.Option("--all", help="Figures of lanes, layers and devices, too.")] = False,
         as_json: Json = False) -> None:
    """What two runs were asked differently, and which figures differ, the largest change first."""
    from cluster.observe.result import Result
    from studies.difference import difference, head

    one, other = Result.read(first), Result.read(second)
    found = difference(one, other, whole=whole)
    if as_json:
        print(json.dumps({"same": found.same, "asked": [row._asdict() for row in found.asked],
                          "found": [row._asdict() for row in found.found]}, indent=1))
        return
    screen = console()
    if found.same:
        screen.print(f"The same result: digest {one.digest[:16]}.")
        return
    from rich.table import Table

    from cluster.observe.table import number_text

    for row in head(one, other):
        name = " ".join(word for word in (row.name.upper(), row.figure) if word).replace("_", " ")
        screen.print(f"{name}: {number_text(row.first)} and {number_text(row.second)} {row.unit}, "
                     f"B / A {row.ratio:.4g}", markup=False, highlight=False)
    asked = Table("asked", str(first), str(second), title="what was asked", title_justify="left")
    for row in found.asked:
        asked.add_row(row.path, row.first or "-", row.second or "-")
    if found.asked:
        screen.print(asked)
    else:
        screen.print("Both were asked the same: the code or a file that no hash covers has changed.")
    shown = found.found if whole else found.found[:MOST_ROWS]
    table = Table("part", "figure", str(first), str(second), "B / A", title="what came out", title_justify="left")
    for at in shown:
        of = " ".join(part for part in (at.name, at.figure) if part)
        table.add_row(at.part, f"{of} ({at.unit})" if at.unit else of, number_text(at.first), number_text(at.second),
                      "-" if at.ratio is None else f"{at.ratio:.4g}")
    screen.print(table)
    if len(shown) < len(found.found):
        screen.print(f"{len(found.found) - len(shown)} smaller differences are not shown: --all")
