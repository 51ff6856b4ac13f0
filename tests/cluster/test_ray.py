"""Ray as a transport: the same bytes, loopback only, nothing left behind."""

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster import run as running
from cluster.config.reading import load_run
from cluster.config.run import RunConfig
from emulation.errors import MoelabError

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
              pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]
"""Ray drops its handles of processes that it has told to end; that they do end is tested here."""

LOOPBACK = ("127.0.0.1:", "[::1]:", "[::ffff:127.0.0.1]:")
SMALL = ["workload.output_tokens=4", "workload.requests=2", "against=[]"]


def small(*settings: str) -> RunConfig:
    return load_run("demo", [*SMALL, *settings])


def ray_processes() -> list[psutil.Process]:
    """Processes of this test's Ray clusters: descendants of ours, or orphans of a raylet that we started."""
    return [p for p in psutil.process_iter(["name", "cmdline"])
            if any(word in " ".join(p.info["cmdline"] or []) for word in ("raylet", "gcs_server", "ray::"))]


def listening_elsewhere(stop: threading.Event, found: set[str]) -> None:
    """Collect sockets of Ray's processes that listen on anything but loopback."""
    while not stop.is_set():
        pids = {p.pid for p in ray_processes()}
        lines = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout.splitlines()
        for line in lines:
            local = line.split()[3]
            if any(f"pid={pid}," in line for pid in pids):
                found.add("loopback" if local.startswith(LOOPBACK) else line)
        stop.wait(0.5)


@pytest.fixture(autouse=True)
def _handles_are_dropped_within_the_test() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture(scope="module")
def wanted() -> str:
    return running.run(small("transport=local")).digest


def test_the_same_bytes_on_loopback_only_and_nothing_left(wanted: str) -> None:
    before = set(os.environ.items())
    stop, found = threading.Event(), set[str]()
    watcher = threading.Thread(target=listening_elsewhere, args=(stop, found))
    watcher.start()
    try:
        results = [running.run(small("transport=ray", f"devices_per_actor={n}")) for n in (1, 3)]
    finally:
        stop.set()
        watcher.join()
    assert [result.digest for result in results] == [wanted, wanted]
    assert [result.host.workers for result in results] == [5, 2]
    assert found == {"loopback"}
    deadline = time.monotonic() + 15
    while ray_processes() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ray_processes() == []
    assert set(os.environ.items()) == before


def test_an_error_of_ours_in_an_actor_keeps_its_sentence() -> None:
    with pytest.raises(MoelabError, match="did you mean 'expert_parallel'") as caught:
        running.run(small("transport=ray", "policy=expert_paralel"))
    assert "\n" not in str(caught.value)


def test_a_cluster_that_died_uncleanly_does_not_matter(wanted: str, tmp_path: Path) -> None:
    script = "import ray, os, signal; ray.init(address='local', include_dashboard=False); os.kill(os.getpid(), 9)"
    environment = {**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0",
                   "RAY_TMPDIR": os.environ.get("RAY_TMPDIR", "/tmp"), "HOME": str(tmp_path)}
    dirty = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=False)
    assert dirty.returncode == -9
    assert running.run(small("transport=ray", "devices_per_actor=5")).digest == wanted
    for process in ray_processes():
        process.kill()
