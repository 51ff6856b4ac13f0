"""Faults for a terminal: when each took effect, what it cost to go on, and how fast the run was before and since."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.table import Table

from cluster.observe.schema import FaultEffect, Stretch
from emulation.units import seconds

if TYPE_CHECKING:
    from cluster.observe.result import Result


def faults_table(result: "Result") -> list[Table]:
    """A row a fault; nothing where there was none."""
    if not result.faults:
        return []
    table = Table(title="faults (decode step: before, during, after)", title_justify="left")
    for i, column in enumerate(("fault", "from", "until", "sent", "from storage", "recovery", "before", "during",
                                "after")):
        table.add_column(column, justify="left" if i == 0 else "right")
    for fault in result.faults:
        table.add_row(fault.what, _ms(fault.took_ps), _ms(fault.over_ps), _megabytes(fault.sent_bytes),
                      _megabytes(fault.stored_bytes), _ms(fault.recovery_ps or None),
                      *(_step(stretch) for stretch in (fault.before, fault.during, fault.after)))
    return [table]


def compare_faults(results: Mapping[str, "Result"]) -> list[Table]:
    """A row a fault and a column a policy: its mean decode step before, during and after, and what it waited for
    experts that were lost; nothing where there was none."""
    first = next(iter(results.values()))
    if not first.faults:
        return []
    table = Table(title="faults: decode step before > during > after (+ recovery)", title_justify="left")
    for i, column in enumerate(("fault", *results)):
        table.add_column(column, justify="left" if i == 0 else "right")
    for i, fault in enumerate(first.faults):
        table.add_row(fault.what, *(_cell(result.faults[i]) for result in results.values() if result.faults))
    return [table]


def _cell(fault: FaultEffect) -> str:
    if fault.took_ps is None:
        return "not in this run"
    times = " > ".join(_step(stretch) for stretch in (fault.before, fault.during, fault.after) if stretch is not None)
    return times + (f" (+ {_ms(fault.recovery_ps)})" if fault.recovery_ps else "")


def _step(stretch: Stretch | None) -> str:
    return "-" if stretch is None or stretch.decode_step_s is None else f"{stretch.decode_step_s * 1e3:.4g} ms"


def _ms(ps: int | None) -> str:
    return "-" if ps is None else f"{seconds(ps) * 1e3:.4g} ms"


def _megabytes(bytes_: int) -> str:
    return f"{bytes_ / 1e6:.4g} MB" if bytes_ else "-"
