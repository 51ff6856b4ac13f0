"""`moelab calibrate`: measure this machine, and write a hardware file."""

import json
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cluster.commands.run import Json
from cluster.commands.show import Bar, console

Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(
    "--device", help="What computes near: cuda (a GPU and its host), cpu (paced copies), auto: a GPU if there is one.")]
Paced = Annotated[str, typer.Option("--far-bandwidth", metavar="RATE",
                                    help="How fast a CPU's far memory is made; on a GPU copies are real.")]


def calibrate(out: Annotated[Path, typer.Option("--out", metavar="FILE.yaml", help="The hardware file to write.")]
              = Path("out/host.yaml"),
              device: Device = "auto", far_bandwidth: Paced = "1 GB/s",
              quick: Annotated[bool, typer.Option("--quick", help="Fewer repeats: sooner done, and rougher.")] = False,
              as_json: Json = False) -> None:
    """Measure this machine in running engines, fit, and write a hardware file with its residuals beside it."""
    from cluster.config.load import load_hardware
    from cluster.observe.files import write_texts
    from emulation.extras import require

    require("calibrate", "models", "torch")
    from studies.calibration.calibrate import FULL, QUICK, chosen_device, hardware, measure
    from studies.calibration.hardware import as_yaml

    began, on, rate = time.monotonic(), chosen_device(device), bytes_per_s(far_bandwidth)
    with Bar() as bar:
        measured = measure(on, QUICK if quick else FULL, bar.update, rate)
    file, report = hardware(measured, on, out.stem)
    report["seconds"] = round(time.monotonic() - began, 1)
    write_texts(out.parent, {out.name: as_yaml(file), f"{out.stem}.fit.json": json.dumps(report, indent=1)})
    load_hardware(str(out))
    if as_json:
        print(json.dumps(report, indent=1))
        return
    _show(report, out)


def bytes_per_s(text: str) -> float:
    """A rate as it is written in configs, in bytes a second."""
    from emulation.errors import ConfigError
    from emulation.units import parse

    rate = float(parse(text, "bandwidth"))
    if rate <= 0:
        raise ConfigError(f"--far-bandwidth is {text!r}: copies need a rate above zero, such as '1 GB/s'")
    return rate


def fits_table(report: dict[str, Any]) -> Any:
    """The residuals of each fit, as a table."""
    from rich.table import Table

    table = Table("fitted", "rows", "|error| p50", "p90", "p99", title="Fits")
    for what, each in report["residuals"].items():
        table.add_row(what, str(each["rows"]), *(f"{each[p]:.1%}" for p in ("p50", "p90", "p99")))
    return table


def _show(report: dict[str, Any], out: Path) -> None:
    screen = console()
    screen.print(fits_table(report))
    screen.print(f"{report['samples']} samples in {report['seconds']:.0f} s; of two works, one near and one on the "
                 f"worker thread, {max(report['overlap'], 0):.0%} of the shorter was hidden", highlight=False)
    screen.print(f"{out}: use it as `machine: {out}`; {out.stem}.fit.json beside it holds the residuals", markup=False,
                 highlight=False)
