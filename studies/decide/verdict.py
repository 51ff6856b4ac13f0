"""A decision in sentences: who wins where, how surely, what would change it, what does not fit."""

from collections.abc import Sequence

from studies.decide.decision import Axis, BreakEven, Decision, Goal, Place, Sampled
from studies.decide.words import constant_text, goal_text, names_text, quantity_text, runs_of, winner_text

SURE = 0.9
"""The share of draws from which on a winner is called sure."""


def verdict(decision: Decision) -> tuple[str, ...]:
    """The answer first, then where, how surely, what it turns on, what does not fit."""
    return tuple(filter(None, (answer(decision), *where(decision.axes, decision.places), sureness(decision),
                               *turns_on(decision), *unfit(decision.places))))


def answer(decision: Decision) -> str:
    """Who wins, in one sentence."""
    places, goal = decision.places, decision.goal
    if len(decision.candidates) == 1:
        return f"{decision.candidates[0].name} is the only candidate, so nothing is compared: only its best settings " \
            "are told."
    if len(places) == 1:
        return _single(places[0], goal)
    most = "most" if goal.more else "least"
    count = {one.name: sum(place.winner == one.name for place in places) for one in decision.candidates}
    ranked = sorted((name for name in count if count[name]), key=lambda name: -count[name])
    ties = sum(bool(place.tied) for place in places)
    nobody = sum(place.winner is None and not place.tied for place in places)
    parts = [f"{name} at {count[name]}" if i else
             f"{name} has the {most} {goal.text} at {count[name]} of {len(places)} places"
             for i, name in enumerate(ranked)]
    parts += [f"a tie at {ties}"] if ties else []
    parts += [f"nobody at {nobody}"] if nobody else []
    if len(ranked) == 1 and count[ranked[0]] == len(places):
        return f"{ranked[0]} has the {most} {goal.text} at all {len(places)} places."
    if not ranked:
        return f"Nowhere does one candidate alone have the {most} {goal.text}: {names_text(parts)}."
    return f"{', '.join(parts)}."


def _single(place: Place, goal: Goal) -> str:
    most = "most" if goal.more else "least"
    if place.winner is None:
        return (f"{names_text(place.tied)} tie: {goal_text(goal, place.of(place.tied[0]).value)} {goal.text} each."
                if place.tied else "Nobody wins: " + ("no candidate went through." if all(
                    one.value is None for one in place.outcomes) else f"no candidate has any {goal.text}."))
    best = place.of(place.winner)
    head = f"{place.winner} has the {most} {goal.text}: {goal_text(goal, best.value)}"
    others = [one for one in place.outcomes if one.value is not None and one.candidate != place.winner]
    if not others:
        return head + (", and is the only one that went through." if len(place.outcomes) > 1 else ".")
    second = sorted(others, key=lambda one: (-1 if goal.more else 1) * (one.value or 0.0))[0]
    by = f", {place.margin:.3g} times better than {second.candidate}" if place.margin is not None else \
        f", beside {second.candidate}"
    return f"{head}{by} with {goal_text(goal, second.value)}."


def where(axes: Sequence[Axis], places: Sequence[Place]) -> list[str]:
    """A sentence for each row of the plane: who wins along the last axis."""
    if len(places) == 1 or len({winner_text(place) for place in places}) == 1:
        return []
    last = axes[-1]
    rows: dict[str, list[tuple[str, str]]] = {}
    for place in places:
        others = [place.at[axis.path] if i == 0 else f"{axis.label} {place.at[axis.path]}"
                  for i, axis in enumerate(axes[:-1])]
        rows.setdefault(", ".join(others), []).append((place.at[last.path], winner_text(place)))
    return [f"{head + ': ' if head else ''}"
            + ", ".join(f"{winner} at {last.label} {span}" for span, winner in runs_of(row)) + "."
            for head, row in rows.items()]


def sureness(decision: Decision) -> str:
    """How sure that is, in one sentence."""
    known = [(place, place.stability) for place in decision.places if place.stability is not None
             and place.winner is not None]
    if not known or decision.stability is None:
        return ""
    least, told = min(known, key=lambda one: one[1].share)
    drawn = [f"{len(decision.constants)} constants"] * bool(decision.constants) + ["routing"] * decision.routing
    of = f"{decision.samples} draws of {' and '.join(drawn)}"
    if len(decision.places) == 1:
        return (f"{least.winner} wins in {told.share:.0%} of {of} (95 % interval of that share: {told.low:.0%} to "
                f"{told.high:.0%}).")
    sure = sum(one.share >= SURE for _, one in known)
    low = f"; least sure is {least.label}, where {least.winner} wins in {told.share:.0%} of them ({told.low:.0%} to " \
          f"{told.high:.0%})" if told.share < 1 else ""
    return (f"Over {of} the same candidate wins in {decision.stability:.0%} of all cases, and in {SURE:.0%} or more of "
            f"them at {sure} of {len(known)} places{low}.")


def turns_on(decision: Decision) -> list[str]:
    """The constants that change a winner within their range, those of most places first; at most three."""
    found = [one for one in decision.constants if one.wins_change_at]
    if not decision.break_evens or not any(place.winner for place in decision.places):
        return []
    if not found:
        return ["No constant alone changes a winner within its range."]
    found.sort(key=lambda one: (-len(one.wins_change_at), -(one.swing or 1.0)))
    first = next((one for one in decision.break_evens
                  if one.constant == found[0].name and one.where == "within"), None)
    names = [f"{one.label} (at {len(one.wins_change_at)})" for one in found]
    return [f"{len(found)} of {len(decision.constants)} constants change a winner alone within their range: "
            + names_text([*names[:3], *([f"{len(names) - 3} more"] if len(names) > 3 else [])]) + ".",
            *([first.text] if first is not None else [])]


def unfit(places: Sequence[Place]) -> list[str]:
    """What does not fit or go through, by candidate: at how many places, and the first sentence."""
    out = []
    for name in dict.fromkeys(one.candidate for place in places for one in place.outcomes):
        for status, text in (("unfit", "does not fit"), ("failed", "does not go through")):
            at = [(place, one) for place in places for one in place.outcomes
                  if one.candidate == name and one.status == status]
            if at:
                many = f" at {len(at)} of {len(places)} places" if len(places) > 1 else ""
                out.append(f"{name} {text}{many}: {at[0][1].why}")
    return out


def break_even_text(place: str, constant: Sampled, told: BreakEven, beyond: float) -> str:
    """The sentence of a break-even."""
    head = f"{place}: " if place != "everywhere" else ""
    if told.value is None:
        further = f" and up to {beyond:g} times beyond it" if beyond > 1 else ""
        return f"{head}{told.winner} wins whatever {constant_text(constant)} is, within its range{further}."
    far = "" if told.where == "within" else ", which lies outside its range"
    return (f"{head}{told.winner} wins while {constant_text(constant)} is {told.keeps} "
            f"{quantity_text(told.value, constant.unit)}{far}; then {told.other or 'it no longer'} does.")
