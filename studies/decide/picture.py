"""Who wins where, as one picture: the plane, intervals beside it, break-evens below. SVG by hand; its bytes repeat."""

from collections.abc import Iterator

from cluster.observe.report.colours import variables
from cluster.observe.report.markup import NOTHING, Markup, join, tag
from studies.decide.decision import Decision, Outcome, Place
from studies.decide.picture_parts import break_evens, intervals
from studies.decide.reading import across, fitted, percent, rows_of, sentence, times, wrapped
from studies.decide.words import quantity_text

WIDE, MARGIN, GAP = 1120, 20, 28
PLANE_WIDE, NAMES_WIDE, CELL_HIGH, HIGHEST_CELL, LEAST_CELL = 520, 78, 46, 120, 52
SURE = 0.95
"""A winner of fewer draws than this is uncertain, and its cell is hatched."""

_LIGHT = "--page:#fff;--ink:#1b1f24;--soft:#57606a;--rule:#d5dae0;--track:#e8ebef;--on:#fff;--alarm:#a3182f;"
_DARK = "--page:#12151a;--ink:#e6e9ed;--soft:#a0aab5;--rule:#39424d;--track:#262d36;--on:#0b0e12;--alarm:#ff8f9a;"
STYLE = "".join((
    f"svg{{{_LIGHT}{variables(False)}}}",
    f"@media screen and (prefers-color-scheme:dark){{svg{{{_DARK}{variables(True)}}}}}",
    "*{print-color-adjust:exact;-webkit-print-color-adjust:exact}",
    "text{font:12px system-ui,sans-serif;fill:var(--ink)}.h{font-size:17px;font-weight:600}.v{font-size:14px}",
    ".p{font-size:13px;font-weight:600}.soft{fill:var(--soft)}.e{text-anchor:end}.m{text-anchor:middle}",
    ".on{fill:var(--on);font-weight:600}.small{font-size:10.5px}.track{fill:var(--track)}.page{fill:var(--page)}",
    ".rule{stroke:var(--rule);stroke-width:1}.tick{stroke:var(--ink);stroke-width:2}.edge{stroke:var(--ink);stroke-width:1}.halo{stroke:var(--page);",
    "stroke-width:3;paint-order:stroke}.hatch{fill:url(#hatch)}.stripe{stroke:var(--page);stroke-width:2;opacity:.5}",
    *(f".s{i}{{fill:var(--s{i})}}.l{i}{{stroke:var(--s{i});stroke-width:2;fill:none}}"
      f".o{i}{{stroke:var(--s{i});stroke-width:4;paint-order:stroke;stroke-linejoin:round}}" for i in range(8))))


def draw(decision: Decision) -> str:
    """The picture of a decision: an SVG that stands alone, light and dark, and fit for print.

    A cell has its winner's colour and letter, by how much it leads and in what share of the draws it wins; hatched:
    in fewer than 95 %. A triangle in its corner, in a candidate's colour: that one does not fit or did not run there.
    """
    drawn: list[Markup] = []
    y = MARGIN + 16.0
    drawn.append(tag("text", decision.title or decision.name, class_="h", x=MARGIN, y=y))
    for line in wrapped(decision.verdict[0] if decision.verdict else "", WIDE - 2 * MARGIN, 7.2):
        y += 20
        drawn.append(tag("text", line, class_="v", x=MARGIN, y=y))
    y += 14
    legend, y = _legend(decision, y)
    right = MARGIN + PLANE_WIDE + GAP
    beside, beside_high = intervals(decision, right, y, WIDE - MARGIN - right)
    plane, plane_high = _plane(decision, y, beside_high)
    y += max(plane_high, beside_high) + 20
    below, below_high = break_evens(decision, MARGIN, y, WIDE - 2 * MARGIN)
    high = y + below_high + MARGIN
    stripes = tag("pattern", tag("path", d="M0 0L0 7", class_="stripe"), id="hatch", width=7, height=7,
                  patternUnits="userSpaceOnUse", patternTransform="rotate(45)")
    return tag("svg", tag("title", f"Who wins where: {decision.title or decision.name}"),
               tag("desc", " ".join(words(decision))), tag("style", Markup(STYLE)), tag("defs", stripes),
               tag("rect", class_="page", width=WIDE, height=high), *drawn, legend, plane, beside, below,
               xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDE} {number(high)}", width=WIDE, height=high,
               role="img") + "\n"


def words(decision: Decision) -> tuple[str, ...]:
    """What the picture shows, in sentences: the verdict, each place, each break-even."""
    return (*decision.verdict, *(sentence(decision, place) for place in decision.places),
            *(even.text for even in decision.break_evens))


