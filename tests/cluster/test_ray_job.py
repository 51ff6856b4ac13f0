"""A run as a Ray job on a head that is already there: `ray job submit --working-dir .`."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.ray

RAY = [sys.executable, "-m", "ray.scripts.scripts"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def head() -> Iterator[dict[str, str]]:
    """A head on loopback with a job server; what a client needs in its environment."""
    folder = tempfile.mkdtemp(prefix="moelab-job-", dir=os.environ.get("RAY_TMPDIR"))
    dashboard = free_port()
    environment = {**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0",
                   "RAY_AUTH_MODE": "disabled", "HOME": folder,
                   "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    start = [*RAY, "start", "--head", "--node-ip-address=127.0.0.1", f"--port={free_port()}",
             f"--temp-dir={folder}", "--num-cpus=2", "--include-dashboard=true", "--dashboard-host=127.0.0.1",
             f"--dashboard-port={dashboard}"]
    subprocess.run(start, env=environment, check=True, capture_output=True, timeout=120)
    yield {**environment, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    subprocess.run([*RAY, "stop", "--force"], env=environment, check=False, capture_output=True, timeout=60)
    shutil.rmtree(folder, ignore_errors=True)


def submit(head: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in head.items() if key != "RAY_ADDRESS"}
    return subprocess.run([*RAY, "job", "submit", "--address", head["RAY_API_SERVER_ADDRESS"], "--working-dir", ".",
                           "--", *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240,
                          check=False)


def test_a_submitted_run_leaves_its_result_and_its_digest(head: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = submit(head, "python", "-m", "cluster.main", "run", "demo", "--out", str(out), "--set", "against=[]",
                  "--set", "workload.output_tokens=3", "--set", "workload.requests=1")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((out / "result.json").read_text())
    assert result["host"]["transport"] == "ray"
    alone = subprocess.run([sys.executable, "-m", "cluster.main", "run", "demo", "--transport", "local", "--json",
                            "--out", str(tmp_path / "alone"), "--set", "against=[]", "--set",
                            "workload.output_tokens=3", "--set", "workload.requests=1"], cwd=ROOT, capture_output=True,
                           text=True, check=True)
    assert json.loads(alone.stdout)["digest"] == result["digest"]


def test_what_is_wrong_with_a_submitted_run_is_told_in_a_sentence(head: dict[str, str]) -> None:
    done = submit(head, "python", "-m", "cluster.main", "run", "demo", "--set", "policy=expert_paralel")
    told = done.stdout + done.stderr
    assert done.returncode != 0
    assert "did you mean 'expert_parallel'" in told
    assert "Traceback" not in told
