"""deploy/grafana: the dashboards are what their sources come to, and every query is of metrics that there are."""

import json
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model

from cluster.observe.metrics.catalogue import IDENTITY, METRICS
from deploy.grafana.source.__main__ import BOARDS, DASHBOARDS, outputs
from deploy.grafana.source.panels import Panel
from tests.conftest import ROOT

FILES = {board.uid: json.loads((ROOT / DASHBOARDS / f"{board.uid}.json").read_text(encoding="utf-8"))
         for board in BOARDS}
PANELS = [pytest.param(panel, id=f"{board.uid}-{panel.title}") for board in BOARDS for panel in board.panels]
OTHERS = {"up": {"job", "instance"}, "ray_actors": {"State"}}
"""Series of Prometheus' own and of Ray's, and their labels."""
OF_THE_HOST = {"Pace", "TTFT by bucket"}
"""Panels of a rate as it is: what the host manages, and counts by bucket."""


def series() -> dict[str, set[str]]:
    """Every series that there can be, with its labels."""
    found = dict(OTHERS)
    for metric in METRICS:
        labels = {*IDENTITY, *metric.labels, "job", "instance"}
        if metric.kind == "histogram":
            found |= {f"{metric.name}_sum": labels, f"{metric.name}_count": labels,
                      f"{metric.name}_bucket": labels | {"le"}}
        else:
            found[metric.name] = labels
    return found


SERIES = series()


def parsed(expr: str) -> Any:
    for name, value in (("$__rate_interval", "1m"), ("$__range", "15m")):
        expr = expr.replace(name, value)
    return promql_parser.parse(expr)


def nodes(node: Any) -> Iterator[Any]:
    """All of an expression's parts."""
    yield node
    for name in ("lhs", "rhs", "expr", "vector_selector", "vs", "param"):
        inner = getattr(node, name, None)
        if inner is not None and not isinstance(inner, str):
            yield from nodes(inner)
    for argument in getattr(node, "args", None) or ():
        yield from nodes(argument)


def test_files_are_what_their_sources_come_to() -> None:
    """If not: `make dashboards`."""
    for name, text in outputs().items():
        assert (ROOT / name).read_text(encoding="utf-8") == text, name


def test_links_to_a_dashboard_hold_for_ever() -> None:
    assert list(FILES) == ["moelab-overview", "moelab-experts", "moelab-machine", "moelab-cluster", "moelab-compare"]
    for uid, board in FILES.items():
        assert board["uid"] == uid
        numbers = [panel["id"] for panel in board["panels"]]
        assert numbers == sorted(set(numbers))
        first, *others = board["templating"]["list"]
        assert (first["name"], first["type"], first["query"]) == ("datasource", "datasource", "prometheus")
        wanted = ["run_a", "policy_a", "run_b", "policy_b"] if uid == "moelab-compare" else ["run", "policy"]
        assert [variable["name"] for variable in others] == wanted
        sources = {panel["datasource"]["uid"] for panel in board["panels"] if panel["type"] != "row"}
        assert sources == {"${datasource}"}
    file = ROOT / "deploy/grafana/provisioning/datasources/prometheus.yaml"
    (source,) = yaml.safe_load(file.read_text(encoding="utf-8"))["datasources"]
    assert (source["uid"], source["type"], source["isDefault"]) == ("moelab-prometheus", "prometheus", True)


def test_no_panel_lies_upon_another() -> None:
    for uid, board in FILES.items():
        taken: dict[tuple[int, int], int] = {}
        for panel in board["panels"]:
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24
            for x in range(place["x"], place["x"] + place["w"]):
                for y in range(place["y"], place["y"] + place["h"]):
                    assert (x, y) not in taken, (uid, panel["id"], taken[x, y])
                    taken[x, y] = panel["id"]


def test_the_builders_models_know_every_key() -> None:
    """Read into the models and written again, nothing is lost: no key is misspelt."""
    for uid, board in FILES.items():
        again = json.loads(json.dumps(model.Dashboard.from_json(board), cls=JSONEncoder))
        assert list(missing(board, again)) == [], uid


def missing(wanted: Any, found: Any, path: str = "") -> Iterator[str]:
    """Where something of `wanted` is not in `found`."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key, value in wanted.items():
            if key in found:
                yield from missing(value, found[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}"
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for number, (one, other) in enumerate(zip(wanted, found, strict=True)):
            yield from missing(one, other, f"{path}[{number}]")
    elif wanted != found:
        yield path


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_says_what_it_shows(panel: Panel) -> None:
    assert panel.says.endswith((".", ":")), "no sentence"
    assert panel.unit
    assert len({query.legend for query in panel.queries}) == len(panel.queries)
    for query in panel.queries:
        named = set(parse_legend(query.legend))
        (top,) = [set(labels_of(parsed(query.expr)))]
        assert named <= top | {"run", "policy"}, f"the legend has labels that the answer has not: {named - top}"


def parse_legend(legend: str) -> list[str]:
    return [part.partition("}}")[0] for part in legend.split("{{")[1:]]


def labels_of(tree: Any) -> Iterator[str]:
    """Labels that an answer can have: those that any aggregation keeps, or those of the series."""
    for node in nodes(tree):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            yield from node.modifier.labels
        elif isinstance(node, promql_parser.VectorSelector) and node.name in OTHERS:
            yield from OTHERS[node.name]


@pytest.mark.parametrize("panel", PANELS)
def test_queries_are_of_series_and_labels_that_there_are(panel: Panel) -> None:
    for query in panel.queries:
        tree = parsed(query.expr)
        assert "vector(" not in query.expr
        found = [node for node in nodes(tree) if isinstance(node, promql_parser.VectorSelector)]
        assert found
        for selector in found:
            assert selector.name in SERIES, selector.name
            for matcher in selector.matchers.matchers:
                assert matcher.name in SERIES[selector.name], (selector.name, matcher.name)
        known = set().union(*(SERIES[selector.name] for selector in found))
        for node in nodes(tree):
            if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
                assert set(node.modifier.labels) <= known


@pytest.mark.parametrize("panel", PANELS)
def test_rates_are_over_rates_and_so_never_over_the_hosts_seconds(panel: Panel) -> None:
    if panel.title in OF_THE_HOST:
        return
    for query in panel.queries:
        tree = parsed(query.expr)
        if "rate(" not in query.expr or query.expr.startswith("histogram_quantile("):
            continue
        ratios = [node for node in nodes(tree) if isinstance(node, promql_parser.BinaryExpr) and str(node.op) == "/"]
        assert ratios, query.expr
        assert any(has_rate(ratio.lhs) and has_rate(ratio.rhs) for ratio in ratios), query.expr


def has_rate(tree: Any) -> bool:
    return any(isinstance(node, promql_parser.Call) and node.func.name == "rate" for node in nodes(tree))


def test_every_metric_is_on_a_panel() -> None:
    shown = {node.name for board in BOARDS for panel in board.panels for query in panel.queries
             for node in nodes(parsed(query.expr)) if isinstance(node, promql_parser.VectorSelector)}
    hidden = {metric.name for metric in METRICS
              if not shown & {metric.name, f"{metric.name}_sum", f"{metric.name}_bucket"}}
    assert hidden == {"moelab_sweep_points", "moelab_checkpoints_unpacked"}
