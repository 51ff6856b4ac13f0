"""deploy/prometheus: Prometheus takes its config and rules, and each rule does what its test says."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.observe.metrics.catalogue import BY_NAME, METRICS
from tests.conftest import ROOT
from tests.deploy.prometheus_rig import promtool

FOLDER = ROOT / "deploy/prometheus"
RULES = {file.stem: yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]
         for file in sorted((FOLDER / "rules").glob("*.yml"))}
TESTS = sorted((FOLDER / "tests").glob("*.yml"))


def rules(file: str) -> list[dict[str, Any]]:
    return [rule for group in RULES[file] for rule in group["rules"]]


def test_prometheus_takes_the_config_and_every_rule() -> None:
    checked = promtool("check", "config", FOLDER / "prometheus.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert sorted(RULES) == ["alerts", "derived", "ray"]
    for name, groups in RULES.items():
        count = sum(len(group["rules"]) for group in groups)
        assert f"rules/{name}.yml\n  SUCCESS: {count} rules found" in checked.stdout


def test_the_rules_do_what_their_tests_say() -> None:
    done = promtool("test", "rules", *TESTS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("SUCCESS") == len(TESTS) == 3


def test_every_alert_has_a_case_that_fires_it_and_one_that_does_not() -> None:
    cases = [case for test in yaml.safe_load((FOLDER / "tests/alerts.yml").read_text(encoding="utf-8"))["tests"]
             for case in test["alert_rule_test"]]
    for rule in rules("alerts"):
        fired = {bool(case["exp_alerts"]) for case in cases if case["alertname"] == rule["alert"]}
        assert fired == {True, False}, rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}


def test_every_derived_figure_has_a_case() -> None:
    cases = (FOLDER / "tests/derived.yml").read_text(encoding="utf-8")
    assert [rule["record"] for rule in rules("derived") if rule["record"] not in cases] == []


@pytest.mark.parametrize(("file", "turn"), [
    ("alerts", "({}) and on () (vector(1) == 0)"), ("alerts", "vector(1)"), ("derived", "1 - ({})")],
    ids=["silenced", "always", "upside down"])
def test_a_rule_that_goes_wrong_fails_its_test(file: str, turn: str, tmp_path: Path) -> None:
    """All rules of a file are turned around: promtool complains of every one."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "rules").mkdir()
    test = tmp_path / "tests" / f"{file}.yml"
    test.write_text((FOLDER / "tests" / f"{file}.yml").read_text(encoding="utf-8"), encoding="utf-8")
    for name, groups in RULES.items():
        changed = copy.deepcopy(groups)
        for rule in changed[0]["rules"] if name == file else ():
            rule["expr"] = turn.format(rule["expr"])
        (tmp_path / f"rules/{name}.yml").write_text(yaml.safe_dump({"groups": changed}), encoding="utf-8")
    told = promtool("test", "rules", test)
    assert told.returncode == 1
    names = [rule.get("alert") or rule["record"] for rule in rules(file)]
    assert [name for name in names if name not in told.stdout + told.stderr] == []


def test_what_comes_through_ray_gets_every_name_that_a_run_has() -> None:
    named = {rule["record"]: rule["expr"] for rule in rules("ray")}
    for metric in METRICS:
        names = [f"{metric.name}_{part}" for part in ("bucket", "sum", "count")] if metric.kind == "histogram" else [
            metric.name]
        assert all((name in named) == ("run" in metric.of) for name in names), metric.name
    for record, expr in named.items():
        told = record if record in BY_NAME else f"{record}_total"  # of a histogram Ray is told counters
        assert expr.endswith(f"(ray_{told})")
        assert "WorkerId" not in expr
