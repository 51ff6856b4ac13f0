"""A Ray cluster that is there before a run, for the tests that share one."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import ROOT

RAY = [sys.executable, "-m", "ray.scripts.scripts"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def end_all(mark: str) -> None:
    """End the processes that have this text in their command line, or as their home: Ray's agents change the first.
    `ray stop` would end those of every cluster."""
    found = [process for process in psutil.process_iter(["cmdline", "environ"]) if process.pid != os.getpid() and (
        mark in " ".join(process.info["cmdline"] or ()) or mark == (process.info["environ"] or {}).get("HOME"))]
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(found, timeout=20)


@dataclass(frozen=True)
class Head:
    """A head on loopback with a job server. environment: what a client of it needs; gcs: its address for drivers."""

    environment: dict[str, str]
    gcs: str
    dashboard: str
    metrics: str
    folder: Path

    @property
    def driver(self) -> dict[str, str]:
        """The environment of a driver that joins it."""
        return {**self.environment, "RAY_ADDRESS": self.gcs}

    def listed(self, what: str) -> list[dict[str, Any]]:
        """What the cluster's state says of `actors`, `placement_groups` or `nodes`."""
        with urllib.request.urlopen(f"{self.dashboard}/api/v0/{what}?limit=1000&detail=1", timeout=30) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]["result"]
            return found

    def actors(self) -> list[str]:
        """Names of the actors of ours that live, or are on their way."""
        return [row["name"] for row in self.listed("actors") if row["state"] != "DEAD" and "/" in (row["name"] or "")]

    def held(self) -> list[str]:
        """Placement groups that are there."""
        return [row["name"] for row in self.listed("placement_groups") if row["state"] != "REMOVED"]

    def until(self, what: Callable[[], object], timeout_s: float = 60.0) -> bool:
        """Wait until something holds."""
        deadline = time.monotonic() + timeout_s
        while not what():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.25)
        return True

    def is_clear(self) -> bool:
        """Whether nothing of any run is left, after a moment."""
        return self.until(lambda: not self.actors() and not self.held(), 30)

    def moelab(self, *arguments: str, **more: str) -> "subprocess.Popen[str]":
        """A driver that joins the cluster: `moelab ARGUMENTS`."""
        return subprocess.Popen([sys.executable, "-m", "cluster.main", *arguments], cwd=ROOT, text=True,
                                env={**self.driver, **more}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@contextlib.contextmanager
def joined(environment: dict[str, str], gcs: str, folder: Path, cpus: int = 2) -> Iterator[None]:
    """A further node joins the cluster, for a time."""
    log = folder / "node.log"
    with log.open("w") as told:
        node = subprocess.Popen([sys.executable, str(ROOT / "tests" / "cluster" / "second_node.py"), gcs, str(cpus)],
                                env=environment, stdout=told, stderr=told, start_new_session=True)
    deadline = time.monotonic() + 60
    while "up" not in log.read_text():
        assert node.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.25)
    processes = psutil.Process(node.pid).children(recursive=True)
    try:
        yield
    finally:
        node.terminate()
        node.wait(60)
        for process in psutil.wait_procs(processes, timeout=10)[1]:
            process.kill()


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """One head for all tests of a session that share a cluster; 2 CPUs."""
    folder = Path(tempfile.mkdtemp(prefix="moelab-head-", dir=os.environ.get("RAY_TMPDIR")))
    dashboard, gcs, metrics = free_port(), free_port(), free_port()
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_ADDRESS")}
    environment = {**kept, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0",
                   "RAY_AUTH_MODE": "disabled", "RAY_metrics_report_interval_ms": "1000", "HOME": str(folder),
                   "MOELAB_CACHE": str(folder / "head-cache"),
                   "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    start = [*RAY, "start", "--head", "--node-ip-address=127.0.0.1", f"--port={gcs}", f"--temp-dir={folder}",
             "--num-cpus=2", "--include-dashboard=true", "--dashboard-host=127.0.0.1",
             f"--dashboard-port={dashboard}", f"--metrics-export-port={metrics}",
             f"--dashboard-agent-listen-port={free_port()}"]  # its default is taken where another head runs
    try:
        done = subprocess.run(start, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        yield Head(environment, f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}",
                   f"http://127.0.0.1:{metrics}/metrics", folder)
    finally:  # a start that fails leaves processes, too
        end_all(str(folder))
        shutil.rmtree(folder, ignore_errors=True)
