"""Every panel's query on a live Prometheus: what it answers is what result.json, or the served machine, says."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple, cast

import pytest

from cluster.config.load import validate
from cluster.config.reading import load_run
from cluster.config.run import RunConfig
from cluster.observe.metrics.door import opened
from cluster.observe.metrics.over_time import SINCE_MS, dilation_of, over_time
from cluster.observe.metrics.text import openmetrics
from cluster.observe.metrics.watch import Watch
from cluster.observe.result import Result
from cluster.run import compare, run
from tests.cluster.serve.http_rig import behind_http
from tests.cluster.serve.serve_rig import config as serving
from tests.deploy.asked import Asked, answers, differences, every_panel, groups_of, panel_of
from tests.deploy.prometheus_rig import Prometheus, blocks, started
from tests.deploy.told import (
    SHARE,
    Answer,
    bucketed,
    compared,
    expected,
    of_a_run,
    of_machine,
    of_result,
    one,
)

pytestmark = pytest.mark.slow

# Panels that most runs have nothing for: shown by a run or a machine that does.
OF_FAULTS = {f"cluster/{title}" for title in ("Faults that last", "Faults that took effect", "Recovery",
                                              "Bytes that faults cost")}
AT_THE_WALL_CLOCK = {f"cluster/{title}" for title in ("Verdict", "Dilation", "Lag", "Late operations", "Error")}
SERVED = {"machine/KV blocks in use", *(f"cluster/{title}" for title in (
    "Late tokens of a served machine", "State", "Answers under way over HTTP", "Answers of the HTTP door"))}
BEGUN_LATER = ("experts/Load of the fullest experts", "machine/Bytes by link", "machine/Bytes by cause")
"""On a served machine a series of these begins with its first bytes, or when its expert is first among the fullest: a
rate has not seen what was before, and is at most what was counted."""
OF_RAY = {"cluster/Actors of Ray by state"}


# A served machine


def complete(door: str, model: str, prompt: str, tokens: int) -> None:
    body = json.dumps({"model": model, "prompt": prompt, "max_tokens": tokens}).encode()
    asked = urllib.request.Request(f"{door}/v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        assert answer.status == 200


def test_panels_show_what_a_served_machine_has_counted(tmp_path: Path) -> None:
    policy = {"name": "lru_prefetch", "parameters": {"slots": 3}}
    served = serving(policy=policy, serving={"max_batch": 4, "token_budget": 32})
    with behind_http(served, http_port=0) as behind:
        address = behind.url.removeprefix("http://")
        with started(tmp_path / "data", {"moelab-serve": address}) as prometheus:
            prometheus.scraped('moelab_machine_state{state="ready"}', bool)
            for number in range(6):
                complete(behind.url, behind.machine.model, "def read_lines(path): " * (number + 1), 8 + number)
                if number == 2:
                    behind.do(behind.machine.inject({"fault": "straggler", "device": "gpu", "to": "50 %"}))
            told = of_machine(behind.machine)
            ended = 'moelab_requests_total{outcome="length"}'
            at_s = prometheus.scraped(ended, lambda count: count == told.requests["length"])
            asked = Asked(at_s, 120, {"run": ".+", "policy": ".+"})
            wanted = expected(told, groups_of(prometheus, "", asked))
            wanted |= {
                "machine/KV blocks in use": [Answer({(): 0.0})],
                "cluster/State": [Answer({(state,): float(state == "ready") for state in (
                    "starting", "ready", "stopping", "failed")}, ("state",))],
                "cluster/Answers under way over HTTP": [Answer({(): 0.0})],
                "cluster/Faults that last": [Answer({(): 1.0})],
                "cluster/Scraped": [Answer({(address, "moelab-serve"): 1.0}, ("instance", "job"))]}
            begun = {name: wanted.pop(name)[0] for name in BEGUN_LATER}
            wrong, seen = differences(prometheus, wanted, asked)
            assert not wrong, "\n".join(wrong)
            assert set(wanted) == seen
            for name, whole in begun.items():
                (found,) = answers(prometheus, panel_of(name), asked)
                assert len(found) >= (whole.most or len(whole.values)), name
                assert all(0 <= rate <= whole.values[key] * (1 + SHARE) for key, rate in found.items()), name
            (doors,) = answers(prometheus, panel_of("cluster/Answers of the HTTP door"), asked)
            assert doors["200", "/v1/completions"] == 6


def test_a_served_machine_at_the_wall_clock_shows_how_late_it_is_and_what_its_cache_holds(tmp_path: Path) -> None:
    served = serving(policy="expert_parallel", clock="wall", wall={"dilation": 400}, serving={"max_batch": 4})
    with behind_http(served, http_port=0) as behind:
        address = behind.url.removeprefix("http://")
        with started(tmp_path / "data", {"moelab-serve": address}) as prometheus:
            prometheus.scraped('moelab_machine_state{state="ready"}', bool)
            asking = Thread(target=complete, args=(behind.url, behind.machine.model, "def read_lines(path):" * 8, 40))
            asking.start()
            busy_s = prometheus.scraped("moelab_requests_running", bool)
            asking.join(60)
            prometheus.scraped('moelab_requests_total{outcome="length"}', bool)
            figures: dict[str, Any] = {}

            def all_told(count: float) -> bool:
                """The machine may note how late it is once more behind the last token."""
                figures.update(cast(dict[str, Any], behind.machine.figures()))
                return bool(count == figures["late"]["count"])

            ended_s = prometheus.scraped("moelab_late_real_seconds_count", all_told)
            late = figures["late"]
            during, behind_it = (Asked(at_s, 60, {"run": ".+", "policy": ".+"}) for at_s in (busy_s, ended_s))
            wrong, _ = differences(prometheus, {
                "overview/Requests running and waiting": [Answer({(): 1.0}), Answer({(): 0.0})],
                "machine/KV blocks in use": [Answer({(): 1.0}, low={(): 1.0 / figures["kv"]["capacity_blocks"][0]})]},
                during)
            assert not wrong, "\n".join(wrong)
            # No more than the few blocks of one request.
            (used,) = answers(prometheus, panel_of("machine/KV blocks in use"), during)
            assert used[()] * figures["kv"]["capacity_blocks"][0] == pytest.approx(
                (figures["tokens"]["prompt"] + 40) / figures["kv"]["block_tokens"], abs=3)
            wrong, _ = differences(prometheus, {
                "cluster/Late tokens of a served machine": [one(late["sum_s"] / late["count"]),
                                                            bucketed(late["p99_s"])],
                "cluster/Dilation": [one(400.0)]}, behind_it)
            assert not wrong, "\n".join(wrong)


# Runs, as OpenMetrics over their emulated time

RUN: dict[str, Any] = {
    "machine": "h200-host", "model": {"name": "olmoe-1b-7b", "layers": 2},
    "policy": {"name": "lru_prefetch", "parameters": {"slots": 24}},
    "against": [{"name": "lru", "parameters": {"slots": 16}}], "forecast": {"name": "oracle", "accuracy": 0.8},
    "workload": {"work": "synthetic", "generator": {"name": "zipf", "skew": 0.6}, "serving": {
        "requests": 6, "max_batch": 4, "arrivals": {"name": "poisson", "rate_per_s": 2000},
        "prompt_tokens": {"mean": 8}, "output_tokens": {"mean": 5}, "slo": {"ttft": "2 ms", "tpot": "1 ms"}}}}
BROKEN: dict[str, Any] = {
    "machine": {"name": "edge-gpu-ndp", "options": {"units": 3}}, "model": {"name": "olmoe-1b-7b", "layers": 2},
    "policy": "expert_parallel", "workload": {"work": "synthetic", "generator": {"name": "zipf", "skew": 0.6},
                                              "batch": 2, "prompt_tokens": 4, "output_tokens": 8},
    "faults": [{"fault": "straggler", "device": "ndp1", "to": "25 %", "at": "100 us"},
               {"fault": "unit_dies", "device": "ndp2", "at": "1 ms"}]}


class Past(NamedTuple):
    """A run that is over, and how it is asked for: its result, and the time that its blocks span."""

    result: Result
    asked: Asked


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, dict[str, Past]]]:
    """A Prometheus that holds two runs under two policies, and one with faults, each at its emulated time."""
    folder = tmp_path_factory.mktemp("runs")
    results = compare(validate(RunConfig, RUN, "test"))
    broken = validate(RunConfig, BROKEN, "test")
    found, instants = {}, []
    for name, policy, result in [*(("cache", policy, result) for policy, result in results.items()),
                                 ("broken", "expert_parallel", run(broken))]:
        told = over_time(result, name, policy, SINCE_MS, dilation_of(result, None))
        instants += told
        seconds = (told[-1].at_ms - told[0].at_ms) // 1000 + 1
        found[f"{name} {policy}"] = Past(result, Asked(told[-1].at_ms / 1000, seconds, {
            "run_a": "cache", "policy_a": "lru_prefetch", "run_b": name, "policy_b": policy, "run": name,
            "policy": policy}))
    text = folder / "metrics.txt"
    text.write_text("".join(openmetrics(instants)), encoding="utf-8")
    blocks(text, folder / "data")
    with started(folder / "data", {}) as prometheus:
        yield prometheus, found


def test_panels_show_what_result_json_says(runs: tuple[Prometheus, dict[str, Past]]) -> None:
    """One test of three runs: side by side, each worker would make them anew."""
    prometheus, found = runs
    assert list(found) == ["cache lru_prefetch", "cache lru", "broken expert_parallel"]
    first = of_result(found["cache lru_prefetch"].result)
    for name, (result, asked) in found.items():
        told = of_result(result)
        groups = groups_of(prometheus, 'run="{run}", policy="{policy}"'.format(**asked.variables), asked)
        wanted = expected(told, groups) | compared(first, told)
        wanted["cluster/Pace"] = [Answer({(): told.emulated_s / asked.range_s})]
        wrong, seen = differences(prometheus, wanted, asked)
        assert not wrong, "\n".join([name, *wrong])
        assert seen == set(wanted)
        if name == "cache lru_prefetch":
            assert every_panel() - seen == OF_FAULTS | AT_THE_WALL_CLOCK | SERVED | OF_RAY | {"cluster/Scraped"}
        if name == "broken expert_parallel":
            assert seen >= OF_FAULTS


# A run at the wall clock, scraped while it is played and behind it


def test_panels_show_how_a_run_was_played(tmp_path: Path) -> None:
    asked_for = load_run("wall_demo", ["transport=local", "workload.output_tokens=3", "workload.requests=1",
                                       "wall.dilation=150"])
    watch = Watch("played")
    with opened(0, watch.families, None) as url, started(tmp_path / "data", {
            "moelab-run": url.removeprefix("http://").removesuffix("/metrics")}) as prometheus:
        result = run(asked_for, watch=watch)
        at_s = prometheus.scraped("moelab_done_ratio", lambda done: done == 1.0)
        asked = Asked(at_s, 120, {"run": "played", "policy": ".+"})
        wanted = {name: must for name, must in of_a_run(result).items() if panel_of(name).instant}
        wrong, seen = differences(prometheus, wanted, asked)
    assert not wrong, "\n".join(wrong)
    assert seen >= AT_THE_WALL_CLOCK
