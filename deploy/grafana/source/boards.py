"""A dashboard's variables, and the builder that makes it Grafana's."""

import json
from typing import Any

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model

from deploy.grafana.source.panels import SOURCE, Board, built

TAG = "moelab"
RUNS = "moelab_emulated_seconds_total"
"""What every run tells, and so where the variables find their values."""
ALL = model.VariableOption(selected=True, text="All", value="$__all")


def source() -> model.VariableModel:
    """Which Prometheus."""
    return dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus").build()


def chosen(name: str, label: str, of: str, among: str = "") -> model.VariableModel:
    """A variable of the values of a label. among: matchers; several may be chosen, and all are at first."""
    return _values(name, label, of, among).multi(True).include_all(True).all_value(".+").current(ALL).build()


def one(name: str, label: str, of: str, among: str = "") -> model.VariableModel:
    """A variable of the values of a label of which one is chosen."""
    return _values(name, label, of, among).multi(False).include_all(False).build()


def _values(name: str, label: str, of: str, among: str) -> dashboard.QueryVariable:
    query = f"label_values({RUNS}{{{among}}}, {of})" if among else f"label_values({RUNS}, {of})"
    return (dashboard.QueryVariable(name).label(label).datasource(SOURCE)
            .query({"query": query, "refId": f"variable-{name}", "qryType": 1})
            .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(model.VariableSort.ALPHABETICAL_ASC))


RUN_AND_POLICY = (chosen("run", "Run", "run"), chosen("policy", "Policy", "policy", 'run=~"$run"'))


class _Ready(Builder[model.VariableModel]):
    """What is built already, where a builder is asked for."""

    def __init__(self, found: model.VariableModel) -> None:
        self._found = found

    def build(self) -> model.VariableModel:
        return self._found


def written(board: Board) -> str:
    """The dashboard as Grafana's JSON, the same bytes each time."""
    links = dashboard.DashboardLink("moelab").type(model.DashboardLinkType.DASHBOARDS).tags([TAG]).as_dropdown(True)
    made = (dashboard.Dashboard(board.title).uid(board.uid).description(board.says).tags([TAG])
            .timezone("browser").time("now-15m", "now").refresh("5s").readonly()
            .tooltip(model.DashboardCursorSync.CROSSHAIR).link(links.include_vars(True).keep_time(True)))
    for variable in (source(), *(board.variables or RUN_AND_POLICY)):
        made.with_variable(_Ready(variable))
    number = 0
    for row in board.rows:
        number += 1
        made.with_row(dashboard.Row(row.title).id(number))
        for panel in row.panels:
            number += 1
            made.with_panel(built(panel, number))
    return json.dumps(_of_today(json.loads(json.dumps(made.build(), cls=JSONEncoder))), indent=2, sort_keys=True) + "\n"


def _of_today(tree: dict[str, Any]) -> dict[str, Any]:
    """What the builders write as Grafana 10.1 wanted it, as the schema of 13.2 does: the rest is the same in both."""
    del tree["style"]  # the user's choice now
    for variable in tree["templating"]["list"]:
        for gone in ("auto", "auto_count", "auto_min", "id"):
            del variable[gone]
    for panel in tree["panels"]:
        if panel.get("options", {}) is None:
            panel["options"] = {}
        if panel["type"] == "heatmap":
            panel["options"]["tooltip"] = {"mode": "single", "yHistogram": False}
    return tree
