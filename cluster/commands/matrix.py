"""`moelab matrix`: every policy on every machine, as multiples of the lower bound."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cluster.commands.run import Json
from cluster.commands.show import Bar, console

FAULTS = 1
"""Exit code of a matrix in which a point ended by a fault, not by a refusal."""

Of = Annotated[list[str] | None, typer.Option("--policy", metavar="NAME", help="Only this policy; may be repeated.")]
On = Annotated[list[str] | None, typer.Option("--machine", metavar="NAME", help="Only this machine; may be repeated.")]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where rows are kept, and the page and picture go.")]
Page = Annotated[Path | None, typer.Option("--page", metavar="DIR", help="Write page and picture there instead.")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Worker processes (default: one a core).")]


def matrix(policy: Of = None, machine: On = None, out: Out = Path("runs/matrix"), page: Page = None,
           workers: Workers = None, as_json: Json = False) -> None:
    """Run every policy on every machine with three models: a page, a heat map, what makes no sense with its reason."""
    from cluster.observe.files import write_texts
    from studies.matrix import cells, markdown, study
    from studies.matrix_picture import picture
    from studies.sweep import Options, sweep

    asked = study(policy or (), machine or ())
    with Bar() as bar:
        swept = sweep(asked, out, Options(workers, "processes", retry_failed=True), bar)
    found = cells(swept.rows)
    whole = policy is None and machine is None
    text = markdown(found, "Any policy on any machine", "moelab matrix" + ("" if whole else " (a part of it)"))
    folder = page or out
    write_texts(folder, {"matrix.md": text, "matrix.svg": picture(found)})
    faults = [cell for cell in found if cell.fault]
    if as_json:
        print(json.dumps({"title": asked.title, "cells": [cell.to_json() for cell in found]}, indent=1))
    else:
        ran = sum(cell.times is not None for cell in found)
        left = len(found) - ran - len(faults)
        lines = [f"{ran} of {len(found)} points ran, {left} make no sense, {len(faults)} faults"]
        lines += [f"fault: {cell.policy} on {cell.machine}, {cell.model}: {cell.reason}" for cell in faults]
        for line in [*lines, f"files: {folder}/matrix.md, matrix.svg"]:
            console().print(line, markup=False, highlight=False)
    if faults:
        raise typer.Exit(FAULTS)
