"""Every panel's query on a live Prometheus: what it answers is what result.json, or the served machine, says."""

import json
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cluster.config.load import validate
from cluster.config.run import RunConfig
from cluster.observe.metrics.over_time import SINCE_MS, dilation_of, over_time
from cluster.observe.metrics.text import openmetrics
from cluster.observe.result import Result
from cluster.run import compare, run
from deploy.grafana.source.__main__ import BOARDS
from deploy.grafana.source.panels import Board, Panel
from tests.cluster.serve.http_rig import behind_http
from tests.cluster.serve.serve_rig import config as serving
from tests.deploy.prometheus_rig import Prometheus, blocks, started
from tests.deploy.told import Answer, Key, complaint, expected, of_machine, of_result

pytestmark = pytest.mark.slow

MACHINE = {"name": "edge-gpu-ndp", "options": {"units": 2}}


class Asked(NamedTuple):
    """When and of what panels are asked: the end of their range, its length, and the values of variables."""

    at_s: float | None
    range_s: int
    variables: Mapping[str, str]


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


def differences(prometheus: Prometheus, wanted: Mapping[str, Sequence[Answer]], asked: Asked,
                boards: Sequence[Board] = BOARDS) -> tuple[list[str], set[str]]:
    """Panels whose answers differ from what must be, and those that were asked."""
    wrong, seen = [], set()
    for board in boards:
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
    found = prometheus.ask(f"group by (group) (last_over_time(moelab_expert_load_tokens_total{{{of}}}[{asked.range_s}s]))",
                           asked.at_s)
    return [value.labels["group"] for value in found]


# A served machine


def complete(door: str, model: str, prompt: str, tokens: int) -> None:
    body = json.dumps({"model": model, "prompt": prompt, "max_tokens": tokens}).encode()
    asked = urllib.request.Request(f"{door}/v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        assert answer.status == 200


def test_panels_show_what_a_served_machine_has_counted(tmp_path: Path) -> None:
    served = serving(policy={"name": "lru_prefetch", "parameters": {"slots": 3}}, serving={"max_batch": 4, "token_budget": 32})
    with behind_http(served, http_port=0) as behind:
        address = behind.url.removeprefix("http://")
        with started(tmp_path / "data", {"moelab-serve": address}) as prometheus:
            prometheus.until('moelab_machine_state{state="ready"} == 1')
            for number in range(6):
                complete(behind.url, behind.machine.model, "def read_lines(path): " * (number + 1), 8 + number)
            told = of_machine(behind.machine)
            ended = f"moelab_requests_total{{outcome='length'}} == {told.requests['length']}"
            (seen_s,) = prometheus.until(f"timestamp({ended})")
            asked = Asked(seen_s.value, 120, {"run": ".+", "policy": ".+"})
            wanted = expected(told, groups_of(prometheus, "", asked))
            wanted |= {
                "machine/KV blocks in use": [Answer({(): 0.0})],
                "cluster/State": [Answer({(state,): float(state == "ready") for state in (
                    "starting", "ready", "stopping", "failed")}, ("state",))],
                "cluster/Answers under way over HTTP": [Answer({(): 0.0})],
                "cluster/Faults that last": [Answer({(): 0.0})]}
            wrong, seen = differences(prometheus, wanted, asked)
            assert not wrong, '\n'.join(wrong)
            assert set(wanted) == seen
            print(len(seen))
