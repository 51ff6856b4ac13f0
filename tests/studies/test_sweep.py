"""Sweeps: every point once, whatever dies; each row is its run's."""

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster import run as running
from cluster.main import enter
from cluster.observe.result import Result
from emulation.errors import ConfigError
from studies.sweep import Options, Swept, sweep
from studies.sweep_study import load_study
from tests.studies.small import POLICY, lines, started, told, written

LONG: dict[str, Any] = {"grid": {"seed": list(range(12)), "workload.batch": [1, 2]},
                        "set": {"model.layers": 4, "workload.output_tokens": 20}}
"""Points of tenths of a second, so that kills fall into them."""


def swept(study: Path, folder: Path, **options: Any) -> Swept:
    return sweep(load_study(study), folder, Options(**{"workers": 2, **options}))


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The long study's rows from a sweep that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    return told(swept(written(folder, **LONG), folder / "out").rows)


def policy(folder: Path, body: str) -> str:
    (folder / "mine.py").write_text(POLICY.format(body=body))
    return "./mine.py"


def test_each_point_has_one_row_and_it_is_its_runs(tmp_path: Path) -> None:
    study = load_study(written(tmp_path))
    heard: list[tuple[int, int, int]] = []
    done = sweep(study, tmp_path / "out", Options(workers=2, keep=True), counted=lambda *told: heard.append(told))
    assert heard == [(6, there, 0) for there in range(7)]
    assert (done.ran, done.kept, done.failed, done.stray) == (6, 0, [], 0)
    assert told(done.rows) == told(lines(tmp_path / "out"))
    assert [row["point"] for row in done.rows] == [point.key for point in study.expand()]
    for point, row in zip(study.expand(), done.rows, strict=True):
        result = running.run(point.config)
        assert row["digest"] == result.digest
        assert Result.read(tmp_path / "out" / "results" / f"{point.key}.json").digest == result.digest
        assert (row["seed"], row["workload.batch"]) == (point.config.seed, point.config.workload.batch)
        assert row["makespan_s"] == result.makespan_ps / 10**12
        assert result.ttft is not None
        assert result.bound is not None
        assert row["ttft.p50_s"] == result.ttft.p50_s
        assert row["decode.hit_rate"] == result.phases["decode"].hit_rate
        assert row["bound.times"] == result.bound.times
        assert row["memory.peak_bytes"] == max(memory.peak_bytes for memory in result.memory)
        assert row["traffic.dispatch_bytes"] == sum(link.bytes.get("dispatch", 0) for link in result.traffic)


def test_a_sweep_again_runs_nothing_and_a_study_that_grows_runs_what_is_new(tmp_path: Path) -> None:
    first = swept(written(tmp_path), tmp_path / "out")
    before = (tmp_path / "out" / "rows.jsonl").read_bytes()
    again = swept(written(tmp_path), tmp_path / "out")
    assert (again.ran, again.kept, again.rows) == (0, 6, first.rows)
    assert (tmp_path / "out" / "rows.jsonl").read_bytes() == before
    grown = swept(written(tmp_path, grid={"seed": [0, 1, 7], "workload.batch": [2]}), tmp_path / "out")
    assert (grown.ran, grown.kept, grown.stray) == (1, 2, 4)
    assert len(lines(tmp_path / "out")) == 7


def test_one_worker_and_many_give_the_same_rows(tmp_path: Path) -> None:
    rows = [told(swept(written(tmp_path), tmp_path / str(n), workers=n).rows) for n in (1, 3)]
    assert rows[0] == rows[1]


def test_what_fails_is_a_row_with_its_sentence_until_it_is_retried(tmp_path: Path) -> None:
    wish = tmp_path / "wish"
    named = policy(tmp_path, f"if not Path({str(wish)!r}).exists(): raise ValueError('no\\nwish')")
    points = [{"seed": 1}, {"workload.prompt_tokens": 10**8}, {"policy": named},
              {"policy": "lru", "policy.parameters.slot": 2}]
    study = written(tmp_path, points=points)
    done = swept(study, tmp_path / "out")
    assert [row["status"] for row in done.rows] == ["ok", "failed", "failed", "failed"]
    assert [row.get("error_kind") for row in done.rows] == [None, "ConfigError", "ValueError", "ConfigError"]
    assert "does not fit template" in done.rows[1]["error"]
    assert done.rows[2]["error"] == "ValueError at mine.py line 8: no wish"
    assert all("\n" not in row["error"] for row in done.failed)
    assert swept(study, tmp_path / "out").ran == 0
    wish.touch()
    retried = swept(study, tmp_path / "out", retry_failed=True)
    assert (retried.ran, retried.kept) == (3, 1)
    assert [row["status"] for row in retried.rows] == ["ok", "failed", "ok", "failed"]


