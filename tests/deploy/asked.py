"""Panels' queries as Grafana would ask them, of a Prometheus of a test."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from deploy.grafana.source.__main__ import BOARDS
from deploy.grafana.source.panels import Panel
from tests.deploy.prometheus_rig import Prometheus
from tests.deploy.told import Answer, Key, complaint


class Asked(NamedTuple):
    """When and of what panels are asked: the end of their range, its length, and the values of variables."""

    at_s: float | None
    range_s: int
    variables: Mapping[str, str]


def panel_of(name: str) -> Panel:
    (found,) = [panel for board in BOARDS for panel in board.panels if f"{board.uid}/{panel.title}" == f"moelab-{name}"]
    return found


def every_panel() -> set[str]:
    return {f"{board.uid.removeprefix('moelab-')}/{panel.title}" for board in BOARDS for panel in board.panels}


def answers(prometheus: Prometheus, panel: Panel, asked: Asked) -> list[dict[Key, float]]:
    """What each query of a panel answers, by the labels beside run and policy."""
    out = []
    for query in panel.queries:
        expr = query.expr.replace("$__rate_interval", f"{asked.range_s}s").replace("$__range", f"{asked.range_s}s")
        for name, value in asked.variables.items():
            expr = expr.replace(f"${name}", value)
        assert "$" not in expr
        found: dict[Key, float] = {}
        for labels, value in prometheus.ask(expr, asked.at_s):
            key = tuple(value for name, value in sorted(labels.items()) if name not in {"run", "policy"})
            assert key not in found, (expr, labels)
            found[key] = value
        out.append(found)
    return out


def differences(prometheus: Prometheus, wanted: Mapping[str, Sequence[Answer]],
                asked: Asked) -> tuple[list[str], set[str]]:
    """Panels whose answers differ from what must be, and those that were asked."""
    wrong, seen = [], set()
    for board in BOARDS:
        for panel in board.panels:
            name = f"{board.uid.removeprefix('moelab-')}/{panel.title}"
            if name not in wanted:
                continue
            seen.add(name)
            for number, (must, found) in enumerate(zip(wanted[name], answers(prometheus, panel, asked), strict=True)):
                if said := complaint(must, found):
                    wrong.append(f"{name}, query {number}: {said}")
    return wrong, seen


def groups_of(prometheus: Prometheus, of: str, asked: Asked) -> list[str]:
    """The groups of layers that the load is told by."""
    load = f"last_over_time(moelab_expert_load_tokens_total{{{of}}}[{asked.range_s}s])"
    found = prometheus.ask(f"group by (group) ({load})", asked.at_s)
    return [value.labels["group"] for value in found]
