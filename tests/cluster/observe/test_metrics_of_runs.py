"""Metrics of real runs: what they say is what result.json says, while a run lasts, behind it, and over its time."""

import itertools
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from cluster.config.reading import load_run
from cluster.config.run import RunConfig
from cluster.main import enter
from cluster.observe import schema
from cluster.observe.files import write_texts
from cluster.observe.metrics.families import Samples, Spread
from cluster.observe.metrics.of_result import of_result
from cluster.observe.metrics.over_time import SCRAPE_MS, SINCE_MS, dilation_of, over_time
from cluster.observe.metrics.text import openmetrics
from cluster.observe.metrics.watch import Watch
from cluster.observe.result import Result
from cluster.run import compare
from emulation.errors import ConfigError

RUN: dict[str, Any] = {
    "machine": "h200-host", "model": {"name": "olmoe-1b-7b", "layers": 2},
    "policy": {"name": "lru_prefetch", "parameters": {"slots": 24}},
    "against": [{"name": "lru", "parameters": {"slots": 24}}, {"name": "lru", "parameters": {"slots": 16}}],
    "forecast": {"name": "oracle", "accuracy": 0.8},
    "workload": {"work": "synthetic", "generator": {"name": "zipf", "skew": 0.6}, "serving": {
        "requests": 6, "max_batch": 4, "arrivals": {"name": "poisson", "rate_per_s": 2000},
        "prompt_tokens": {"mean": 8}, "output_tokens": {"mean": 5}, "slo": {"ttft": "2 ms", "tpot": "1 ms"}}}}
NAMED = ("lru_prefetch", "lru(slots=24)", "lru(slots=16)")


def config(folder: Path, **more: Any) -> RunConfig:
    path = folder / "cache.yaml"
    path.write_text(json.dumps({**RUN, **more}), encoding="utf-8")
    return load_run(str(path), [])


def plain(samples: Samples) -> dict[tuple[str, tuple[str, ...]], float]:
    """Values by name and labels; of histograms their counts and sums."""
    out: dict[tuple[str, tuple[str, ...]], float] = {}
    for family in samples.families():
        for key, value in family.samples.items():
            if isinstance(value, Spread):
                below = 0
                for place, count in enumerate(value.counts):
                    below += count
                    out[f"{family.metric.name}_bucket", (*key, str(place))] = below
                out[f"{family.metric.name}_sum", key] = value.sum_s
            else:
                out[family.metric.name, key] = value
    return out


def counters(samples: Samples) -> dict[tuple[str, tuple[str, ...]], float]:
    return {key: value for key, value in plain(samples).items() if key[0].endswith(("_total", "_bucket", "_sum"))}


