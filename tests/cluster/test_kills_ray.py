"""Ray actors that are killed, the scheduler among them, and a node that is lost: the same bytes.

Each seed is printed. `pytest -m soak tests/cluster/test_kills_ray.py` kills in every state three times.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster import run as running
from cluster.config.reading import load_run
from cluster.transports.crash import STATES, VARIABLE
from tests.cluster.conftest import RAY, Head, free_port, joined
from tests.conftest import ROOT

pytestmark = pytest.mark.ray

SMALL = ["workload.output_tokens=4", "workload.requests=3", "workload.batch=1", "policy=lru", "against=[]",
         "devices_per_actor=3", "ray.cpus_per_actor=0.3"]


def told_by(head: Head, out: Path, settings: list[str], points: list[str], patience_s: float = 280) -> tuple[str, int]:
    """The digest of a run on a cluster in which processes end themselves, and how many were started again."""
    arguments = [word for setting in settings for word in ("--set", setting)]
    process = head.moelab("run", "demo", "--json", "--out", str(out), *arguments, **{VARIABLE: ",".join(points)})
    stdout, stderr = process.communicate(timeout=patience_s)
    assert process.returncode == 0, stderr
    result = json.loads(stdout)  # and nothing of Ray's beside it
    return result["digest"], result["host"]["restarts"]


def later(head: Head) -> set[str]:
    """Names of actors that were started in the place of others."""
    names = {row["name"] or "" for row in head.listed("actors")}
    return {name for name in names if "#" in name.rpartition("/")[2]}


@pytest.fixture(scope="module")
def wanted() -> str:
    return running.run(load_run("demo", [*SMALL, "transport=local"])).digest


def test_killed_devices_and_schedulers_change_nothing(head: Head, wanted: str, tmp_path: Path) -> None:
    """A device dies, and so does the one in its place, before it has said that it is there; then the scheduler, and the
    next one when all is done."""
    points = ["worker:0:working:2", "worker:0:opened:1:1", "scheduler:0:decided:40", "scheduler:0:finishing:1:1"]
    before = later(head)
    digest, restarts = told_by(head, tmp_path, [*SMALL, "restarts=20"], points)
    assert digest == wanted
    names = [name.rpartition("/") for name in sorted(later(head) - before)]
    assert {"scheduler#2", "scheduler#3"} <= {name for _, _, name in names}
    assert sum("#" not in label and not name.startswith("scheduler") for label, _, name in names) == 2
    assert 2 <= restarts <= len(names)  # what a scheduler had not told when it died, nobody counts
    assert head.is_clear()


def test_without_restarts_a_killed_actor_is_one_sentence(head: Head, tmp_path: Path) -> None:
    settings = [word for setting in [*SMALL, "restarts=0"] for word in ("--set", setting)]
    process = head.moelab("run", "demo", "--out", str(tmp_path / "o"), *settings, **{VARIABLE: "scheduler:0:opening:1"})
    stdout, stderr = process.communicate(timeout=200)
    assert (process.returncode, stdout) == (6, "")
    assert stderr.strip().splitlines()[-1].startswith("moelab: the scheduler actor died: ")
    assert "Traceback" not in stderr
    assert not (tmp_path / "o").exists()


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_every_state_three_times(head: Head, wanted: str, tmp_path: Path) -> None:
    seed = int(time.time())
    print(f"seed {seed}")
    rng, kills = random.Random(seed), 0
    for _ in range(3):
        lives = [f"scheduler:0:{state}:{rng.randint(1, 30) if state in ('decided', 'exchanging', 'exchanged') else 1}"
                 for state in STATES["scheduler"]]
        lives = [f"{point}:{life}" for life, point in enumerate(rng.sample(lives, len(lives)))]
        states = [state for state in STATES["worker"] if state not in ("answered", "closing")]  # of pipes only
        workers = [f"worker:{rng.randint(0, 1)}:{state}:{1 if state in ('starting', 'opened') else rng.randint(1, 2)}"
                   for state in states]
        for points in (lives[:4], lives[4:], workers[:2], workers[2:]):
            points = [point.rpartition(":")[0] + f":{i}" if point.startswith("scheduler") else point
                      for i, point in enumerate(points)]
            print(",".join(points))
            digest, restarts = told_by(head, tmp_path, SMALL, points, 1200)
            assert digest == wanted
            assert restarts >= 1
            kills += restarts
    print(f"{kills} kills")


@pytest.fixture
def two_nodes() -> Iterator[tuple[Head, list[psutil.Process]]]:
    """A head of its own that sees within seconds that a node is lost, and the raylet of a second node."""
    folder, port = Path(tempfile.mkdtemp(prefix="moelab-two-", dir=os.environ.get("RAY_TMPDIR"))), free_port()
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_ADDRESS")}
    environment = {**kept, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0",
                   "HOME": str(folder), "RAY_AUTH_MODE": "disabled", "RAY_health_check_period_ms": "1000",
                   "RAY_health_check_timeout_ms": "3000", "RAY_health_check_failure_threshold": "3"}

    try:
        done = subprocess.run([*RAY, "start", "--node-ip-address=127.0.0.1", "--num-cpus=2", "--head", f"--port={port}",
                               f"--temp-dir={folder}", "--include-dashboard=false"], env=environment,
                              capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        first = _raylets(folder)
        with joined(environment, f"127.0.0.1:{port}", folder):
            second = [raylet for raylet in _raylets(folder) if raylet not in first]
            yield Head(environment, f"127.0.0.1:{port}", "", "", folder), second
    finally:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if any(str(folder) in word for word in process.cmdline()):
                    process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _raylets(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() == "raylet" and any(str(folder) in word for word in process.cmdline()):
                found.append(process)
    return found


@pytest.mark.soak
def test_the_devices_of_a_lost_node_go_on_elsewhere(two_nodes: tuple[Head, list[psutil.Process]],
                                                    tmp_path: Path) -> None:
    head, (raylet,) = two_nodes
    settings = ["workload.output_tokens=60", "workload.requests=2", "policy=lru", "against=[]", "ray.placement=spread",
                "ray.cpus_per_actor=0.3"]
    wanted = running.run(load_run("demo", [*settings, "transport=local"])).digest
    arguments = [word for setting in settings for word in ("--set", setting)]
    process = head.moelab("run", "demo", "--json", "--out", str(tmp_path / "o"), *arguments)
    deadline, devices = time.monotonic() + 120, 0
    while not devices and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.2)
        with contextlib.suppress(psutil.Error):
            devices = sum("DeviceGroup" in child.name() for child in raylet.children())
    time.sleep(2.0)
    os.kill(raylet.pid, signal.SIGKILL)
    assert process.poll() is None  # the run was under way
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
    result = json.loads(stdout)
    assert result["digest"] == wanted
    assert result["host"]["restarts"] >= 1
    assert result["host"]["nodes"] == 1


@pytest.mark.soak
def test_where_the_only_node_is_lost_the_run_ends_in_a_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cluster.main", "run", "demo", "--transport", "ray", "--out", str(tmp_path / "o"),
               "--set", "workload.output_tokens=2000", "--set", "against=[]"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    below: list[psutil.Process] = []
    deadline = time.monotonic() + 240
    while sum("DeviceGroup" in child.name() for child in below if child.is_running()) < 5:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.5)
        with contextlib.suppress(psutil.Error):
            below = psutil.Process(process.pid).children(recursive=True)
    (raylet,) = (child for child in below if child.name() == "raylet")
    raylet.kill()
    _, stderr = process.communicate(timeout=240)
    assert process.returncode == 6, stderr
    assert stderr.startswith("moelab: the scheduler actor died: ")
    assert stderr.endswith(", and the Ray cluster has no node left for another\n")
    assert stderr.count("\n") == 1
    assert psutil.wait_procs(below, timeout=60)[1] == []
    assert not (tmp_path / "o").exists()
