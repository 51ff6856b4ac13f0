"""The frontier: settings that no other beats in throughput (or goodput), TTFT and TPOT at once."""

from collections.abc import Mapping, Sequence
from typing import Any

from studies.decide.decision import Front
from studies.decide.objectives import GOODPUT, figure, limits_s
from studies.decide.search import Found, Key
from studies.decide.space import value_text
from studies.decide.study import Decide

CHOSEN_BY_US = ("precision", "workload.batch", "workload.serving.max_batch", "workload.serving.token_budget")
"""Axes that are a choice of whoever serves. Along the others work differs, and what lies there is not compared."""


def frontier(study: Decide, places: Sequence[Mapping[str, Any]], found: Mapping[Key, Found]) -> tuple[Front, ...]:
    """The non-dominated of all settings that were run, over candidates, policies, batches and precisions."""
    limits = limits_s(study.slo)
    groups: dict[str, list[tuple[Front, tuple[float, ...]]]] = {}
    for (place, name), one in found.items():
        at = {path: value_text(value) for path, value in places[place].items()}
        group = repr([value for path, value in at.items() if path not in CHOSEN_BY_US])
        for i in one.ranked(True):
            row = one.rows[i]
            rate, ttft, tpot = (figure(row, name, limits) for name in ("output_tokens_per_s", "ttft_p50", "tpot_p50"))
            if rate is None or ttft is None or tpot is None:
                continue
            goodput = figure(row, GOODPUT, limits) if study.objective == GOODPUT else None
            front = Front(candidate=name, at=at, setting=one.choices[i].told(), output_tokens_per_s=rate,
                          goodput=goodput, ttft_p50_s=ttft, tpot_p50_s=tpot)
            groups.setdefault(group, []).append((front, (-(rate if goodput is None else goodput), ttft, tpot)))
    return tuple(front for rows in groups.values() for front, cost in rows
                 if not any(_dominates(other, cost) for _, other in rows))


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