def looks(asked: RunConfig) -> tuple[dict[str, Result], dict[str, list[Samples]]]:
    """A comparison, and what a watch saw at every step."""
    seen: dict[str, list[Samples]] = {}

    def hear(told: list[Samples]) -> None:
        seen.setdefault(told[-1].identity[1], []).append(told[-1])

    results = compare(asked, watch=Watch("cache", hear, every_s=0.0))
    return results, seen


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Result], dict[str, list[Samples]]]:
    return looks(config(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def result(compared: tuple[dict[str, Result], dict[str, list[Samples]]]) -> Result:
    return compared[0]["lru_prefetch"]


# While a run lasts


def test_every_policy_of_a_comparison_is_told_by_its_own_label(
        compared: tuple[dict[str, Result], dict[str, list[Samples]]]) -> None:
    results, seen = compared
    assert tuple(results) == NAMED
    assert tuple(seen) == NAMED
    assert all(len(told) > 10 for told in seen.values())


@pytest.mark.parametrize("engine", ["compiled", "spec"])
def test_a_live_run_counts_up_to_its_result(engine: str, tmp_path: Path) -> None:
    """In columns and step by step: no counter falls, and at the last step all are the result's but for what only its
    end tells. Experts that are told by name may be others at the end."""
    results, seen = looks(config(tmp_path, engine=engine, against=[], model={"name": "olmoe-1b-7b", "layers": 1}))
    *live, last = map(counters, seen["lru_prefetch"])
    assert last == counters(of_result(results["lru_prefetch"], "cache"))
    before: dict[tuple[str, tuple[str, ...]], float] = {}
    for told in [*live, last]:
        fell = {key: (value, told.get(key)) for key, value in before.items()
                if told.get(key, 0.0) < value * (1 - 1e-12)}
        assert {key[0] for key in fell if key not in told} <= {"moelab_top_expert_tokens_total"}
        assert not {key: value for key, value in fell.items() if key in told}
        before = told
    at_the_end = {key: value for key, value in live[-1].items() if key[0].startswith(
        ("moelab_ttft", "moelab_itl", "moelab_tpot", "moelab_queueing", "moelab_end_to_end", "moelab_step",
         "moelab_tokens", "moelab_requests", "moelab_experts", "moelab_loaded", "moelab_link"))}
    assert len(at_the_end) > 150
    assert at_the_end == pytest.approx({key: last[key] for key in at_the_end})


def test_watching_changes_no_result(tmp_path: Path) -> None:
    asked = config(tmp_path, against=[])
    alone, watched = compare(asked), looks(asked)[0]
    assert alone["lru_prefetch"].digest == watched["lru_prefetch"].digest
    shown = asked.model_copy(update={"metrics": asked.metrics.model_copy(update={"port": 0, "openmetrics": True})})
    assert compare(shown)["lru_prefetch"].digest == alone["lru_prefetch"].digest


# Behind a run


def test_what_is_told_of_a_result_is_what_it_says(result: Result) -> None:
    told = plain(of_result(result, "cache"))
    who = ("cache", "lru_prefetch")

    def of(name: str, *labels: str) -> float:
        return told[f"moelab_{name}", (*who, *labels)]

    assert of("emulated_seconds_total") * 1e12 == pytest.approx(result.makespan_ps)
    assert of("tokens_total", "output") == result.emitted_tokens > 0
    assert of("requests_total", "length") == result.serving.finished == 6  # type: ignore[union-attr]
    for phase, part in result.phases.items():
        assert of("steps_total", phase) == part.steps
        assert (of("experts_hits_total", phase), of("experts_misses_total", phase)) == (part.hits, part.misses)
    assert result.prefetch.useful > 0
    for outcome in ("issued", "useful", "late", "wasted"):
        assert of("prefetches_total", outcome) == getattr(result.prefetch, outcome)
    for name in ("ttft", "tpot", "itl"):
        spread = getattr(result, name)
        assert of(f"{name}_seconds_bucket", "27") == spread.count
        assert of(f"{name}_seconds_sum") == pytest.approx(spread.mean_s * spread.count)
    assert of("step_seconds_bucket", "27") == sum(phase.steps for phase in result.phases.values())
    for lane in result.lanes:
        assert of("lane_busy_seconds_total", lane.lane) * 1e12 == pytest.approx(lane.busy_ps)
    assert sum(value for (name, _), value in told.items() if name == "moelab_link_bytes_total") == sum(
        link.total_bytes for link in result.traffic)
    assert sum(value for (name, _), value in told.items() if name == "moelab_expert_load_tokens_total") == sum(
        sum(map(sum, part)) for part in (result.load.prefill, result.load.decode))
    assert of("slo_met_ratio", "both") == result.serving.slo.share  # type: ignore[union-attr]
    assert of("bound_seconds") * 1e12 == pytest.approx(result.bound.lb_ps)  # type: ignore[union-attr]


def test_how_a_run_was_carried_out_is_told(result: Result) -> None:
    wall = schema.Wall(verdict="VOID", reason="late", dilation=1500.0, smallest_dilation=900.0, chosen_by="lanes",
                       error=0.02, worst_step_error=0.1, real_s=3.0, steps=4, ops=100, causality_violations=0,
                       late_ops=7, late_after_s=0.001, lag_p50_s=0.0001, lag_p99_s=0.004, read_bytes=0,
                       bytes_per_s=0.0, players=5, turn_s=0.0, hop_s=0.0, standstill_s=0.0, others_cores=0.0)
    host = schema.Host(transport="ray", workers=5, nodes=2, checkpoints_unpacked=1, restarts=3, wall=wall,
                       versions={"moelab": "0.1.0"})
    told = plain(of_result(result.model_copy(update={"host": host}), "run", "p"))
    who = ("run", "p")
    assert {name: told[f"moelab_{name}", who] for name in (
        "restarts_total", "actors", "nodes", "checkpoints_unpacked", "dilation_ratio", "wall_error_ratio",
        "wall_late_operations_total")} == {
        "restarts_total": 3, "actors": 5, "nodes": 2, "checkpoints_unpacked": 1, "dilation_ratio": 1500.0,
        "wall_error_ratio": 0.02, "wall_late_operations_total": 7}
    assert told["moelab_wall_verdict", (*who, "VOID")] - told["moelab_wall_verdict", (*who, "OK")] == 1
    assert told["moelab_lag_seconds", (*who, "p99")] == 0.004
    assert told["moelab_run_info", (*who, "h200-host", result.model, "bf16", "ray", "0.1.0")] == 1


def test_faults_last_from_when_they_took_effect_until_they_are_over(result: Result) -> None:
    third = result.makespan_ps // 3
    effects = [schema.FaultEffect(fault=kind, of="gpu", what=kind, at_ps=at_ps, until_ps=None, took_ps=at_ps, step=0,
                                  over_ps=over_ps, sent_bytes=5, stored_bytes=7, recovery_ps=10**9, before=None,
                                  during=None, after=None)
               for kind, at_ps, over_ps in (("straggler", third, 2 * third), ("unit_dies", 2 * third, None),
                                            ("unit_dies", 2 * third + 1, None))]
    never = effects[0].model_copy(update={"took_ps": None, "over_ps": None, "sent_bytes": 0, "stored_bytes": 0})
    faulty = result.model_copy(update={"faults": (*effects, never)})
    told, who = plain(of_result(faulty, "run", "p")), ("run", "p")
    assert told["moelab_faults", who] == 2
    assert told["moelab_faults_taken_total", (*who, "unit_dies")] == 2
    assert told["moelab_fault_recovery_seconds_total", (*who, "unit_dies")] == 0.002
    assert (told["moelab_fault_bytes_total", (*who, "sent")], told["moelab_fault_bytes_total", (*who, "stored")]) == (
        15, 21)
    course = over_time(faulty, "run", "p", 0, dilation_of(faulty, None))
    lasting = [plain(instant.samples)["moelab_faults", who] for instant in course]
    assert [value for value, _ in itertools.groupby(lasting)] == [0, 1, 2]


# Over its time


def test_over_time_it_counts_up_from_nothing_to_the_result(result: Result) -> None:
    dilation = dilation_of(result, None)
    told = over_time(result, "cache", "lru_prefetch", SINCE_MS, dilation)
    assert [instant.at_ms for instant in told] == [SINCE_MS + i * SCRAPE_MS for i in range(result.series.slices + 1)]
    first, *_, last = [counters(instant.samples) for instant in told]
    assert set(first) == set(last)
    assert not any(value for (name, _), value in first.items() if name != "moelab_requests_total")
    assert last == counters(of_result(result, "cache"))
    before = first
    for instant in told:
        now = counters(instant.samples)
        assert all(value <= last[key] * (1 + 1e-12) for key, value in now.items())
        assert all(value >= before.get(key, 0.0) for key, value in now.items())
        before |= now


def test_between_two_slices_it_says_what_happened_in_one(result: Result) -> None:
    told = over_time(result, "cache", "lru_prefetch", 0, dilation_of(result, None))
    series = result.series
    for i in range(series.slices):
        one, other = (counters(told[j].samples) for j in (i, i + 1))
        key = "moelab_tokens_total", ("cache", "lru_prefetch", "output")
        assert other[key] - one[key] == series.tokens[i]
        lane = next(iter(series.busy_ps))
        key = "moelab_lane_busy_seconds_total", ("cache", "lru_prefetch", lane)
        assert other[key] - one[key] == pytest.approx(series.busy_ps[lane][i] / 1e12, abs=1e-15)


def test_a_dilation_that_prometheus_cannot_tell_apart_is_refused(result: Result) -> None:
    least = -(-10**9 // result.series.slice_ps)
    assert dilation_of(result, Fraction(least)) == least
    with pytest.raises(ConfigError, match=f"{least} is the least dilation"):
        dilation_of(result, Fraction(least - 1))


def test_the_same_result_gives_the_same_bytes(result: Result) -> None:
    texts = {"".join(openmetrics(over_time(result, "cache", "lru", SINCE_MS, Fraction(10**6)))) for _ in range(2)}
    assert len(texts) == 1
    assert texts.pop().endswith("# EOF\n")


# On a command line


@pytest.fixture(scope="module")
def folder(compared: tuple[dict[str, Result], dict[str, list[Samples]]],
           tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("written") / "cache"
    for name, found in compared[0].items():
        write_texts(at / name, {"result.json": found.to_json()})
    return at


def test_a_comparisons_folder_is_told_whole(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert enter(["metrics", str(folder), "--out", str(folder / "all.openmetrics")]) == 0
    text = (folder / "all.openmetrics").read_text()
    for policy in NAMED:
        assert f'moelab_done_ratio{{run="cache",policy="{policy}"}} 1.0' in text
    said = capsys.readouterr().err
    assert "stretched" in said
    assert "moelab_dilation_ratio tells the stretch" in said


@pytest.mark.parametrize(("arguments", "code", "sentence"), [
    (["--since", "yesterday"], 2, "--since 'yesterday' is no instant: write it like 2026-01-01T00:00:00Z"),
    (["--since", "1066-10-14"], 2, "not between 1970 and 2100"),
    (["--dilation", "fast"], 2, "should be auto, or a number above 0"),
    (["--dilation", "0.001"], 2, "is the least dilation"),
    (["--dilation", "1e17"], 2, "behind the year 2100"),
    (["--run", "a", "--run", "b"], 2, "--run names 2 runs, and there are 1 results"),
])
def test_what_cannot_be_told_is_refused_in_a_sentence(folder: Path, capsys: pytest.CaptureFixture[str],
                                                      arguments: list[str], code: int, sentence: str) -> None:
    assert enter(["metrics", str(folder / "lru_prefetch"), *arguments]) == code
    said = capsys.readouterr()
    assert sentence in said.err
    assert said.out == ""


def test_two_results_of_one_name_are_told_apart(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twice = ["metrics", str(folder / NAMED[0]), str(folder / NAMED[0])]
    assert enter(twice) == 2
    assert "tell them apart with --run" in capsys.readouterr().err
    assert enter([*twice, "--run", "before", "--run", "after"]) == 0
    assert 'run="after",policy="lru_prefetch"' in capsys.readouterr().out


def test_blocks_need_promtool_and_tell_what_it_refuses(folder: Path, tmp_path: Path,
                                                       capsys: pytest.CaptureFixture[str],
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["metrics", str(folder / NAMED[0]), "--blocks", str(tmp_path / "tsdb")]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert enter(asked) == 2
    assert "--blocks needs promtool" in capsys.readouterr().err
    tool = tmp_path / "promtool"
    tool.write_text("#!/bin/sh\necho 'out of bounds' >&2\nexit 1\n")
    tool.chmod(0o755)
    assert enter(asked) == 1
    assert f"promtool made no blocks in {tmp_path / 'tsdb'}: out of bounds" in capsys.readouterr().err
