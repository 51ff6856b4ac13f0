"""The matrix as a heat map: an SVG written by hand, so that its bytes repeat."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from studies.matrix import Cell, number

CELL_WIDTH, CELL_HEIGHT, LEFT, TOP, GAP = 62, 20, 150, 118, 16
WORST = 100.0
"""Where the colours end: a hundred times the bound."""

STYLE = ("<style>text{font:11px sans-serif;fill:#333}.t{font-weight:bold;font-size:13px}.n{fill:#111}"
         ".none{fill:#8884}@media(prefers-color-scheme:dark){text{fill:#ddd}.n{fill:#111}}</style>")
ENDS = ((34, 139, 94), (247, 236, 173), (190, 50, 50))
"""Green at the bound, yellow halfway on a scale of logarithms, red at WORST."""


def colour(times: float) -> str:
    """The colour of a multiple of the bound."""
    share = min(max(math.log(max(times, 1.0)) / math.log(WORST), 0.0), 1.0) * 2
    low, high = (ENDS[0], ENDS[1]) if share <= 1 else (ENDS[1], ENDS[2])
    mix = share if share <= 1 else share - 1
    return "#" + "".join(f"{round(a + (b - a) * mix):02x}" for a, b in zip(low, high, strict=True))


def picture(found: Sequence[Cell]) -> str:
    """One panel a model, one below the other; policies down, machines across."""
    models = list(dict.fromkeys(cell.model for cell in found))
    machines = list(dict.fromkeys(cell.machine for cell in found))
    policies = list(dict.fromkeys(cell.policy for cell in found))
    panel = TOP + CELL_HEIGHT * len(policies) + GAP
    wide, high = LEFT + CELL_WIDTH * len(machines) + 60, panel * len(models)
    body = [line for i, model in enumerate(models)
            for line in _panel([cell for cell in found if cell.model == model], model, machines, policies, i * panel)]
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" '
                      f'height="{high}">{STYLE}', *body, "</svg>", ""])


def _panel(of: Sequence[Cell], model: str, machines: list[str], policies: list[str], y0: int) -> Iterator[str]:
    yield f'<text class="t" x="8" y="{y0 + 18}">{escape(model)}: time over the bound</text>'
    for column, machine in enumerate(machines):
        at, top = LEFT + CELL_WIDTH * (column + 0.5), y0 + TOP - 6
        yield f'<text transform="rotate(-40 {at:g} {top})" x="{at:g}" y="{top}">{escape(machine)}</text>'
    for row, policy in enumerate(policies):
        middle = y0 + TOP + CELL_HEIGHT * (row + 0.5) + 4
        yield f'<text x="{LEFT - 6}" y="{middle:g}" text-anchor="end">{escape(policy)}</text>'
    for cell in of:
        x, y = LEFT + CELL_WIDTH * machines.index(cell.machine), y0 + TOP + CELL_HEIGHT * policies.index(cell.policy)
        box = f'x="{x}" y="{y}" width="{CELL_WIDTH - 1}" height="{CELL_HEIGHT - 1}"'
        told = f"<title>{escape(f'{cell.policy} on {cell.machine}: {cell.reason or cell.times}')}</title>"
        if cell.times is None:
            yield f'<rect class="none" {box}>{told}</rect>'
            continue
        yield f'<rect {box} fill="{colour(cell.times)}">{told}</rect>'
        yield (f'<text class="n" x="{x + CELL_WIDTH / 2:g}" y="{y + 14}" text-anchor="middle">{number(cell.times)}'
               f'{"" if cell.exact else "*"}</text>')
