"""Tables of what was reproduced, for a terminal and for a page of the docs: what did not come out stands first."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from studies.reproduce.measure import Figure
from studies.reproduce.verdict import WORST_FIRST, Row

if TYPE_CHECKING:
    from studies.reproduce.reproduce import Reproduced

HEAD = ("id", "claim", "published", "ours", "ratio", "verdict")

INTRODUCTION = """# What was published, and what comes out here

`moelab reproduce all` makes this page: every figure and every trend that the sources of four published systems state,
beside what the emulation finds. What did not come out stands first.

| verdict | meaning |
|---|---|
| FAIL | off by more than 15 % (or a trend that does not show), and no assumed constant explains it |
| OUT OF RANGE | rests on constants that nobody published; outside what they span over their stated ranges |
| NOT IDENTIFIABLE | what is public does not tell the figure, or what it would take to compute it |
| IN RANGE | rests on constants that nobody published; within what they span |
| PASS | within 15 % (or the trend shows), and nothing that it depends on is assumed |

Each assumed constant is swept over its range, one at a time, then all together towards either side. A figure depends on
a constant that moves it by more than 1 %; published figures count as rounded to 1 %. Sweeps run shorter cases, and what
a constant changes there is applied to the whole figure. Constants were committed before the tables were first run.
"""


def figure(value: Figure, unit: str = "") -> str:
    """A figure as it is shown."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    number = f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return f"{number}{unit}" if unit in ("x", "%", "") else f"{number} {unit}"


def worst_first(rows: Iterable[Row]) -> list[Row]:
    """Rows by verdict, the worst first, otherwise in their order."""
    return sorted(rows, key=lambda row: WORST_FIRST.index(row.verdict))


def tally(rows: Sequence[Row]) -> str:
    """How many rows have which verdict, in words."""
    counts = [(sum(row.verdict == verdict for row in rows), verdict) for verdict in reversed(WORST_FIRST)]
    return ", ".join(f"{count} {verdict}" for count, verdict in counts if count)


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table, as texts in the order of HEAD."""
    ours = figure(row.ours, row.unit)
    if row.low is not None and row.high is not None and row.high > row.low:
        ours += f" ({figure(row.low)} to {figure(row.high)})"
    if row.beside is not None:
        ours += f"; {row.beside_title}: {figure(row.beside, row.unit)}"
    return (row.id, row.claim, figure(row.published, row.unit), ours,
            "-" if row.ratio is None else f"{row.ratio:.2f}", row.verdict)


def page(found: "Sequence[Reproduced]") -> str:
    """A page in Markdown."""
    lines = [INTRODUCTION]
    for one in found:
        lines += [f"## {one.claims.title} ({one.claims.paper})", "",
                  f"`moelab reproduce {one.system}`: {tally(one.rows)}; {one.runs} runs.", "",
                  "| " + " | ".join((*HEAD, "why; assumed parameters; routing")) + " |", "|---" * (len(HEAD) + 1) + "|"]
        for row in worst_first(one.rows):
            assumed = f"assumed: {', '.join(f'`{name}`' for name in row.assumed_parameters)}" \
                if row.assumed_parameters else ""
            why = "; ".join(part for part in (row.reason, assumed, f"routing: {row.routing}") if part)
            lines.append("| " + " | ".join(text.replace("|", "\\|") for text in (*cells(row), why)) + " |")
        lines += ["", f"![{one.claims.title}: ours beside the published figures](pictures/{one.system}.svg)", ""]
    return "\n".join(lines)
