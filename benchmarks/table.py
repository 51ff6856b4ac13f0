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
