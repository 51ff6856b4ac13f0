"""A decision for a terminal: its sentences, and tables of places, constants, break-evens and the frontier."""

from rich.console import Group
from rich.table import Table

from cluster.observe.table import bytes_text, number_text, percent_text, time_text
from studies.decide.decision import Decision, Outcome
from studies.decide.verdict import SURE
from studies.decide.words import goal_text, quantity_text, times_text, winner_text

MOST_CONSTANTS, MOST_BREAK_EVENS, MOST_FRONT = 10, 12, 12


def shown(decision: Decision) -> Group:
    """All of it, the verdict first."""
    parts = [_candidates(decision), _places(decision), _settings(decision)]
    parts += [_constants(decision)] if decision.constants else []
    within = [one.text for one in decision.break_evens if one.where == "within"]
    beyond = [one.text for one in decision.break_evens if one.where == "beyond"]
    told = [*within, *beyond][:MOST_BREAK_EVENS]
    if told:
        left = len(within) + len(beyond) - len(told)
        told = ["break-even values, one constant at a time", *(f"  {text}" for text in told),
                *([f"  and {left} more in decision.json"] if left else [])]
    parts += [_frontier(decision)] if decision.frontier else []
    return Group(*decision.verdict, "", *parts, *told)


def _table(title: str, *heads: str, left: int = 1) -> Table:
    out = Table(title=title, title_justify="left")
    for i, head in enumerate(heads):
        out.add_column(head, justify="left" if i < left else "right")
    return out


def _candidates(decision: Decision) -> Table:
    equal = decision.equal
    out = _table("candidates" + (f", equal by {equal.by}: {quantity_text(equal.target, equal.unit)} within "
                                 f"{equal.within:.0%}" if equal else ""),
                 "candidate", "machine", "options", "policies", "memory", *([equal.by] if equal else []), left=4)
    for one in decision.candidates:
        options = ", ".join(f"{name}={value}" for name, value in one.options.items())
        amount = [f"{quantity_text(one.amount.value, equal.unit)} [{quantity_text(one.amount.low, equal.unit)} .. "
                  f"{quantity_text(one.amount.high, equal.unit)}]"] if equal and one.amount else []
        out.add_row(one.name, one.machine, options, ", ".join(one.policies), bytes_text(one.memory_bytes), *amount)
    return out


def _places(decision: Decision) -> Table:
    out = _table(f"{decision.goal.text}, P5 .. P95 of {decision.samples} draws", "place",
                 *(one.name for one in decision.candidates), "winner", "margin", "wins in", "95 % of that")
    for place in decision.places:
        stable = place.stability
        out.add_row(place.label, *(_outcome(decision, one) for one in place.outcomes), winner_text(place),
                    times_text(place.margin),
                    "" if stable is None else percent_text(stable.share) + ("" if stable.share >= SURE else " ?"),
                    "" if stable is None else f"{stable.low:.0%} .. {stable.high:.0%}")
    return out


def _outcome(decision: Decision, one: Outcome) -> str:
    if one.value is None:
        return "does not fit" if one.status == "unfit" else "failed"
    text = goal_text(decision.goal, one.value)
    if one.interval is None:
        return text
    failed = f", {one.interval.failed} failed" if one.interval.failed else ""
    ends = [goal_text(decision.goal, end) for end in (one.interval.p5, one.interval.p95)]
    return f"{text} [{' .. '.join(ends)}{failed}]"


def _settings(decision: Decision) -> Table:
    """The settings that were found, places with the same ones as one line."""
    out = _table("best settings found", "candidate", "setting", "runs tried", "places", left=2)
    rows: dict[tuple[str, str, str], list[str]] = {}
    for place in decision.places:
        for one in place.outcomes:
            if one.setting is not None:
                tried = f"{one.tried}, all" if one.exhaustive else f"{one.tried} (TPE)"
                rows.setdefault((one.candidate, one.setting.label, tried), []).append(place.label)
    for (name, label, tried), labels in sorted(rows.items()):
        out.add_row(name, label, tried, _few(labels, len(decision.places)))
    return out


def _few(labels: list[str], count: int) -> str:
    if len(labels) == count:
        return "all"
    return "; ".join(labels[:3]) + (f"; {len(labels) - 3} more" if len(labels) > 3 else "")


def _constants(decision: Decision) -> Table:
    count = len(decision.constants)
    out = _table(f"what matters most: {min(count, MOST_CONSTANTS)} of {count} constants that may be off",
                 "constant", "of", "kind", "value", "range", "moves the margin by up to", "changes winners", left=3)
    for one in decision.constants[:MOST_CONSTANTS]:
        first = one.members[0]
        at = "" if one.swing_at is None else f" ({decision.places[one.swing_at].label})"
        out.add_row(one.label, ", ".join(dict.fromkeys(member.candidate for member in one.members)), first.kind,
                    first.value, f"{first.range[0]} .. {first.range[1]}",
                    "-" if one.swing is None else f"{one.swing:.2f}x{at}",
                    f"at {len(one.wins_change_at)}" if one.wins_change_at else "no")
    return out


def _frontier(decision: Decision) -> Table:
    goodput = any(one.goodput is not None for one in decision.frontier)
    out = _table("frontier: none is beaten in all of these at once", "candidate", "setting", "place", "tokens out/s",
                 *(["goodput"] if goodput else []), "TTFT P50", "TPOT P50", left=3)
    labels = {repr(place.at): place.label for place in decision.places}
    ranked = sorted(decision.frontier, key=lambda one: -one.output_tokens_per_s)
    for one in ranked[:MOST_FRONT]:
        out.add_row(one.candidate, one.setting.label, labels[repr(one.at)], number_text(one.output_tokens_per_s),
                    *([number_text(one.goodput)] if goodput else []), time_text(one.ttft_p50_s),
                    time_text(one.tpot_p50_s))
    if len(ranked) > MOST_FRONT:
        out.caption = f"and {len(ranked) - MOST_FRONT} more in decision.json"
    return out
