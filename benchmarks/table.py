"""The figures of all benchmarks as one table."""

from collections.abc import Sequence

from rich.table import Table

from benchmarks.harness import Row


def number(value: float | None) -> str:
    """Four significant digits, with separators where there are many."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def table(rows: Sequence[Row]) -> Table:
    """Medians with their spread, one figure a line."""
    made = Table(title="median, and least to largest of n measurements", title_justify="left")
    for column in ("benchmark", "case", "figure"):
        made.add_column(column)
    for column in ("median", "spread", "n"):
        made.add_column(column, justify="right")
    made.add_column("note")
    for row in rows:
        spread = "" if row["n"] < 2 else f"{number(row['low'])} to {number(row['high'])}"
        made.add_row(row["bench"], row["case"], row["figure"].replace("_", " "), number(row["median"]), spread,
                     str(row["n"] or ""), row["note"])
    return made


def markdown(rows: Sequence[Row], host: Row) -> str:
    """The same table for a page of the docs, with what it was measured on."""
    lines = [f"Measured on {host['cores']} cores of {host['cpu']}, Python {host['python']}, at a load of "
             f"{host['load_1min']} when it began. Medians, and least to largest of n.", "",
             "| benchmark | case | figure | median | spread | n | note |", "|---|---|---|--:|--:|--:|---|"]
    for row in rows:
        spread = "" if row["n"] < 2 else f"{number(row['low'])} to {number(row['high'])}"
        cells = (row["bench"], row["case"], row["figure"].replace("_", " "), number(row["median"]), spread,
                 str(row["n"] or ""), row["note"])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])