@pytest.mark.parametrize("body", ["os._exit(3)", "os.kill(os.getpid(), 9)", "raise SystemExit(3)"])
def test_a_point_that_ends_its_worker_is_tried_twice_and_fails_alone(body: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    named = policy(tmp_path, f"open({str(log)!r}, 'a').write('x'); {body}")
    done = swept(written(tmp_path, points=[{"seed": 1}, {"policy": named}, {"seed": 2}, {"seed": 3}]), tmp_path / "out")
    assert [row["status"] for row in done.rows] == ["ok", "failed", "ok", "ok"]
    if body.startswith("raise"):
        assert (done.rows[1]["error_kind"], log.read_text()) == ("SystemExit", "x")
    else:
        how = "was ended by SIGKILL" if "kill" in body else "ended with exit code 3"
        assert done.rows[1]["error"] == f"its worker {how}, 2 times in 2 attempts"
        assert (done.rows[1]["error_kind"], log.read_text()) == ("WorkerDied", "xx")


def test_a_point_whose_worker_died_once_is_carried_out(tmp_path: Path) -> None:
    once = tmp_path / "once"
    named = policy(tmp_path, f"p = Path({str(once)!r}); p.exists() or (p.touch(), os._exit(1))")
    done = swept(written(tmp_path, points=[{"policy": named}]), tmp_path / "out", workers=1)
    assert [row["status"] for row in done.rows] == ["ok"]


def workers_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The processes that carry out points: children of the fork server."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [below for child in psutil.Process(process.pid).children() for below in child.children()]
    return []


def all_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process.pid).children(recursive=True)
    return []


def wait_for_work(process: "subprocess.Popen[str]", out: Path | None = None) -> None:
    """Until there are workers, and, where a folder is named, a row in it; or until the sweep has ended."""
    deadline = time.monotonic() + 60
    while process.poll() is None and not (workers_of(process) and (out is None or whole_rows(out))):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def whole_rows(folder: Path) -> bytes:
    file = folder / "rows.jsonl"
    data = file.read_bytes() if file.exists() else b""
    return data[:data.rfind(b"\n") + 1]


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2])
def test_kills_at_any_moment_lose_nothing_and_repeat_nothing(seed: int, tmp_path: Path, wanted: list[str]) -> None:
    chance = random.Random(seed)
    study, out, kept = written(tmp_path, **LONG), tmp_path / "out", b""
    interrupted = 0
    for victim in chance.sample(["parent", "worker", "all", "server"], 4):
        process = started(study, out)
        wait_for_work(process)
        time.sleep(chance.uniform(0, 0.6))
        everyone, targets = all_of(process), {
            "parent": [psutil.Process(process.pid)] if process.poll() is None else [],
            "worker": workers_of(process)[:1], "server": all_of(process)[:1],
            "all": [*all_of(process), psutil.Process(process.pid)] if process.poll() is None else []}[victim]
        for target in targets:
            with contextlib.suppress(psutil.NoSuchProcess):
                target.kill()
        if victim in ("worker", "server"):
            time.sleep(chance.uniform(0, 0.6))
            process.kill()
        process.communicate(timeout=60)
        interrupted += process.returncode == -signal.SIGKILL
        _, alive = psutil.wait_procs(everyone, timeout=20)
        assert alive == []
        now = whole_rows(out)
        assert now.startswith(kept)  # what was acknowledged stays as it was
        kept = now
    assert interrupted >= 2
    done = swept(study, out)
    assert whole_rows(out).startswith(kept)
    assert told(done.rows) == wanted
    points = [row["point"] for row in lines(out)]
    assert len(points) == len(set(points)) == len(wanted)


