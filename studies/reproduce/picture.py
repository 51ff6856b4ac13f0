"""A picture of one system: each figure as a multiple of the published one, with the span of what is assumed."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from studies.reproduce.verdict import FAIL, IN_RANGE, OUT_OF_RANGE, PASS, Row

ROW, LEFT, WIDTH, RIGHT, TOP = 22, 330, 460, 130, 44
COLOURS = {PASS: "#15803d", IN_RANGE: "#1d4ed8", OUT_OF_RANGE: "#c2410c", FAIL: "#b91c1c"}
STYLE = ("<style>text{font:12px sans-serif;fill:#333}.t{font-weight:bold;font-size:14px}.g{stroke:#ddd}"
         ".one{stroke:#333;stroke-dasharray:4 3}.band{fill:#15803d;opacity:.1}"
         "@media(prefers-color-scheme:dark){text{fill:#ddd}.g{stroke:#444}.one{stroke:#ddd}}</style>")
TICKS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)


def picture(title: str, rows: Sequence[Row]) -> str:
    """SVG of the rows that have a published number and one of ours; empty where there is none."""
    shown = [row for row in rows if row.ratio is not None and row.ratio > 0]
    if not shown:
        return ""
    ends = [end for row in shown for end in _ends(row)]
    low, high = min(0.5, *ends) / 1.1, max(2.0, *ends) * 1.1
    height = TOP + ROW * len(shown) + 40
    body = "\n".join(_body(title, shown, low, high))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + RIGHT}" height="{height}" '
            f'viewBox="0 0 {LEFT + WIDTH + RIGHT} {height}">{STYLE}\n{body}\n</svg>\n')


def _ends(row: Row) -> tuple[float, ...]:
    assert row.ratio is not None
    published = float(row.published or 1.0)
    return (row.ratio, *(end / published for end in (row.low, row.high) if end is not None and end / published > 0))


def _body(title: str, rows: Sequence[Row], low: float, high: float) -> Iterator[str]:
    def at(ratio: float) -> float:
        return LEFT + WIDTH * math.log(ratio / low) / math.log(high / low)

    bottom = TOP + ROW * len(rows)
    yield f'<text class="t" x="12" y="20">{escape(title)}: ours over published</text>'
    yield f'<rect class="band" x="{at(0.85):.1f}" y="{TOP}" width="{at(1.15) - at(0.85):.1f}" height="{bottom - TOP}"/>'
    for tick in TICKS:
        if low <= tick <= high:
            yield f'<path class="{"one" if tick == 1 else "g"}" d="M{at(tick):.1f} {TOP}V{bottom}"/>'
            yield f'<text x="{at(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>'
    for number, row in enumerate(rows):
        y, colour, ends = TOP + ROW * (number + 0.5), COLOURS.get(row.verdict, "#666"), _ends(row)
        yield f'<text x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(row.id)}</text>'
        yield f'<path d="M{at(min(ends)):.1f} {y:.1f}H{at(max(ends)):.1f}" stroke="{colour}" stroke-width="2"/>'
        yield f'<circle cx="{at(ends[0]):.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
        yield f'<text x="{LEFT + WIDTH + 10}" y="{y + 4:.1f}" style="fill:{colour}">{row.verdict}</text>'
