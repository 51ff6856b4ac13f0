"""The dashboards against Grafana's own types: npm's @grafana/schema and the TypeScript compiler. A soak test: it needs
node and npm's registry, and CI must not hang on a network; `tests/deploy/test_dashboards.py` is what CI runs."""

import copy
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from deploy.grafana.source.__main__ import BOARDS, DASHBOARDS
from tests.conftest import ROOT

PACKAGES = ("@grafana/schema@13.2.3", "typescript@5.9.3")
KINDS = {"timeseries": "TimeSeries", "stat": "Stat", "bargauge": "BarGauge", "heatmap": "Heatmap", "table": "Table"}
# JSON has no enums: a string enum is its values, an enum of numbers its numbers.
HEAD = """import type { Dashboard } from '@grafana/schema';
type Json<T> = T extends string ? `${T}` : T extends number ? (`${T}` extends `${infer N extends number}` ? N : number)
    : T extends object ? { [K in keyof T]: Json<T[K]> } : T;
""" + "\n".join(
    f"import type * as {kind} from '@grafana/schema/dist/esm/raw/composable/{kind}/panelcfg/x/"
    f"{name}PanelCfg_types.gen';"
    for kind, name in KINDS.items())
OPTIONS = ["--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--module", "nodenext",
           "--moduleResolution", "nodenext"]
Complaints = Callable[[Mapping[str, Any]], str]


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> Complaints:
    """What the compiler says of a dashboard; empty where it has nothing to say."""
    npm, folder = shutil.which("npm"), tmp_path_factory.mktemp("schema")
    if npm is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed: the packages `nodejs` and `npm` have them")
    (folder / "package.json").write_text('{"name": "dashboards", "private": true}', encoding="utf-8")
    got = subprocess.run([npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", *PACKAGES], cwd=folder,
                         capture_output=True, text=True, check=False, timeout=300)
    if got.returncode:
        pytest.skip(f"npm's registry has not answered with {' and '.join(PACKAGES)}: {got.stderr.strip()[-200:]}")

    def said(board: Mapping[str, Any]) -> str:
        (folder / "board.ts").write_text("\n".join([HEAD, *literals(board)]), encoding="utf-8")
        told = subprocess.run([folder / "node_modules/.bin/tsc", *OPTIONS, "board.ts"], cwd=folder, check=False,
                              capture_output=True, text=True, timeout=300)
        return told.stdout
    return said


def literals(board: Mapping[str, Any]) -> Iterator[str]:
    """The dashboard, and the options of each of its panels, as constants of their types."""
    yield f"export const board: Json<Dashboard> = {json.dumps(board)};"
    for panel in board["panels"]:
        if panel["type"] in KINDS:
            kind, number = panel["type"], panel["id"]
            yield f"export const options_{number}: Partial<Json<{kind}.Options>> = {json.dumps(panel['options'])};"
            custom = panel["fieldConfig"]["defaults"].get("custom")
            if custom is not None:
                yield f"export const custom_{number}: Partial<Json<{kind}.FieldConfig>> = {json.dumps(custom)};"


def read(uid: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / DASHBOARDS / f"{uid}.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.soak
@pytest.mark.parametrize("uid", [board.uid for board in BOARDS])
def test_grafanas_own_types_take_the_dashboard(uid: str, complaints: Complaints) -> None:
    assert complaints(read(uid)) == ""


@pytest.mark.soak
def test_they_refuse_what_is_wrong(complaints: Complaints) -> None:
    for path, value in ((("graphTooltip",), 7), (("panels", 1, "fieldConfig", "defaults", "unit"), 3),
                        (("panels", 1, "options", "graphMode"), "lines"), (("refrsh",), "5s")):
        board = copy.deepcopy(read("moelab-overview"))
        inner: Any = board
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value
        assert "error TS" in complaints(board), path


def test_every_kind_of_panel_has_its_types() -> None:
    kinds = {panel["type"] for board in BOARDS for panel in read(board.uid)["panels"]}
    assert kinds == {"row", *KINDS}