@pytest.mark.slow
def test_workers_killed_one_after_another_are_replaced(tmp_path: Path, wanted: list[str]) -> None:
    study, out = written(tmp_path, **LONG), tmp_path / "out"
    process = started(study, out)
    for _ in range(3):
        wait_for_work(process)
        time.sleep(0.1)
        rows = whole_rows(out).count(b"\n")
        for worker in workers_of(process)[:1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
        # A point is tried twice: what was begun by now ends before the next kill.
        while process.poll() is None and whole_rows(out).count(b"\n") < rows + 4:
            time.sleep(0.01)
    _, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (0, "")
    assert told(lines(out)) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("wait_s", [0.3, pytest.param(0.0, marks=pytest.mark.soak)])
def test_ctrl_c_ends_with_130_whole_rows_and_no_process(tmp_path: Path, wanted: list[str], wait_s: float) -> None:
    study, out = written(tmp_path, **LONG), tmp_path / "out"
    process = started(study, out)
    wait_for_work(process, out)
    everyone = all_of(process)
    time.sleep(wait_s)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "moelab: interrupted\n")
    _, alive = psutil.wait_procs(everyone, timeout=20)
    assert alive == []
    assert lines(out)
    assert told(swept(study, out).rows) == wanted


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_the_sweep_goes_on_when_there_is_room(tmp_path: Path) -> None:
    study, out = written(tmp_path), tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        process = started(study, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.startswith("moelab: cannot write ")
    assert "File too large; its 2 points are kept" in said
    assert said.count("\n") == 1
    assert len(lines(out)) == 2
    assert (swept(study, out).ran, len(lines(out))) == (4, 6)


def test_a_second_sweep_into_the_same_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from studies.sweep_rows import RowFile

    with RowFile(tmp_path / "out" / "rows.jsonl"):
        assert enter(["sweep", str(written(tmp_path)), "--out", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert "another sweep is writing into" in err
    assert err.count("\n") == 1


def test_a_transport_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown transport of a sweep 'rai'; did you mean 'ray'"):
        swept(written(tmp_path), tmp_path / "out", transport="rai")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_line_sweeps_shows_and_tells_failures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(folder, grid={"seed": [0, 1], "workload.prompt_tokens": [2, 10**8]})
    assert enter(["sweep", "./mine.yaml", "--workers", "1", "--json"]) == 1
    facts = json.loads(capsys.readouterr().out)
    assert (facts["points"], facts["ran"], facts["failed"], facts["folder"]) == (4, 4, 2, "runs/mine")
    assert facts["best"]["output_tokens_per_s"] == max(row.get("output_tokens_per_s", 0) for row in facts["rows"])
    assert enter(["sweep", "--workers", "1", "./mine.yaml"]) == 1
    out = capsys.readouterr().out
    assert "2 of 2 points, the most output_tokens_per_s first" in out
    assert "failed: 2 points, ConfigError: olmoe-1b-7b at bf16 does not fit template" in out
    assert "4 points: 0 carried out now, 4 before, 2 failed" in out
    assert enter(["sweep", "show", "runs/mine", "--least", "makespan_s", "--top", "1", "--json"]) == 0
    (first,) = json.loads(capsys.readouterr().out)
    assert first["makespan_s"] == min(row["makespan_s"] for row in facts["rows"] if row["status"] == "ok")
    assert enter(["sweep", "show", "runs/mine/rows.jsonl"]) == 0
    assert capsys.readouterr().out.startswith("2 of 2 points")
    assert enter(["sweep", "show", "nowhere"]) == 3
    assert enter(["sweep", "./mine.yaml", "--workers", "0"]) == 2


@pytest.mark.soak
def test_two_workers_are_as_busy_as_one(tmp_path: Path) -> None:
    # Time in points over the workers' time: what a sweep itself adds. A busy host stretches both alike, so the share
    # holds there too, which a ratio of two times does not (`moelab bench sweep` has that one).
    swept(written(tmp_path, grid={"seed": [0]}), tmp_path / "warm")  # the fork server
    study = written(tmp_path, grid={"seed": list(range(24)), "workload.batch": [2]},
                    set={"model.layers": 4, "workload.output_tokens": 50})
    share: dict[int, list[float]] = {1: [0.0], 2: [0.0]}
    for turn in range(3):
        for workers in (1, 2):
            if max(share[workers]) < 0.9:
                began = time.perf_counter()
                rows = swept(study, tmp_path / f"{turn}-{workers}", workers=workers).rows
                share[workers].append(sum(row["host_s"] for row in rows) / (workers * (time.perf_counter() - began)))
    assert max(share[1]) >= 0.9, share
    assert max(share[2]) >= 0.9, share
