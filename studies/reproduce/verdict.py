"""The verdict on a claim: what is published beside what is found here, and what explains the difference."""

from dataclasses import asdict, dataclass
from typing import Any

from studies.reproduce.claims import Claim
from studies.reproduce.measure import Figure, Measure
from studies.reproduce.sweeping import Sweep

PASS, FAIL, IN_RANGE, OUT_OF_RANGE, UNKNOWN = "PASS", "FAIL", "IN RANGE", "OUT OF RANGE", "NOT IDENTIFIABLE"
WORST_FIRST = (FAIL, OUT_OF_RANGE, UNKNOWN, IN_RANGE, PASS)
WITHIN = 0.15
"""How far a figure may be off that rests on no assumption (relative)."""

ROUNDED = 0.01
"""Published figures are rounded: one that lies this share of itself outside a span is taken to be in it."""

SHOWN = 3
"""How many of the choices that move a figure the reason names."""


@dataclass(frozen=True)
class Row:
    """A claim and what became of it. low, high: what the sweeps of assumed constants span. sweep: choice -> value and
    figure. beside: the figure on another reading of the machine, and what that is."""

    system: str
    id: str
    claim: str
    published: Figure
    unit: str
    tag: str
    ours: Figure
    ratio: float | None
    low: float | None
    high: float | None
    assumed_parameters: tuple[str, ...]
    verdict: str
    reason: str
    routing: str
    sweep: dict[str, list[dict[str, Any]]]
    beside: Figure = None
    beside_title: str = ""

    def as_json(self) -> dict[str, Any]:
        """The row as it is written."""
        return asdict(self)


def judge(system: str, claim: Claim, measure: Measure, ours: Figure, sweep: Sweep, *, failed: str = "",
          beside: Figure = None) -> Row:
    """The row of a claim. failed: why a run that it needs failed."""
    spans = _spans(ours, sweep)
    low, high = (min(spans), max(spans)) if spans and sweep.matters else (None, None)
    verdict, told = _verdict(claim, ours, sweep, low, high)
    if failed:
        verdict, told = FAIL, f"a run that it needs failed: {failed}"
    ratio = None
    if claim.published and ours is not None and not claim.is_trend and not isinstance(ours, bool):
        ratio = ours / float(claim.published)
    tried = {name: [{"value": one.value, "ours": one.figure} for one in tried]
             for name, tried in sweep.tried.items() if name in sweep.matters}
    reason = ". ".join(part.rstrip(".") for part in (told, measure.reason) if part)
    return Row(system, claim.id, claim.claim, claim.published, claim.unit, claim.tag, ours, ratio, low, high,
               sweep.matters, verdict, reason, measure.routing, tried, beside, measure.beside_title)


def _spans(ours: Figure, sweep: Sweep) -> list[float]:
    """Ours, and what the sweeps make of it. They run quick cases, whose figure may lie elsewhere: what a choice changes
    there is taken as a factor, or as a difference where a figure is not above zero."""
    if ours is None or isinstance(ours, bool):
        return []
    found = [float(one) for one in sweep.figures() if one is not None]
    base = ours if sweep.base is None else float(sweep.base)
    if min(ours, base, *found) > 0:
        return [ours, *(ours * one / base for one in found)]
    return [ours, *(ours + one - base for one in found)]


def _verdict(claim: Claim, ours: Figure, sweep: Sweep, low: float | None, high: float | None) -> tuple[str, str]:
    if ours is None or claim.published is None:
        return UNKNOWN, ""
    if claim.is_trend:
        return _of_trend(bool(ours) == claim.published, claim, sweep)
    published = float(claim.published)
    error = abs(float(ours) - published) / abs(published) if published else abs(float(ours))
    if low is None or high is None:
        return (PASS, "") if round(error, 9) <= WITHIN else (
            FAIL, f"off by {error:.0%}, and no assumed constant moves it")
    if low - ROUNDED * abs(published) <= published <= high + ROUNDED * abs(published):
        return IN_RANGE, f"between {low:.3g} and {high:.3g} as {_names(sweep)} vary over their ranges"
    return OUT_OF_RANGE, f"{low:.3g} to {high:.3g} at most, as {_names(sweep)} vary over their ranges"


def _of_trend(holds: bool, claim: Claim, sweep: Sweep) -> tuple[str, str]:
    if not sweep.matters:
        return (PASS, "") if holds else (FAIL, "it does not hold, and no assumed constant brings it about")
    other = [f"{name}={one.value}" for name, tried in sweep.tried.items() for one in tried
             if one.figure is not None and (bool(one.figure) == claim.published) != holds]
    told = ", ".join(other[:SHOWN]) + (f" and {len(other) - SHOWN} more" if len(other) > SHOWN else "")
    return IN_RANGE, f"holds, but not with {told}" if holds else f"does not hold as committed, but with {told}"


def _names(sweep: Sweep) -> str:
    names = list(sweep.matters)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
