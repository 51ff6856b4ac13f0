"""`moelab sweep`: every point of a study, a row each."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from cluster.commands.run import CLEARED, Json, MetricsPort, Out, Wait, cleared, shown
from cluster.commands.show import Bar, console

if TYPE_CHECKING:
    from studies.sweep import Swept
    from studies.sweep_rows import Row

FAILED_POINTS = 1
"""Exit code of a sweep that is done, and some of its points failed."""


class StudyFirst(TyperGroup):
    """A group whose first command is meant where none is named: `sweep STUDY` is `sweep run STUDY`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command in before the command line is read."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(name="sweep", cls=StudyFirst, no_args_is_help=True,
                  help="Carry out every point of a study, a row each: `moelab sweep STUDY`.")

Study = Annotated[str, typer.Argument(metavar="STUDY", help="A study by name (`moelab list studies`) or by path.")]
Rows = Annotated[str, typer.Argument(metavar="ROWS", help="A file of rows, or the folder or URL of a sweep.")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Worker processes (default: one a core).")]
Transport = Annotated[str, typer.Option("--transport", help="processes (this host) or ray (a cluster).")]
Retry = Annotated[bool, typer.Option("--retry-failed", help="Carry out again what failed before.")]
Keep = Annotated[bool, typer.Option("--keep-results", help="Keep each point's whole result, in results/.")]
Top = Annotated[int, typer.Option("--top", min=1, help="How many points are shown.")]
Most = Annotated[str | None, typer.Option("--most", metavar="COLUMN", help="The best point has the most of it.")]
Least = Annotated[str | None, typer.Option("--least", metavar="COLUMN", help="The best point has the least of it.")]


@app.command("run")
def run(study: Study, workers: Workers = None, transport: Transport = "processes", out: Out = None,
        wait: Wait = None, retry_failed: Retry = False, keep_results: Keep = False, top: Top = 10,
        metrics_port: MetricsPort = None, as_json: Json = False) -> None:
    """Carry out the points that have no row yet; stopped at any moment, the same command goes on from there."""
    from cluster.config.metrics import MetricsChoice
    from cluster.observe.metrics.watch import Points
    from cluster.observe.store import folder_of
    from studies.sweep import Options, sweep
    from studies.sweep_study import load_study

    asked = load_study(study)
    folder = folder_of(out or f"runs/{asked.name}")
    points = Points(asked.name)
    with shown(MetricsChoice(port=metrics_port), points.families), Bar() as bar:
        swept = sweep(asked, folder, Options(workers, transport, retry_failed, keep_results, wait), bar, points.count)
    if as_json:
        print(json.dumps(_facts(swept, asked.most, asked.least), indent=1, sort_keys=True))
    else:
        _show(swept.rows, asked.most, asked.least, top)
        for line in _told(swept):
            console().print(line, markup=False, highlight=False)
    if swept.failed:
        raise typer.Exit(FAILED_POINTS)


@app.command("show")
def show(rows: Rows, most: Most = None, least: Least = None, top: Top = 10, as_json: Json = False) -> None:
    """Show the best points of a sweep, of one that still runs too."""
    from emulation.errors import ConfigError
    from studies.sweep_table import best

    if most is not None and least is not None:
        raise ConfigError("--most and --least are both given: one column tells which point is best")
    found = _read(rows)
    if as_json:
        print(json.dumps(best(found, most, least)[:top], indent=1))
    else:
        _show(found, most, least, top)


@app.command("export")
def export(rows: Rows, out: Annotated[Path, typer.Option("--out", metavar="FILE.parquet", help="The file to write.")],
           ) -> None:
    """Write the rows of a sweep as a Parquet file, a column a figure."""
    from studies.sweep_rows import write_parquet

    found = _read(rows)
    write_parquet(found, out)
    print(f"{out}: {len(found)} rows")


def _read(rows: str) -> "list[Row]":
    from cluster.observe.store import Store, folder_of
    from studies.sweep_objects import read_objects
    from studies.sweep_rows import ROWS_FILE, read_rows

    at = folder_of(rows)
    if isinstance(at, Store):
        return read_objects(at)
    return read_rows(at / ROWS_FILE if at.is_dir() else at)


def _show(rows: "list[Row]", most: str | None, least: str | None, top: int) -> None:
    from studies.sweep_table import table

    console().print(table(rows, most, least, top), markup=False, highlight=False)


def _told(swept: "Swept") -> list[str]:
    """What the sweep did, in lines."""
    lines = [f"{len(swept.rows)} points: {swept.ran} carried out now, {swept.kept} before, {len(swept.failed)} failed"]
    if swept.failed:
        lines.append("failed points are kept as rows; --retry-failed carries them out again")
    if swept.stray:
        lines.append(f"{swept.stray} rows of points that are not in this study stay in the file")
    if swept.torn_bytes:
        lines.append(f"a last row that was not written to its end was dropped ({swept.torn_bytes} bytes)")
    if cleared(swept.folder):
        lines.append(CLEARED)
    return [*lines, f"files: {swept.folder}/"]


def _facts(swept: "Swept", most: str | None, least: str | None) -> dict[str, Any]:
    from studies.sweep_table import best

    ranked = best(swept.rows, most, least)
    return {"folder": str(swept.folder), "points": len(swept.rows), "ran": swept.ran, "kept": swept.kept,
            "failed": len(swept.failed), "stray": swept.stray, "torn_bytes": swept.torn_bytes,
            "best": ranked[0] if ranked else None, "rows": swept.rows}