def number(value: float) -> str:
    """A coordinate as an attribute."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _legend(decision: Decision, y: float) -> tuple[Markup, float]:
    """Letters, colours and names of the candidates, as many in a line as there is room for; and where it ends."""
    drawn, x = [], float(MARGIN)
    for i, (candidate, told) in enumerate(_entries(decision)):
        wide = 30 + 6.6 * len(told)
        if x > MARGIN and x + wide > WIDE - MARGIN:
            x, y = MARGIN, y + 22
        drawn += [tag("rect", class_=f"s{i % 8}", x=x, y=y, width=16, height=16),
                  tag("text", chr(65 + i), class_="on m", x=x + 8, y=y + 12.5),
                  tag("text", tag("title", candidate), told, x=x + 22, y=y + 12.5)]
        x += wide
    return join(drawn), y + 34


def _entries(decision: Decision) -> Iterator[tuple[str, str]]:
    for one in decision.candidates:
        options = ", ".join(f"{name}={value}" for name, value in one.options.items())
        told = f"{one.name}: {one.machine}" + (f" ({options})" if options else "")
        if one.amount is not None and decision.equal is not None:
            told += f", {quantity_text(one.amount.value, decision.equal.unit)}"
        yield one.name, told


def _plane(decision: Decision, y: float, beside: float) -> tuple[Markup, float]:
    """The cells, as high as what stands beside them allows, and how high all of it is."""
    rows, columns = rows_of(decision), across(decision)
    tall = min(max((beside - 74) / max(len(rows), 1), CELL_HIGH), HIGHEST_CELL)
    wide = (PLANE_WIDE - NAMES_WIDE) / max(len(columns), 1)
    drawn = [tag("text", f"Who wins by {decision.goal.text}", class_="p", x=MARGIN, y=y + 10),
             tag("text", "winner, its lead over the next, share of draws that it wins", class_="soft", x=MARGIN,
                 y=y + 26)]
    top = y + 52
    drawn.append(tag("text", decision.axes[-1].label if decision.axes else "", class_="soft e",
                     x=MARGIN + NAMES_WIDE - 8, y=top - 6))
    drawn += [tag("text", name, class_="soft m", x=MARGIN + NAMES_WIDE + (i + 0.5) * wide, y=top - 6)
              for i, name in enumerate(columns)]
    for r, (name, places) in enumerate(rows):
        at = top + r * tall
        drawn.append(tag("text", fitted(name, NAMES_WIDE - 8, 6.2), class_="e", x=MARGIN + NAMES_WIDE - 8,
                         y=at + tall / 2 + 4))
        drawn += [_cell(decision, place, MARGIN + NAMES_WIDE + c * wide, at, wide, tall)
                  for c, place in enumerate(places)]
    high = top - y + tall * len(rows)
    note = f"Hatched: wins fewer than {percent(SURE)} of {decision.samples} draws. Corner: does not fit there."
    drawn.append(tag("text", note, class_="soft small", x=MARGIN, y=y + high + 16))
    return join(drawn), high + 22


def _cell(decision: Decision, place: Place, x: float, y: float, wide: float, tall: float) -> Markup:
    box, middle = {"x": x + 1, "y": y + 1, "width": wide - 2, "height": tall - 2}, y + tall / 2
    told = tag("title", sentence(decision, place))
    numbers = {one.name: i for i, one in enumerate(decision.candidates)}
    marks = join(_corner(numbers[outcome.candidate], outcome, x + wide - 2 - 12 * i, y + 2)
                 for i, outcome in enumerate(o for o in place.outcomes if o.status != "ran"))
    if place.winner is None:
        what = "tie" if place.tied else "none"
        return tag("g", told, tag("rect", class_="track", **box),
                   tag("text", what, class_="soft m", x=x + wide / 2, y=middle + 4), marks)
    won, stable = numbers[place.winner] % 8, place.stability
    unsure = stable is not None and stable.samples > 0 and stable.share < SURE
    lead = "alone" if place.margin is None else times(place.margin)
    lines = [tag("text", f"{chr(65 + won)} {lead}" if wide >= LEAST_CELL else chr(65 + won),
                 class_=f"on m o{won}", x=x + wide / 2, y=middle - (2 if stable else -4))]
    if stable is not None and stable.samples:
        lines.append(tag("text", percent(stable.share), class_=f"on m small o{won}", x=x + wide / 2, y=middle + 13))
    return tag("g", told, tag("rect", class_=f"s{won}", **box),
               tag("rect", class_="hatch", **box) if unsure else NOTHING, *lines, marks)


def _corner(candidate: int, outcome: Outcome, x: float, y: float) -> Markup:
    """The mark of a candidate that is not there, with the reason."""
    path = f"M{number(x)} {number(y)}h-11l11 11z"
    return tag("path", tag("title", f"{outcome.candidate}: {outcome.why or outcome.status}"),
               class_=f"s{candidate % 8} halo", d=path)
