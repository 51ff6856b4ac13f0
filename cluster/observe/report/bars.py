"""Horizontal bars that stay readable at any width: words are the page's text, only bars are drawn."""

from collections.abc import Sequence
from typing import NamedTuple

from cluster.observe.report.markup import NOTHING, Markup, svg, tag

LEAST_TEXT = 0.17
"""A segment narrower than this share of the width has no words in it: they would not fit on a telephone."""


class Bar(NamedTuple):
    """One bar. name, value: as they read; amount: its length; mark: where a tick stands on it, told by `mark_text`."""

    name: str
    amount: float | None
    value: str
    class_: str = "s0"
    mark: float | None = None
    mark_text: str = ""


class Segment(NamedTuple):
    """A part of a stacked bar; words: what is written into it; told: what a pointer that rests on it is told."""

    class_: str
    amount: float
    words: str
    told: str


class Stack(NamedTuple):
    """A bar of segments. total: what the whole width stands for (None: the longest bar); frame: its end is drawn."""

    name: str
    segments: tuple[Segment, ...]
    value: str
    total: float | None = None


def percent(share: float) -> str:
    """A share as an attribute of an SVG element."""
    return f"{100 * min(max(share, 0.0), 1.0):.3f}".rstrip("0").rstrip(".") + "%"


def bars(rows: Sequence[Bar]) -> Markup:
    """Bars from a common 0, the longest (or farthest mark) as wide as there is room."""
    most = max((max(row.amount or 0.0, row.mark or 0.0) for row in rows), default=0.0) or 1.0
    return tag("div", *(_row(row.name, row.value, svg(
        f"{row.name}: {row.value}" + (f"; {row.mark_text}" if row.mark is not None else ""),
        tag("rect", class_="track", width="100%", height="100%"),
        NOTHING if row.amount is None else tag("rect", class_=row.class_, width=percent(row.amount / most),
                                               height="100%"),
        NOTHING if row.mark is None else tag("rect", class_="mark", x=percent(row.mark / most), width=2,
                                             height="100%"),
        width="100%", height=18)) for row in rows), class_="bars")


def stacks(rows: Sequence[Stack]) -> Markup:
    """Bars of segments behind each other; without totals of their own all have the scale of the longest."""
    most = max((sum(part.amount for part in row.segments) for row in rows), default=0.0) or 1.0
    return tag("div", *(_row(row.name, row.value, _stack(row, row.total or most)) for row in rows), class_="bars")


def _stack(row: Stack, most: float) -> Markup:
    drawn, at = [], 0.0
    for part in row.segments:
        share = part.amount / most
        drawn.append(tag("rect", tag("title", part.told), class_=f"seg {part.class_}", x=percent(at),
                         width=percent(share), height="100%"))
        if share >= LEAST_TEXT and part.words:
            drawn.append(tag("text", part.words, class_="in", x=percent(at + share / 2), y="50%"))
        at += share
    return svg(f"{row.name}: {row.value}; " + ", ".join(part.told for part in row.segments),
               tag("rect", class_="track", width="100%", height="100%"), *drawn, width="100%", height=22)


def _row(name: str, value: str, picture: Markup) -> Markup:
    return tag("div", tag("span", name, class_="name"), picture, tag("span", value, class_="value"), class_="bar")
