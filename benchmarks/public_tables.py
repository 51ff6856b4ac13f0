"""Errors of our device models over the MoE kernels that the AISimulate wheel measured: tables, and a picture.

    python -m benchmarks.public_tables [--packages FOLDER] [--slices N] [--gpu NAME] [--svg FILE]

FOLDER: site-packages of an environment of the wheel's own, where it is not installed here; it is read, not imported.
`studies.public_tables` says what is fitted and what is left out.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from emulation.errors import ConfigError
from studies.public_tables import CARRIED, FITTED, GPUS, Row, Spread, report, table_errors

LEFT, RIGHT, TOP, LINE = 300, 720, 40, 34
LOW, HIGH = 0.01, 1.0
STYLE = ("<style>text{font:11px sans-serif;fill:#333}.t{font-weight:bold;font-size:13px}"
         ".g{stroke:#ddd;stroke-width:1}.goal{stroke:#666;stroke-dasharray:3 3}</style>")
SERIES = (("roofline_carried", "#c2410c", "roofline, shape left out", -10),
          ("grouped", "#1d4ed8", "grouped, fitted", 0), ("grouped_carried", "#15803d", "grouped, shape left out", 10))


def across(value: float) -> float:
    """Where an error stands on the logarithmic axis."""
    share = math.log(min(max(value, LOW), HIGH) / LOW) / math.log(HIGH / LOW)
    return LEFT + (RIGHT - LEFT) * share


def marks(row: Row, y: float) -> Iterator[str]:
    """A group: for each series a dot at the median and a line to what nine calls of ten stay below."""
    of = row.group
    name = of.kernel.removeprefix(f"{of.framework}_")
    name = name if len(name) < 34 else name[:32] + "…"
    yield f'<text x="{LEFT - 8}" y="{y - 2}" text-anchor="end">{of.gpu.upper()} {of.framework} {of.precision}</text>'
    yield f'<text x="{LEFT - 8}" y="{y + 11}" text-anchor="end" style="fill:#888">{name}</text>'
    for field, colour, _, shift in SERIES:
        spread: Spread = getattr(row, field)
        at, end = across(spread.p50), across(spread.p90)
        yield f'<path d="M{at:.1f} {y + shift}H{end:.1f}" stroke="{colour}" stroke-width="1.4"/>'
        yield f'<circle cx="{at:.1f}" cy="{y + shift}" r="3" fill="{colour}"/>'


def errors_svg(rows: Sequence[Row]) -> str:
    """Medians and p90 of every group, the goals as dashed lines."""
    groups = [row for row in rows if not row.shape]
    bottom = TOP + LINE * len(groups)
    body = []
    for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0):
        body.append(f'<path class="g" d="M{across(tick):.1f} {TOP - 14}V{bottom}"/>')
        body.append(f'<text x="{across(tick):.1f}" y="{bottom + 15}" text-anchor="middle">{tick:.0%}</text>')
    for goal in (FITTED, CARRIED):
        body.append(f'<path class="goal" d="M{across(goal):.1f} {TOP - 14}V{bottom}"/>')
        body.append(f'<text x="{across(goal):.1f}" y="{TOP - 18}" text-anchor="middle">{goal:.0%}</text>')
    for number, row in enumerate(groups):
        body += marks(row, TOP + LINE * number + 12)
    for number, (_, colour, label, _) in enumerate(SERIES):
        body.append(f'<text x="{LEFT + 150 * number}" y="{bottom + 34}" style="fill:{colour}">{label}</text>')
    wide, high = RIGHT + 24, bottom + 46
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}">'
            f'<rect width="{wide}" height="{high}" fill="#fff"/>')
    return "\n".join([head, STYLE, *body, "</svg>", ""])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--packages", type=Path)
    options.add_argument("--slices", type=int, default=1, help="count slices down to an n-th of an expert, too")
    options.add_argument("--gpu", choices=list(GPUS), action="append")
    options.add_argument("--svg", type=Path)
    asked = options.parse_args()
    try:
        rows = table_errors(asked.packages, gpus=asked.gpu or tuple(GPUS), most_tp=asked.slices)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    print(report(rows), report(rows, by_shape=True), sep="\n\n")
    for row in rows:
        if not row.shape:
            print(*row.group, row.rule, *(f"{value:.3g}" for value in row.constants))
    if asked.svg:
        asked.svg.write_text(errors_svg(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
