"""`make dashboards`: everything that is made of the typed sources, written where it belongs."""

from pathlib import Path

from deploy.grafana.source import cluster, compare, experts, machine, overview
from deploy.grafana.source.boards import written
from deploy.grafana.source.listing import with_listing
from deploy.grafana.source.rules import of_ray, resource

ROOT = Path(__file__).resolve().parents[3]
DASHBOARDS = "deploy/grafana/provisioning/dashboards"
RULES = "deploy/prometheus/rules"
PAGE = "docs/monitoring.md"
BOARDS = (overview.BOARD, experts.BOARD, machine.BOARD, cluster.BOARD, compare.BOARD)


def outputs() -> dict[str, str]:
    """Path from the root -> what the file is to hold."""
    ray = of_ray()
    page = with_listing((ROOT / PAGE).read_text(encoding="utf-8"), BOARDS)
    return {**{f"{DASHBOARDS}/{board.uid}.json": written(board) for board in BOARDS}, f"{RULES}/ray.yml": ray,
            "deploy/kubernetes/rules.yaml": resource(ROOT / RULES, ray), PAGE: page}


def main() -> None:
    """Write what has changed."""
    for name, text in outputs().items():
        file = ROOT / name
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
            print(name)


if __name__ == "__main__":
    main()
