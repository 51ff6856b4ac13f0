"""Curves over an axis: steps, stacked areas, shares of a distribution. Only curves stretch; words keep their size."""

from collections.abc import Sequence
from typing import NamedTuple

from cluster.observe.report.axes import SHARE, TIME, Axis, Unit, axis, most
from cluster.observe.report.bars import percent
from cluster.observe.report.markup import Markup, svg, tag

HEIGHT = 180
FINE = 1000
"""Curves are drawn on a grid of so many points each way."""


class Curve(NamedTuple):
    """A curve: its name, the class of its colour, and a value a slice of the x axis."""

    name: str
    class_: str
    values: Sequence[float]


def over_time(label: str, curves: Sequence[Curve], unit: Unit, slice_s: float, end_s: float, *,
              stacked: bool = False, limit: float | None = None) -> Markup:
    """Values of equal slices of emulated time, as steps, up to `end_s`; stacked: areas on each other.

    limit: a value to draw a line at, such as a capacity.
    """
    height = _sums(curves) if stacked else most([curve.values for curve in curves])
    across, up = axis(end_s, TIME), axis(max(height, limit or 0.0), unit, whole=True)
    edges = [_fine(across.share(min(i * slice_s, end_s))) for i in range(_slices(curves) + 1)]
    drawn = _areas(curves, edges, up) if stacked else [
        tag("path", tag("title", curve.name), class_=f"line {curve.class_}", d=_steps(edges, curve.values, up))
        for curve in curves]
    return frame(label, drawn, across, up, limit)


def cumulative(label: str, curves: Sequence[Curve], limit_s: float | None = None) -> Markup:
    """The share of observed times that are at most so long; `values` of a curve: the times, in any order."""
    across = axis(max(most([curve.values for curve in curves]), limit_s or 0.0), TIME)
    up, drawn = axis(1.0, SHARE, whole=True), []
    for curve in curves:
        count, path, before = len(curve.values), ["M0 1000"], 0
        for i, value in enumerate(sorted(curve.values), 1):
            x = _fine(across.share(value))
            if x != before or i == count:
                path.append(f"H{x}V{FINE - _fine(i / count)}")
                before = x
        drawn.append(tag("path", tag("title", curve.name), class_=f"line {curve.class_}", d="".join(path) + "H1000"))
    return frame(label, drawn, across, up, upright=limit_s)


def frame(label: str, drawn: Sequence[Markup], across: Axis, up: Axis, limit: float | None = None,
          upright: float | None = None, height: int = HEIGHT) -> Markup:
    """Curves within axes. limit, upright: values at which a line goes across, or up."""
    lines = [tag("line", class_="grid", x1=0, x2="100%", y1=percent(1 - up.share(value)),
                 y2=percent(1 - up.share(value))) for value, _ in up.ticks]
    if limit is not None:
        at = percent(1 - up.share(limit))
        lines.append(tag("line", class_="limit", x1=0, x2="100%", y1=at, y2=at))
    if upright is not None:
        at = percent(across.share(upright))
        lines.append(tag("line", class_="limit", x1=at, x2=at, y1=0, y2="100%"))
    inner = tag("svg", *drawn, viewBox=f"0 0 {FINE} {FINE}", preserveAspectRatio="none", width="100%", height="100%")
    wide = 6 + round(6.2 * max(len(words) for _, words in up.ticks))
    left = tag("svg", *(tag("text", words, x="100%", dx=-6, y=percent(1 - up.share(value)), dy="0.35em",
                            text_anchor="end") for value, words in up.ticks),
               class_="axis", width=wide, height=height, aria_hidden="true")
    return tag("div", left, svg(label, *lines, inner, width="100%", height=height), tag("span"), below(across),
               class_="plot")


def below(across: Axis) -> Markup:
    """The words under an x axis; those at its ends stay within it."""
    words = []
    for value, told in across.ticks:
        share = across.share(value)
        anchor = "start" if share < 0.03 else "end" if share > 0.97 else "middle"
        words.append(tag("text", told, x=percent(share), y=14, text_anchor=anchor))
    return tag("svg", *words, class_="axis", width="100%", height=20, aria_hidden="true")


def _areas(curves: Sequence[Curve], edges: Sequence[int], up: Axis) -> list[Markup]:
    """Areas on each other, the first at the bottom."""
    floor, out = [0.0] * _slices(curves), []
    for curve in curves:
        if not any(curve.values):
            continue
        roof = [low + value for low, value in zip(floor, curve.values, strict=True)]
        there = _steps(edges, roof, up)
        back = "".join(f"H{edges[i + 1]}V{FINE - _fine(up.share(floor[i]))}" for i in reversed(range(len(floor))))
        out.append(tag("path", tag("title", curve.name), class_=curve.class_, d=f"{there}{back}H0Z"))
        floor = roof
    return out


def _steps(edges: Sequence[int], values: Sequence[float], up: Axis) -> str:
    """A path that is level within each slice; equal neighbours are one stretch."""
    heights = [FINE - _fine(up.share(value)) for value in values]
    if not heights:
        return "M0 0"
    path = [f"M0 {heights[0]}"]
    for i, height in enumerate(heights):
        if i + 1 == len(heights) or heights[i + 1] != height:
            path.append(f"H{edges[i + 1]}" + (f"V{heights[i + 1]}" if i + 1 < len(heights) else ""))
    return "".join(path)


def _slices(curves: Sequence[Curve]) -> int:
    return max((len(curve.values) for curve in curves), default=0)


def _sums(curves: Sequence[Curve]) -> float:
    return max((sum(column) for column in zip(*(curve.values for curve in curves), strict=True)), default=0.0)


def _fine(share: float) -> int:
    return round(FINE * min(max(share, 0.0), 1.0))
