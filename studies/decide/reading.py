"""How the numbers and places of a decision read in its picture. Pure functions."""

import math
import textwrap

from studies.decide.decision import Decision, Outcome, Place
from studies.decide.words import goal_text

MOST_MARGIN = 1000.0
"""A lead beyond this is told as more than it."""


def times(margin: float) -> str:
    """A lead as a factor."""
    if not math.isfinite(margin) or margin > MOST_MARGIN:
        return f">{MOST_MARGIN:.0f}x"
    return f"{margin:.2f}x" if margin < 10 else f"{margin:.0f}x"


def percent(share: float) -> str:
    """A share in whole percent; only all of it is 100 %."""
    return f"{min(round(100 * share), 99 if share < 1 else 100)} %"


def wrapped(line: str, wide: float, letter: float) -> list[str]:
    """A line in pieces that are at most so wide, at so many pixels a letter."""
    return textwrap.wrap(line, max(int(wide / letter), 8))


def fitted(line: str, wide: float, letter: float) -> str:
    """A line that is cut where there is no more room, with a mark that it was."""
    most = max(int(wide / letter), 2)
    return line if len(line) <= most else line[:most - 1] + "…"


def across(decision: Decision) -> tuple[str, ...]:
    """The columns of the plane: the values of its last axis; a plane without axes has one."""
    return decision.axes[-1].values if decision.axes else ("",)


def rows_of(decision: Decision) -> list[tuple[str, tuple[Place, ...]]]:
    """The rows of the plane, each with its name: all axes but the last, values joined."""
    wide = len(across(decision))
    out = []
    for start in range(0, len(decision.places), wide):
        places = decision.places[start:start + wide]
        out.append((", ".join(places[0].at[axis.path] for axis in decision.axes[:-1]), places))
    return out


def sentence(decision: Decision, place: Place) -> str:
    """A place in a sentence: who wins, by how much and how surely, or why nobody does."""
    where = f"{place.label}: " if place.label else ""
    if place.winner is None:
        what = f"{' and '.join(place.tied)} tie" if place.tied else "none of the candidates goes through"
    else:
        best = place.of(place.winner)
        what = f"{place.winner} wins with {goal_text(decision.goal, best.value)}"
        what += f" ({best.setting.label})" if best.setting is not None else ""
        what += f", {times(place.margin)} the next" if place.margin is not None else ", alone"
        if place.stability is not None and place.stability.samples:
            what += f", in {percent(place.stability.share)} of {place.stability.samples} draws"
    missing = [_missing(outcome) for outcome in place.outcomes if outcome.status != "ran"]
    return f"{where}{'; '.join([what, *missing])}."


def _missing(outcome: Outcome) -> str:
    return f"{outcome.candidate} {'does not fit' if outcome.status == 'unfit' else 'did not go through'}"
