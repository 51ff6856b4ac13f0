"""Miss rates without timing are those of a run, and what the command tells of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import moelab
from cluster.config.names import trace_path
from cluster.main import app
from emulation.errors import ConfigError
from emulation.view import Visits
from schedulers._placement import owners_by
from studies.expert_caches import RULES, halves, loads, misses, sizes_in, visits_of
from workloads.traces import read_trace

TRACE, STEPS = "embedded-code", 24


def loads_of_run(folder: Path, rule: str, placement: str) -> moelab.Result:
    eviction, inactive_first = RULES[rule]
    (folder / "mine.yaml").write_text(yaml.safe_dump({
        "machine": "chiplet-2x2", "model": "embedded", "precision": "int8",
        "workload": {"work": "replay", "trace": TRACE, "history": 0.5}, "limits": {"steps": STEPS},
        "policy": {"name": "expert_buffering", "parameters": {
            "slots": 2, "eviction": eviction, "inactive_first": inactive_first, "placement": placement}}}))
    return moelab.run(folder / "mine.yaml")


@pytest.mark.parametrize(("rule", "placement"), [("lifo", "greedy"), ("fifo", "contiguous"), ("lru", "contiguous"),
                                                 ("belady", "greedy"), ("lifo_plain", "contiguous")])
def test_a_run_misses_what_the_simulation_says(rule: str, placement: str, tmp_path: Path) -> None:
    first, second = halves(visits_of(read_trace(trace_path(TRACE, Path()))), 0.5)
    cut = Visits(*(column[:STEPS] for column in second))
    found = misses(cut, owners_by(first.counts, 4, placement), 4, 2, rule, first.counts.sum(axis=0))
    result = loads_of_run(tmp_path, rule, placement)
    assert sum(phase.loads for phase in result.phases.values()) == found.misses.sum()
    assert 0 < found.misses.sum() < found.accesses.sum()
    told = [text for text in result.approximations if "clairvoyant" in text]
    assert len(told) == (rule == "belady")


def test_the_worst_layer_is_told_and_one_that_idles_has_no_rate() -> None:
    counts = np.zeros((3, 3, 4), np.int64)
    counts[:, 0, 0] = counts[:, 1, 3] = 1
    found = misses(Visits(np.arange(3), counts), owners_by(counts, 1, "contiguous"), 1, 2, "lifo")
    assert found.accesses.tolist() == [3, 3, 0]
    assert found.misses.tolist() == [0, 1, 0]
    assert np.isnan(found.rates[2])
    assert found.worst == 1 / 3


def test_max_load_is_of_the_worst_batch_and_its_mean_over_all() -> None:
    assert loads(np.array([[[0.5, 0.5], [1.0, 0.0]], [[0.25, 0.75], [np.nan, np.nan]]])) == (1.0, 0.75)


@pytest.mark.parametrize(("text", "sizes"), [("4", [4]), ("1..3", [1, 2, 3]), ("1,4..5", [1, 4, 5])])
def test_sizes(text: str, sizes: list[int]) -> None:
    assert sizes_in(text) == sizes


@pytest.mark.parametrize("text", ["", "0", "3..1", "a", "1.5", "-1"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is a whole number from 1, like 4, or a range like 1\.\.8"):
        sizes_in(text)


def test_the_command_tells_each_policy_at_each_size() -> None:
    asked = ["trace", "misses", TRACE, "--devices", "2", "--slots", "2..3", "--policies", "lifo,belady", "--json"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    rows = {(row["policy"], row["slots"]): row for row in json.loads(done.output)["rows"]}
    assert list(rows) == [("lifo", 2), ("lifo", 3), ("belady", 2), ("belady", 3)]
    assert rows["belady", 2]["misses"] < rows["lifo", 2]["misses"]
    assert rows["lifo", 3]["worst_layer"] == max(rows["lifo", 3]["by_layer"])
    shown = CliRunner().invoke(app, asked[:-1])
    assert "lifo" in shown.output


def test_the_command_tells_the_load_of_devices_by_placement() -> None:
    done = CliRunner().invoke(app, ["trace", "balance", TRACE, "--devices", "4", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)["placements"]
    assert found["greedy"]["mean"] < found["contiguous"]["mean"]
    assert "mean max load" in CliRunner().invoke(app, ["trace", "balance", TRACE]).output


def test_a_rule_or_placement_that_is_none_is_named() -> None:
    for option, value, words in (("--policies", "mru", "eviction 'mru'"), ("--placement", "best", "placement 'best'")):
        done = CliRunner().invoke(app, ["trace", "misses", TRACE, option, value])
        assert done.exit_code != 0
        assert words in str(done.output) + str(done.exception)
