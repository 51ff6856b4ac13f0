"""The table of all panels and their queries, for docs/monitoring.md."""

from collections.abc import Sequence

from deploy.grafana.source.panels import Board
from deploy.grafana.source.queries import CHOSEN

BEGIN, END = "<!-- panels: made by `make dashboards` -->", "<!-- panels end -->"


def listing(boards: Sequence[Board]) -> str:
    """Markdown: a table for each dashboard."""
    parts = []
    for board in boards:
        parts.append(f"### {board.title}\n\n{board.says}\n\n| panel | unit | query |\n|---|---|---|")
        parts.append("\n".join(f"| {panel.title} | {panel.unit} | {_queries([query.expr for query in panel.queries])} |"
                               for panel in board.panels))
        parts.append("")
    return "\n".join(parts).rstrip("\n")


def _queries(found: Sequence[str]) -> str:
    return "<br>".join(f"`{expr.replace(CHOSEN, '').replace('{, ', '{').replace('{}', '')}`".replace("|", "\\|")
                       for expr in found)


def with_listing(page: str, boards: Sequence[Board]) -> str:
    """The page with the table in its place. ValueError where it has no place for it."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"docs/monitoring.md has no lines {BEGIN!r} and {END!r} for the table of panels to stand in")
    return f"{before}{BEGIN}\n\n{listing(boards)}\n\n{END}{after}"
