"""Amounts of a decision as they are told: three digits, in the unit that reads best."""

from cluster.observe.energy_table import joules_text
from cluster.observe.table import number_text, time_text
from studies.decide.decision import Decision, Goal, Place, Sampled

LARGE = (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0))
SMALL = (("", 1.0), ("m", 1e-3), ("µ", 1e-6), ("n", 1e-9), ("p", 1e-12))


def quantity_text(value: float, unit: str) -> str:
    """A constant's value, in SI, with three digits."""
    if not unit or unit == "USD":
        return f"{value:,.4g} {unit}".strip() if abs(value) < 1e4 else f"{value:,.0f} {unit}".strip()
    prefixes = SMALL if unit == "s" or unit.startswith("J") else LARGE
    prefix, scale = next(((p, s) for p, s in prefixes if abs(value) >= s * 0.9995), prefixes[-1])
    number = f"{value / scale:.3g}"
    return f"{float(number):g} {prefix}{unit}"


def goal_text(goal: Goal, value: float | None) -> str:
    """A value of the objective."""
    if value is None:
        return "-"
    if goal.unit == "s":
        return time_text(value)
    return joules_text(value) if goal.unit == "J" else number_text(value)


def times_text(margin: float | None) -> str:
    """A margin, as how many times better."""
    return "" if margin is None else f"{margin:.3g}x"


def constant_text(constant: Sampled) -> str:
    """A constant with its value, kind and range: ndp memory_bandwidth (paper: 512 GB/s, range 200 GB/s to 600 GB/s)."""
    first = constant.members[0]
    whose = list(dict.fromkeys(member.candidate for member in constant.members))
    of = "" if constant.label.startswith(f"{whose[0]} ") and len(whose) == 1 else f" of {names_text(whose)}"
    return f"{constant.label}{of} ({first.kind}: {first.value}, range {first.range[0]} to {first.range[1]})"


def names_text(names: "tuple[str, ...] | list[str]") -> str:
    """a, b and c."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else "nobody"


def runs_of(values: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Neighbours with the same winner as one: [(value, winner)] -> [("1 to 8", winner)]."""
    out: list[list[str]] = []
    for value, winner in values:
        if out and out[-1][2] == winner:
            out[-1][1] = value
        else:
            out.append([value, value, winner])
    return [(first if first == last else f"{first} to {last}", winner) for first, last, winner in out]


def winner_text(place: Place) -> str:
    """Who wins at a place, in a word or two."""
    if place.winner is not None:
        return place.winner
    if place.tied:
        return f"a tie of {names_text(place.tied)}"
    return "nobody"


def most_text(decision: Decision) -> str:
    """the most output tokens a second, the least TTFT P50."""
    return f"the {'most' if decision.goal.more else 'least'} {decision.goal.text}"
