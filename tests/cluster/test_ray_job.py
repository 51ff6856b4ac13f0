"""Jobs on a head that is already there: `ray job submit --working-dir .`, what they leave, how they are stopped."""

import contextlib
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from cluster.observe.result import Result
from tests.cluster.conftest import RAY, Head
from tests.conftest import ROOT
from tests.deploy.asked import Asked, answers, differences, groups_of, panel_of
from tests.deploy.prometheus_rig import started
from tests.deploy.told import expected, of_result
from tests.scraped import found, value
from tests.studies.small import written

pytestmark = pytest.mark.ray

TINY = ("--set", "against=[]", "--set", "workload.output_tokens=3", "--set", "workload.requests=1")


def job(head: Head, method: str, path: str = "", body: dict[str, Any] | None = None) -> Any:
    """What the job server answers."""
    request = urllib.request.Request(f"{head.dashboard}/api/jobs/{path}", method=method,
                                     data=None if body is None else json.dumps(body).encode(),
                                     headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def begin(head: Head, entry: str) -> str:
    """Submit without a working folder: the checkout is what is installed. Returns the job's name."""
    told: list[Any] = []

    def taken() -> bool:
        with contextlib.suppress(urllib.error.HTTPError):  # 500: its agent comes later where there is much to do
            told.append(job(head, "POST", body={"entrypoint": f"cd {ROOT} && {entry}"})["submission_id"])
        return bool(told)

    assert head.until(taken), "no job is taken"
    return str(told[0])


def ended(head: Head, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def over() -> bool:
        found.update(job(head, "GET", name))
        return found["status"] in ("SUCCEEDED", "FAILED", "STOPPED")

    assert head.until(over, 120), found
    return {**found, "logs": job(head, "GET", f"{name}/logs")["logs"]}


def test_a_submitted_run_leaves_its_result_its_digest_and_its_metrics(head: Head, tmp_path: Path) -> None:
    out = tmp_path / "out"
    submit = [*RAY, "job", "submit", "--address", head.dashboard, "--working-dir", ".", "--", "moelab", "run",
              "configs/run/demo.yaml", "--transport", "ray", "--out", f"file://{out}", "--set", "engine=spec",
              *TINY]  # a copy of the checkout has no compiled kernels yet
    done = subprocess.run(submit, cwd=ROOT, env=head.environment, capture_output=True, text=True, timeout=240,
                          check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with urllib.request.urlopen(head.metrics, timeout=30) as page:
        text = page.read().decode()
    result = json.loads((out / "result.json").read_text())
    assert (result["host"]["transport"], result["host"]["workers"], result["host"]["nodes"]) == ("ray", 5, 1)
    alone = subprocess.run([sys.executable, "-m", "cluster.main", "run", "demo", "--transport", "local", "--json",
                            "--out", str(tmp_path / "alone"), *TINY], cwd=ROOT, capture_output=True, text=True,
                           check=True)
    assert json.loads(alone.stdout)["digest"] == result["digest"]
    who = {"run": "demo", "policy": "expert_parallel"}
    assert value(text, "ray_moelab_output_tokens_total", **who) == result["emitted_tokens"]
    assert value(text, "ray_moelab_tokens_total", kind="output", **who) == result["emitted_tokens"]
    assert value(text, "ray_moelab_emulated_seconds_total", **who) == pytest.approx(result["makespan_ps"] / 1e12)
    for phase, part in result["phases"].items():
        assert value(text, "ray_moelab_steps_total", phase=phase, **who) == part["steps"]
        assert value(text, "ray_moelab_experts_misses_total", phase=phase, **who) == part["misses"]
    assert sum(found(text, "ray_moelab_link_bytes_total", **who)) == sum(
        link["total_bytes"] for link in result["traffic"])
    assert value(text, "ray_moelab_ttft_seconds_count_total", **who) == result["ttft"]["count"]
    buckets = {bound: value(text, "ray_moelab_itl_seconds_bucket_total", le=bound, **who)
               for bound in ("1e-06", "+Inf")}
    assert buckets == {"1e-06": 0, "+Inf": result["itl"]["count"]}
    assert value(text, "ray_moelab_restarts_total", **who) == 0
    panels_show(Result.read(out), head, tmp_path)
    assert head.is_clear()


def panels_show(result: Result, head: Head, folder: Path) -> None:
    """The dashboards have what came through Ray's agent, by the names that recording rules give it. Gauges are gone
    with their actor."""
    with started(folder / "data", {}, lists=str(head.folder / "prom_metrics_service_discovery.json")) as prometheus:
        who = f'run="demo", policy="{result.policy}"'  # other tests submit to the same head
        at_s = prometheus.scraped(f'moelab_tokens_total{{{who}, kind="output"}}', bool)
        asked = Asked(at_s, 60, {"run": "demo", "policy": result.policy})
        counted = expected(of_result(result), groups_of(prometheus, who, asked))
        wanted = {name: must for name, must in counted.items() if name in {
            "overview/Output tokens per emulated second", "overview/TTFT, mean", "overview/TPOT, mean",
            "overview/Requests answered", "overview/Emulated time", "experts/Fullest experts", "machine/Pre-emptions",
            "machine/Bytes by link and cause, since the run began", "cluster/Restarts"}}
        wrong, seen = differences(prometheus, wanted, asked)
        (actors,) = answers(prometheus, panel_of("cluster/Actors of Ray by state"), asked)
    assert not wrong, "\n".join(wrong)
    assert len(seen) == 9
    assert actors["DEAD",] >= result.host.workers


@pytest.mark.parametrize(("entry", "code", "sentence"), [
    ("moelab run demo --set policy=expert_paralel", 2, "did you mean 'expert_parallel'"),
    ("moelab compare nowhere.yaml", 2, "nowhere.yaml"),
    ("moelab sweep ndp_units --transport ray --out s4://bucket/x", 2, "'s4' is no kind of store"),
])
def test_what_is_wrong_with_a_job_is_told_in_a_sentence(head: Head, entry: str, code: int, sentence: str) -> None:
    found = ended(head, begin(head, entry))
    assert (found["status"], found["driver_exit_code"]) == ("FAILED", code), found
    said = [line for line in found["logs"].splitlines() if line.startswith("moelab: ")]
    assert len(said) == 1
    assert sentence in said[0]
    assert sentence in found["message"]  # what the submitter's status shows
    assert "Traceback" not in found["logs"]


def test_a_stopped_run_leaves_no_actor_and_no_file(head: Head, tmp_path: Path) -> None:
    name = begin(head, f"moelab run demo --out {tmp_path / 'out'} --set workload.output_tokens=900")
    try:
        assert head.until(lambda: len(head.actors()) == 6, 120)
    finally:
        job(head, "POST", f"{name}/stop")
    assert ended(head, name)["status"] == "STOPPED"
    assert head.is_clear()
    assert not (tmp_path / "out").exists()


def test_a_stopped_sweep_leaves_whole_rows_and_no_actor(head: Head, tmp_path: Path) -> None:
    study = written(tmp_path, points=[{"seed": seed} for seed in range(2000)])
    rows = tmp_path / "out" / "rows.jsonl"
    name = begin(head, f"moelab sweep {study} --transport ray --out {tmp_path / 'out'}")
    try:
        assert head.until(lambda: rows.exists() and rows.read_bytes().count(b"\n") > 2, 120)
    finally:
        asked = time.monotonic()
        job(head, "POST", f"{name}/stop")
    found = ended(head, name)
    assert found["status"] == "STOPPED"
    assert time.monotonic() - asked < 60
    kept = [json.loads(line) for line in rows.read_bytes().splitlines()]
    assert 2 < len(kept) < 2000
    assert {row["status"] for row in kept} == {"ok"}
    assert head.is_clear()
