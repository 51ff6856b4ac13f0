"""What a decision may go by: the figures of a run that candidates are compared in."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from emulation.units import parse


class Objective(NamedTuple):
    """A figure of a run. column: of a sweep's row. unit: of its numbers. more: whether more is better. text: in
    sentences."""

    name: str
    column: str
    unit: str
    more: bool
    text: str


GOODPUT = "goodput"
ENERGY = "joules_per_token"

OBJECTIVES = {objective.name: objective for objective in (
    Objective("output_tokens_per_s", "output_tokens_per_s", "1/s", True, "output tokens a second"),
    Objective("ttft_p50", "ttft.p50_s", "s", False, "TTFT P50"),
    Objective("ttft_p99", "ttft.p99_s", "s", False, "TTFT P99"),
    Objective("tpot_p50", "tpot.p50_s", "s", False, "TPOT P50"),
    Objective("tpot_p99", "tpot.p99_s", "s", False, "TPOT P99"),
    Objective("makespan", "makespan_s", "s", False, "time of the whole work"),
    Objective(GOODPUT, "slo.requests_per_s", "1/s", True, "goodput"),
    Objective(ENERGY, "energy.joules_per_token", "J", False, "joules a token"))}
"""goodput: requests a second that meet the SLO where requests are served; of static batches the output tokens a second
where TTFT P99 and TPOT P99 meet it, and otherwise none."""

TOLD = ("output_tokens_per_s", "ttft_p50", "tpot_p50", "joules_per_token")
"""Figures that are told of every outcome, whatever the objective."""


def limits_s(slo: Any) -> dict[str, float]:
    """An SLO's limits in seconds: ttft, tpot, those that it names."""
    told = {name: getattr(slo, name) for name in ("ttft", "tpot")} if slo is not None else {}
    return {name: float(parse(text, "time")) for name, text in told.items() if text is not None}


def figure(row: Mapping[str, Any], name: str, limits: Mapping[str, float]) -> float | None:
    """A figure of a row; None where the run has none, or did not end. limits: of the SLO, seconds."""
    if row.get("status") != "ok":
        return None
    objective = OBJECTIVES[name]
    if name == GOODPUT and objective.column not in row and "end_to_end.p50_s" not in row:
        met = all((row.get(f"{of}.p99_s") or 0.0) <= most for of, most in limits.items())
        value = row.get("output_tokens_per_s") if met else 0.0
    else:
        value = row.get(objective.column)
    return None if value is None else float(value)


def better(objective: Objective, one: float | None, other: float | None) -> bool:
    """Whether one value beats another; a value beats none."""
    if one is None or other is None:
        return one is not None
    return one > other if objective.more else one < other


def ratio(objective: Objective, one: float, other: float) -> float:
    """How many times better one value is than another: above 1 where it is better; inf where the other is nothing."""
    high, low = (one, other) if objective.more else (other, one)
    if low == 0:
        return 1.0 if high == 0 else float("inf")
    return high / low
