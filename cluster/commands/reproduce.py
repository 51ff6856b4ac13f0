"""`moelab reproduce`: the published systems' figures beside ours."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.run import Json
from cluster.commands.show import Bar, console

if TYPE_CHECKING:
    from studies.reproduce.reproduce import Reproduced


def reproduce(system: Annotated[str, typer.Argument(
                  metavar="SYSTEM", help="gpu_ndp, fse_dp, daop, moe_deployment, or all.")],
              only: Annotated[list[str] | None, typer.Option(
                  "--only", metavar="ID", help="Only this claim; may be given again.")] = None,
              sweeps: Annotated[bool, typer.Option(
                  "--sweep/--no-sweep", help="Whether assumed constants are swept over their ranges.")] = True,
              workers: Annotated[int | None, typer.Option(
                  "--workers", min=1, help="Worker processes (default: one a core).")] = None,
              out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the files go.")]
              = Path("out/reproduce"),
              as_json: Json = False) -> None:
    """Measure every figure and trend that a published system's evaluation states, and judge it."""
    from studies.reproduce.reproduce import reproduce as carry_out
    from studies.reproduce.reproduce import write

    found: list[Reproduced] = []
    files: list[str] = []
    with Bar() as bar:
        for one in carry_out(system, bar, only=tuple(only or ()), sweeps=sweeps, workers=workers):
            found.append(one)
            files = write(found, out)  # what is done stays, whatever ends the rest
    if as_json:
        print(json.dumps([row.as_json() for one in found for row in one.rows], indent=1))
        return
    for one in found:
        _show(one)
    console().print(f"files: {out}/{{{','.join(files)}}}", markup=False, highlight=False)


def _show(one: "Reproduced") -> None:
    from rich.table import Table

    from studies.reproduce.report import HEAD, cells, tally, worst_first

    table = Table(title=f"{one.claims.title} ({one.claims.paper}): {tally(one.rows)}", title_justify="left")
    for name in HEAD:
        table.add_column(name, overflow="fold")
    table.add_column("why", overflow="fold")
    for row in worst_first(one.rows):
        table.add_row(*cells(row), row.reason)
    console().print(table)
