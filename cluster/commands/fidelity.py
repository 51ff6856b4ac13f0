"""`moelab fidelity`: how far the emulation is from what was measured."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.commands.calibrate import Device, Paced, bytes_per_s, fits_table
from cluster.commands.run import Json
from cluster.commands.show import Bar, console

if TYPE_CHECKING:
    from studies.fidelity import Row


def fidelity(reference: Annotated[Path | None, typer.Argument(
                 metavar="[REFERENCE.json]", help="Measured rows: a model's shape, cases, and what each took.")] = None,
             host: Annotated[bool, typer.Option("--host", help="Calibrate, measure and emulate this machine.")] = False,
             machine: Annotated[str | None, typer.Option(
                 "--machine", metavar="NAME", help="Another hardware file than the reference names.")] = None,
             out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where --host leaves what it measured.")]
             = Path("out/fidelity"),
             device: Device = "auto", far_bandwidth: Paced = "1 GB/s",
             tables: Annotated[bool, typer.Option("--tables", help="Kernels that AISimulate measured, against our "
                                                                   "device models (minutes).")] = False,
             packages: Annotated[Path | None, typer.Option(
                 "--packages", metavar="DIR", help="Where --tables finds the wheel, if not here.")] = None,
             rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often --host measures all.")] = 3,
             as_json: Json = False) -> None:
    """Emulate each case of a reference on its host's hardware file, and show the error against what was measured."""
    from emulation.errors import ConfigError
    from emulation.extras import require
    from studies.fidelity import compare_all, read_reference, summary

    if (reference is not None) + host + tables != 1:
        raise ConfigError("fidelity compares with one thing: name a REFERENCE.json, or give --host to measure "
                          "this machine, or --tables for public tables of kernels")
    if tables:
        _tables(packages, as_json)
        return
    report: dict[str, Any] = {}
    with Bar() as bar:
        if host:
            require("fidelity --host", "models", "torch")
            from studies.calibration.calibrate import chosen_device
            from studies.host_fidelity import Plan, measure_host

            rate = bytes_per_s(far_bandwidth)
            reference, made, report = measure_host(out, chosen_device(device), Plan(rounds=rounds), bar.update, rate)
            machine = machine or str(made)
        assert reference is not None
        read = read_reference(reference)
        rows = compare_all(read, machine or named_machine(read.head.host, reference), bar.update)
    told = summary(rows)
    if as_json:
        print(json.dumps({"reference": str(reference), **told, "rows": [asdict(row) for row in rows],
                          **({"calibration": report} if report else {})}, indent=1))
        return
    _show(rows, told, report)


def _tables(packages: Path | None, as_json: bool) -> None:
    """Errors of our device models over public tables of MoE kernels (docs/public_tables.md)."""
    from studies.public_tables import report, table_errors

    rows = table_errors(packages)
    if as_json:
        print(json.dumps([{**asdict(row), "group": row.group._asdict(), "reached": row.reached} for row in rows],
                         indent=1))
        return
    print(report(rows), report(rows, by_shape=True), sep="\n\n")


def named_machine(name: str, reference: Path) -> str:
    """A reference's host: a file beside it, or one of those that ship."""
    beside = reference.parent / name
    return str(beside) if Path(name).name == name and name.endswith(".yaml") and beside.exists() else name


def _show(rows: "list[Row]", told: dict[str, Any], report: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("policy", title="A decode step: emulated against measured")
    for head in ("batch", "slots", "measured", "emulated", "error", "hits", "misses", "copied", "CPU experts",
                 "substituted", "counts"):
        table.add_column(head, justify="right")
    for row in rows:
        noise = row.steady is False
        table.add_row(
            row.policy, str(row.batch), str(row.slots), _ms(row.measured_s), _ms(row.emulated_s),
            "" if row.error is None else f"{row.error:+.1%}", str(row.hits), str(row.misses),
            f"{row.copied_bytes / 1e9:.2f} GB", str(row.cpu_experts), str(row.substituted),
            {True: "equal", False: "DIFFER", None: ""}[row.counts_equal], style="dim" if noise else "")
    screen = console()
    if report:
        screen.print(fits_table(report))
    screen.print(table)
    if told["p50"] is None:
        screen.print("nothing was measured in these rows: no error is told", highlight=False)
        return
    screen.print(f"|error|: median {told['p50']:.1%}, P90 {told['p90']:.1%}, largest {told['max']:.1%}, over "
                 f"{told['judged']} of {told['cases']} rows (dim ones did not repeat: not judged)", highlight=False)


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.2f} ms"
