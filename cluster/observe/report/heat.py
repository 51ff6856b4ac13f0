"""Heat maps of some thousand cells in little markup: a path a step of the scale, a run of equal cells one stroke."""

from bisect import bisect_right
from collections.abc import Sequence

from cluster.observe.report.axes import Axis
from cluster.observe.report.blocks import legend
from cluster.observe.report.colours import HEAT
from cluster.observe.report.markup import Markup, svg, tag
from cluster.observe.report.plots import below

LINE_PX = 13
"""Rows lower than this are named every second one."""


def levels(values: Sequence[float], limits: Sequence[float]) -> list[int]:
    """The step of each value: 0 of nothing, then 1 below the first of six limits that rise, and so on."""
    return [0 if not value else min(1 + bisect_right(limits, value), len(HEAT) - 1) for value in values]


def heat_map(label: str, names: Sequence[str], steps: Sequence[Sequence[int]], told: Sequence[str], across: Axis, *,
             row_px: int = 14) -> Markup:
    """Cells of `steps` [rows, columns], a row a name; told: what a pointer that rests on a row is told."""
    columns, every = max((len(row) for row in steps), default=1), 1 if row_px >= LINE_PX else 2
    paths = {step: list[str]() for step in range(1, len(HEAT))}
    for y, row in enumerate(steps):
        x = 0
        while x < len(row):
            end = x + 1
            while end < len(row) and row[end] == row[x]:
                end += 1
            if row[x]:
                paths[row[x]].append(f"M{x} {y}.5h{end - x}")
            x = end
    drawn = [tag("path", class_=f"cell q{step}", d="".join(runs)) for step, runs in paths.items() if runs]
    over = [tag("rect", tag("title", words), class_="over", y=y, width=columns, height=1)
            for y, words in enumerate(told)]
    inner = tag("svg", tag("rect", class_="q0", width=columns, height=len(steps)), *drawn, *over,
                viewBox=f"0 0 {columns} {max(len(steps), 1)}", preserveAspectRatio="none", width="100%", height="100%")
    shown = [(y, name) for y, name in enumerate(names) if y % every == 0]
    high = row_px * len(names)
    wide = 8 + round(6.2 * max((len(name) for _, name in shown), default=0))
    left = tag("svg", *(tag("text", name, x="100%", dx=-6, y=row_px * y + row_px / 2, dy="0.35em", text_anchor="end")
                        for y, name in shown), class_="axis", width=wide, height=high, aria_hidden="true")
    return tag("div", left, svg(label, inner, width="100%", height=high), tag("span"), below(across), class_="plot")


def heat_legend(words: Sequence[str]) -> Markup:
    """What each step stands for, from nothing to the most."""
    return legend([(f"q{step}", told) for step, told in enumerate(words)])
