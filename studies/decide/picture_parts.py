"""Parts of a decision's picture: intervals of the objective by place, and where constants change the winner."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cluster.observe.report.markup import NOTHING, Markup, join, tag
from studies.decide.decision import BreakEven, Decision, Goal, Outcome, Sampled
from studies.decide.reading import across, fitted, rows_of
from studies.decide.words import goal_text, quantity_text

PANEL_HIGH, MOST_PANELS, AXIS_WIDE, MOST_TICKS = 120, 6, 66, 6
LOG_FROM = 8.0
"""An axis whose largest value is more than this many times its smallest is a logarithmic one."""
ROW_HIGH, MOST_ROWS, BAR_HIGH = 34, 10, 12
WORDS_WIDE, VALUES_WIDE = 400, 150
HOW_TO_READ = ("one constant alone over its range, the others at the files' values. Thick line: the file's value; gap: "
               "where the winner changes; thin lines: the range, where the change lies beyond")
BEYOND = 1.15
"""How far a bar goes on behind a change that lies beyond the range, so that the other winner is seen."""


class Scale(NamedTuple):
    """An axis: where a value lies (0 to 1), and its ticks."""

    share: Callable[[float], float]
    ticks: tuple[float, ...]


def scale_of(values: Sequence[float]) -> Scale:
    """Logarithmic where values are far apart and all above zero, otherwise from zero."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low > 0 and high / low > LOG_FROM:
        bottom, top = math.log10(low * 0.8), math.log10(high * 1.25)
        ticks = [10.0 ** power * step for power in range(math.floor(bottom), math.ceil(top) + 1) for step in (1, 2, 5)]
        inside = [tick for tick in ticks if bottom <= math.log10(tick) <= top]
        if len(inside) > MOST_TICKS:
            inside = [tick for tick in inside if abs(math.log10(tick) - round(math.log10(tick))) < 1e-9] or inside
        inside = inside[::-(-len(inside) // MOST_TICKS) or 1]
        return Scale(lambda value: (math.log10(value) - bottom) / (top - bottom) if value > 0 else 0.0, tuple(inside))
    top = high * 1.1 or 1.0
    step = 10.0 ** math.floor(math.log10(top / 2))
    step = next(step * factor for factor in (1, 2, 5, 10) if top / (step * factor) <= 4)
    return Scale(lambda value: value / top, tuple(i * step for i in range(int(top / step) + 1)))


def intervals(decision: Decision, x: float, y: float, wide: float) -> tuple[Markup, float]:
    """A panel a row of the plane: each candidate's value, and the stretch from P5 to P95 of the draws; and the
    height of all. All panels have one scale."""
    rows, columns = rows_of(decision), across(decision)
    goal = decision.goal
    head = f"{goal.text[:1].upper()}{goal.text[1:]} ({'more' if goal.more else 'less'} is better)"
    drawn = [tag("text", head, class_="p", x=x, y=y + 10),
             tag("text", f"mark: at the file's values; bar: P5 to P95 of {decision.samples} draws", class_="soft", x=x,
                 y=y + 26)]
    outcomes = [outcome for _, places in rows for place in places for outcome in place.outcomes]
    scale = scale_of([value for outcome in outcomes for value in _values(outcome)])
    left, at = x + AXIS_WIDE, y + 46.0
    step = (wide - AXIS_WIDE) / max(len(columns), 1)
    for name, places in rows[:MOST_PANELS]:
        foot = at + PANEL_HIGH
        drawn.append(tag("text", fitted(name, wide - AXIS_WIDE, 6.6), x=left + 6, y=at + 14, class_="halo"))
        for tick in scale.ticks:
            level = foot - scale.share(tick) * PANEL_HIGH
            drawn += [tag("line", class_="rule", x1=left, x2=x + wide, y1=level, y2=level),
                      tag("text", _tick(goal, tick), class_="soft e small", x=left - 6, y=level + 3.5)]
        drawn += [_spread(outcome, i, len(place.outcomes), left + c * step, step, foot, scale, decision)
                  for c, place in enumerate(places) for i, outcome in enumerate(place.outcomes)]
        at = foot + 16
    drawn += [tag("text", name, class_="soft m", x=left + (c + 0.5) * step, y=at) for c, name in enumerate(columns)]
    if decision.axes:
        drawn.append(tag("text", decision.axes[-1].label, class_="soft e", x=left - 6, y=at))
    if len(rows) > MOST_PANELS:
        at += 18
        drawn.append(tag("text", f"{len(rows) - MOST_PANELS} more rows of the plane are not drawn", class_="soft small",
                         x=left, y=at))
    return join(drawn), at - y + 8


def _tick(goal: Goal, value: float) -> str:
    """A tick of the axis, with the unit of a rate."""
    return goal_text(goal, value) + ("/s" if goal.unit == "1/s" else "")


def _values(outcome: Outcome) -> list[float]:
    return [] if outcome.value is None else [outcome.value, *(
        (outcome.interval.p5, outcome.interval.p95) if outcome.interval is not None and outcome.interval.samples
        else ())]


def _spread(outcome: Outcome, number: int, of: int, x: float, wide: float, foot: float, scale: Scale,
            decision: Decision) -> Markup:
    """One candidate at one place."""
    if outcome.value is None:
        return NOTHING
    middle = x + wide * (0.5 + (number + 0.5 - of / 2) * min(0.28, 0.8 / of))
    goal, told = decision.goal, f"{outcome.candidate}: {goal_text(decision.goal, outcome.value)}"
    drawn = []
    if outcome.interval is not None and outcome.interval.samples:
        low, high = (foot - scale.share(v) * PANEL_HIGH for v in (outcome.interval.p5, outcome.interval.p95))
        drawn.append(tag("rect", class_=f"s{number % 8}", x=middle - 3, y=min(low, high), width=6,
                         height=max(abs(low - high), 1.5), opacity="0.55"))
        told += f" (P5 {goal_text(goal, outcome.interval.p5)}, P95 {goal_text(goal, outcome.interval.p95)})"
    level = foot - scale.share(outcome.value) * PANEL_HIGH
    drawn.append(tag("line", class_=f"l{number % 8}", x1=middle - 7, x2=middle + 7, y1=level, y2=level))
    return tag("g", tag("title", told), *drawn)


def break_evens(decision: Decision, x: float, y: float, wide: float) -> tuple[Markup, float]:
    """A bar a break-even over its constant's range, in the colour of who wins there; the values that swing most."""
    rows = told_first(decision)
    drawn = [tag("text", "Where the winner changes", class_="p", x=x, y=y + 10)]
    if not rows:
        none = "nowhere: no constant alone changes a winner" if decision.constants else "no constant was varied"
        return join([*drawn, tag("text", none, class_="soft", x=x, y=y + 30)]), 40.0
    drawn.append(tag("text", HOW_TO_READ, class_="soft", x=x, y=y + 26))
    named = {constant.name: constant for constant in decision.constants}
    at = y + 44.0
    for even in rows:
        drawn.append(_bar(decision, even, named[even.constant], x, at, wide))
        at += ROW_HIGH
    more = sum(even.value is not None for even in decision.break_evens) - len(rows)
    if more:
        drawn.append(tag("text", f"{more} more in decision.json", class_="soft small", x=x, y=at + 8))
        at += 16
    return join(drawn), at - y + 4


def told_first(decision: Decision) -> list[BreakEven]:
    """The break-evens that are drawn: within their ranges first, then by how much the constant swings, a constant's
    own in the order of places and at most two of them."""
    swings = {constant.name: constant.swing or 1.0 for constant in decision.constants}
    found = [even for even in decision.break_evens if even.value is not None and even.constant in swings]
    found.sort(key=lambda even: (even.where != "within", -swings[even.constant]))
    of: dict[str, int] = {}
    out: list[BreakEven] = []
    for even in found:
        of[even.constant] = of.get(even.constant, 0) + 1
        if of[even.constant] <= 2 and len(out) < MOST_ROWS:
            out.append(even)
    return out


def _whose(constant: Sampled) -> str:
    """A constant as it is told, and whose it is."""
    whose = ", ".join(dict.fromkeys(member.candidate for member in constant.members))
    return f"{whose}: {constant.label}" if whose else constant.label


def _placing(low: float, high: float, left: float, wide: float) -> Callable[[float], float]:
    """Where a value lies between low and high: on a scale of logarithms where they are far apart."""
    if low > 0 and high / low > LOG_FROM:
        return lambda value: left + wide * math.log(value / low) / math.log(high / low)
    return lambda value: left + wide * (value - low) / ((high - low) or 1.0)


def _bar(decision: Decision, even: BreakEven, constant: Sampled, x: float, y: float, wide: float) -> Markup:
    """One constant's range; beyond it, as far as its break-even is away."""
    numbers = {one.name: i for i, one in enumerate(decision.candidates)}
    value = even.value or 0.0
    low, high = min(constant.low, value / BEYOND), max(constant.high, value * BEYOND)
    if even.where == "within":
        low, high = constant.low, constant.high
    left, across_wide = x + WORDS_WIDE, wide - WORDS_WIDE - VALUES_WIDE
    place = _placing(low, high, left, across_wide)
    change = place(value)
    below, above = (even.other, even.winner) if even.keeps == "above" else (even.winner, even.other)
    drawn = [tag("title", even.text),
             tag("text", fitted(_whose(constant), WORDS_WIDE - 10, 6.6), x=x, y=y + 5),
             tag("text", fitted(f"at {decision.places[even.place].label or 'the one place'}"
                                + ("" if even.where == "within" else ", beyond its range"), WORDS_WIDE - 10, 6.0),
                 class_="soft small", x=x, y=y + 18)]
    for name, start, end in ((below, left, change - 1.5), (above, change + 1.5, left + across_wide)):
        if end - start > 0:
            colour = f"s{numbers[name] % 8}" if name in numbers else "track"
            drawn.append(tag("rect", class_=colour, x=start, y=y - 4, width=end - start, height=BAR_HIGH))
            if end - start > 16 and name in numbers:
                drawn.append(tag("text", chr(65 + numbers[name]), class_="on m small", x=(start + end) / 2,
                                 y=y - 4 + BAR_HIGH - 2.5))
    if even.where != "within":
        drawn += [tag("line", class_="edge", x1=place(edge), x2=place(edge), y1=y - 7, y2=y + BAR_HIGH - 1)
                  for edge in (constant.low, constant.high)]
    drawn += [tag("line", class_="tick", x1=place(constant.value), x2=place(constant.value), y1=y - 7,
                  y2=y + BAR_HIGH - 1),
              tag("text", quantity_text(low, constant.unit), class_="soft small", x=left, y=y + 20),
              tag("text", quantity_text(high, constant.unit), class_="soft small e", x=left + across_wide, y=y + 20),
              tag("text", f"changes at {quantity_text(value, constant.unit)}", x=left + across_wide + 10, y=y + 4),
              tag("text", f"file: {quantity_text(constant.value, constant.unit)}", class_="soft small",
                  x=left + across_wide + 10, y=y + 18)]
    return tag("g", *drawn)
