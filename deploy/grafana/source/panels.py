"""A panel as data, and the builder that makes it Grafana's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from grafana_foundation_sdk.builders import bargauge, common, dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common as shown
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heat
from grafana_foundation_sdk.models import prometheus as asked

SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
LETTERS = "ABCDEFGH"
MAKERS: dict[str, Any] = {"series": timeseries.Panel, "stat": stat.Panel, "bars": bargauge.Panel, "heat": heatmap.Panel,
                          "buckets": heatmap.Panel, "table": table.Panel}


@dataclass(frozen=True)
class Query:
    """One query. legend: what a series is called, with labels in double braces."""

    expr: str
    legend: str = "{{run}} {{policy}}"


@dataclass(frozen=True)
class Panel:
    """One panel. kind: series over time; stat and bars: totals at the end of the range; heat: series over time as rows;
    buckets: a histogram's buckets over time; table: labels.

    unit: Grafana's name of it. steps: (from which value on, colour), ascending. values: value -> (text, colour).
    least, most: the axis' ends, where they are known. stacked: series add up to something.
    """

    kind: Literal["series", "stat", "bars", "heat", "buckets", "table"]
    title: str
    says: str
    unit: str
    queries: tuple[Query, ...]
    width: int = 12
    height: int = 8
    steps: tuple[tuple[float, str], ...] = ()
    values: Mapping[int, tuple[str, str]] | None = None
    least: float | None = 0
    most: float | None = None
    stacked: bool = False

    @property
    def instant(self) -> bool:
        """Whether its queries are asked once, for the end of the range."""
        return self.kind in {"stat", "bars", "table"}


@dataclass(frozen=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Board:
    """A dashboard. uid: its address, for ever. variables: those that choose runs."""

    uid: str
    title: str
    says: str
    rows: tuple[Row, ...]
    variables: tuple[model.VariableModel, ...] = ()

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All of them, in the order in which they stand."""
        return tuple(panel for row in self.rows for panel in row.panels)


def built(panel: Panel, number: int) -> Any:
    """A builder of the panel. number: its id within the dashboard."""
    made: Any = MAKERS[panel.kind]()
    made.id(number).title(panel.title).description(panel.says).datasource(SOURCE).unit(panel.unit)
    made.span(panel.width).height(panel.height)
    for letter, query in zip(LETTERS, panel.queries, strict=False):
        made.with_target(_asked(panel, letter, query))
    if panel.least is not None:
        made.min(panel.least)
    if panel.most is not None:
        made.max(panel.most)
    made.thresholds(_thresholds(panel.steps))
    if panel.values:
        made.mappings([model.ValueMap({str(value): model.ValueMappingResult(text=text, color=colour)
                                       for value, (text, colour) in panel.values.items()})])
    if panel.kind == "series":
        _over_time(made, panel)
    elif panel.kind in {"heat", "buckets"}:
        _as_heat(made, panel)
    elif panel.kind != "table":
        made.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        made.orientation(shown.VizOrientation.HORIZONTAL if panel.kind == "bars" else shown.VizOrientation.AUTO)
        if panel.kind == "stat":
            made.graph_mode(shown.BigValueGraphMode.NONE).text_mode(shown.BigValueTextMode.AUTO)
            made.color_mode(shown.BigValueColorMode.VALUE)
        else:
            made.display_mode(shown.BarGaugeDisplayMode.GRADIENT).show_unfilled(True)
    return made


def _asked(panel: Panel, letter: str, query: Query) -> prometheus.Dataquery:
    formats = {"table": asked.PromQueryFormat.TABLE, "buckets": asked.PromQueryFormat.HEATMAP}
    target = prometheus.Dataquery().ref_id(letter).expr(query.expr).legend_format(query.legend)
    target.format(formats.get(panel.kind, asked.PromQueryFormat.TIME_SERIES)).datasource(SOURCE)
    target.editor_mode(asked.QueryEditorMode.CODE)
    return target.instant() if panel.instant else target.range()


def _thresholds(steps: Sequence[tuple[float, str]]) -> dashboard.ThresholdsConfig:
    first = model.Threshold(color="green" if steps else "text")
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(
        [first, *(model.Threshold(value=value, color=colour) for value, colour in steps)])


def _over_time(made: timeseries.Panel, panel: Panel) -> None:
    many = len(panel.queries) > 1 or any(query.legend.count("{{") > 2 for query in panel.queries)
    legend = common.VizLegendOptions().show_legend(True)
    if many:
        legend.display_mode(shown.LegendDisplayMode.TABLE).placement(shown.LegendPlacement.RIGHT).calcs(["lastNotNull"])
    else:
        legend.display_mode(shown.LegendDisplayMode.LIST).placement(shown.LegendPlacement.BOTTOM)
    made.legend(legend)
    made.tooltip(common.VizTooltipOptions().mode(shown.TooltipDisplayMode.MULTI).sort(shown.SortOrder.DESCENDING))
    made.line_width(1).fill_opacity(30 if panel.stacked else 8).show_points(shown.VisibilityMode.AUTO)
    if panel.stacked:
        made.stacking(common.StackingConfig().mode(shown.StackingMode.NORMAL).group("A"))
    if panel.steps:
        made.thresholds_style(common.GraphThresholdsStyleConfig().mode(shown.GraphTresholdsStyleMode.DASHED))


def _as_heat(made: heatmap.Panel, panel: Panel) -> None:
    made.calculate(False).cell_gap(1).show_legend()
    made.color(heatmap.HeatmapColorOptions().mode(heat.HeatmapColorMode.SCHEME).scheme("Viridis").fill("dark-orange")
               .exponent(0.5).steps(64).reverse(False))
    made.filter_values(heatmap.FilterValueRange().le(1e-9))
    made.rows_frame(heatmap.RowsHeatmapOptions().layout(shown.HeatmapCellLayout.AUTO))
    axis = heatmap.YAxisConfig().axis_placement(shown.AxisPlacement.LEFT)
    made.y_axis(axis.unit("s") if panel.kind == "buckets" else axis)
    made.cell_values(heatmap.CellValues().unit(panel.unit))
