"""deploy/prometheus: Prometheus takes its config and rules, and each rule does what its test says."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.observe.metrics.catalogue import METRICS
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
        assert f"rules/{name}.yml\n  SUCCESS: {sum(len(group['rules']) for group in groups)} rules found" in checked.stdout


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


MUTANTS = [(file, number) for file in ("alerts", "derived") for number in range(len(rules(file)))]


@pytest.mark.slow
def test_no_rule_can_go_wrong_unnoticed(tmp_path: Path) -> None:
    """Every rule by hand is turned around once, the others as they are: its tests must fail."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "rules").mkdir()
    for test in TESTS:
        (tmp_path / "tests" / test.name).write_text(test.read_text(encoding="utf-8"), encoding="utf-8")
    for name, groups in RULES.items():
        (tmp_path / f"rules/{name}.yml").write_text(yaml.safe_dump({"groups": groups}), encoding="utf-8")
    kept = []
    for file, number in MUTANTS:
        mutant = copy.deepcopy(RULES[file])
        (rule := mutant[0]["rules"][number])["expr"] = f"1 - ({rule['expr']})"
        if file == "alerts":
            rule["expr"] = "vector(0) > 1"
        changed = tmp_path / f"rules/{file}.yml"
        changed.write_text(yaml.safe_dump({"groups": mutant}), encoding="utf-8")
        if promtool("test", "rules", tmp_path / "tests" / f"{file}.yml").returncode == 0:
            kept.append(rule.get("alert", rule.get("record")))
        changed.write_text(yaml.safe_dump({"groups": RULES[file]}), encoding="utf-8")
    assert kept == []


def test_what_comes_through_ray_gets_every_name_that_a_run_has() -> None:
    named = {rule["record"]: rule["expr"] for rule in rules("ray")}
    for metric in METRICS:
        names = [f"{metric.name}_{part}" for part in ("bucket", "sum", "count")] if metric.kind == "histogram" else [
            metric.name]
        assert all((name in named) == ("run" in metric.of) for name in names), metric.name
    for record, expr in named.items():
        assert expr.endswith(f"(ray_{record})")
        assert "WorkerId" not in expr
