"""What the manifests would have the operator do is done, word for word, on a head on loopback.

A RayJob's entrypoint and runtime environment are submitted as its mode submits them: in HTTPMode by a request to the
dashboard, in the other two by `ray job submit` in a shell. A RayService's serveConfigV2 is put to the dashboard; only
where Serve listens is changed, to loopback and a free port.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.conftest import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.soak]

FOLDER = ROOT / "deploy/kubernetes"
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
TOKEN = "not-a-secret-0123456789abcdef0123456789"
SERVICE_TOKEN = "nor-is-this-0123456789abcdef0123456789"
PATIENCE_S = 200.0


def spec(file: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / file).read_text(encoding="utf-8"))["spec"]
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass(frozen=True)
class Head:
    """A head as the manifests start one (a token, a folder for results), on loopback."""

    address: str
    environment: dict[str, str]
    results: Path

    def ask(self, method: str, path: str, body: object = None, token: str = TOKEN) -> Any:
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(f"{self.address}{path}", data, method=method, headers={
            "Content-Type": "application/json", "Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(asked, timeout=PATIENCE_S) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def submit_in_a_shell(self, name: str, job: dict[str, Any]) -> None:
        """As the submitter of K8sJobMode and SidecarMode does it."""
        line = (f"{' '.join(RAY)} job submit --address {self.address} --no-wait --submission-id {name} "
                f"--runtime-env-json {json.dumps(json.dumps(yaml.safe_load(job['runtimeEnvYAML'])))} "
                f"-- {job['entrypoint']} ;")
        done = subprocess.run(["bash", "-c", line], cwd=self.results, env=self.environment, capture_output=True,
                              text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def submit_by_request(self, name: str, job: dict[str, Any]) -> None:
        """As the operator does it in HTTPMode."""
        self.ask("POST", "/api/jobs/", {"submission_id": name, "entrypoint": job["entrypoint"],
                                        "runtime_env": yaml.safe_load(job["runtimeEnvYAML"])})

    def wait_for(self, name: str) -> None:
        """Until a job has ended; with its log where it did not succeed."""
        end = time.monotonic() + PATIENCE_S
        while (status := self.ask("GET", f"/api/jobs/{name}")["status"]) in ("PENDING", "RUNNING"):
            assert time.monotonic() < end, f"{name} is still {status}"
            time.sleep(0.5)
        assert status == "SUCCEEDED", self.ask("GET", f"/api/jobs/{name}/logs")["logs"]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="moelab-deploy-", dir=os.environ.get("RAY_TMPDIR")))
    results = folder / "results"
    results.mkdir()
    dashboard = free_port()
    inherited = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment = {**inherited, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0",
                   "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "MOELAB_TOKEN": SERVICE_TOKEN,
                   "HOME": str(folder),
                   "DASHBOARD_METRIC_PORT": str(free_port()), "AUTOSCALER_METRIC_PORT": str(free_port()),
                   "MOELAB_RESULTS": str(results), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    start = [*RAY, "start", "--head", "--node-ip-address=127.0.0.1", f"--port={free_port()}", f"--temp-dir={folder}",
             "--num-cpus=2", "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
             f"--dashboard-agent-listen-port={free_port()}"]
    asked = spec("cluster.yaml")["headGroupSpec"]["rayStartParams"]
    start.append(f"--object-store-memory={asked['object-store-memory']}")
    with (folder / "log").open("wb") as log:
        started = subprocess.Popen([*start, "--block"], env=environment, cwd=results, stdout=log, stderr=log)
    found = Head(f"http://127.0.0.1:{dashboard}", environment, results)
    try:
        wait_until_it_answers(found, started, folder / "log")
        yield found
    finally:
        # Not `ray stop`, which would stop every Ray of this host.
        family = psutil.Process(started.pid).children(recursive=True) if started.poll() is None else []
        started.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.wait(10)
        started.kill()
        started.wait()
        for process in psutil.wait_procs(family, timeout=5)[1]:
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def wait_until_it_answers(head: Head, started: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 120
    while True:
        try:
            head.ask("GET", "/api/version")
            return
        except OSError:
            assert started.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.5)


def test_who_has_no_token_submits_nothing(head: Head) -> None:
    with pytest.raises(urllib.error.HTTPError, match=r"40[13]"):
        head.ask("POST", "/api/jobs/", {"entrypoint": "true"}, token="a-guess")


def test_probes_need_no_token_and_are_answered(head: Head) -> None:
    ready = spec("cluster.yaml")["headGroupSpec"]["template"]["spec"]["containers"][0]["readinessProbe"]["httpGet"]
    with urllib.request.urlopen(f"{head.address}{ready['path']}", timeout=10.0) as answer:
        assert answer.read() == b"success"


def test_all_three_jobs_succeed_and_leave_their_results(head: Head) -> None:
    jobs = {file: spec(f"job-{file}.yaml") for file in ("k8s", "http", "sidecar")}
    for file, job in jobs.items():
        if job["submissionMode"] == "HTTPMode":
            head.submit_by_request(file, job)
        else:
            head.submit_in_a_shell(file, job)
    for file in jobs:
        head.wait_for(file)
    run = json.loads((head.results / "run/result.json").read_text(encoding="utf-8"))
    assert run["host"]["transport"] == "ray"
    assert run["config"]["workload"]["output_tokens"] == 8
    compared = {path.parent.name: json.loads(path.read_text(encoding="utf-8"))["digest"]
                for path in (head.results / "compare").glob("*/result.json")}
    assert sorted(compared) == ["lru", "on_demand"]
    assert len(set(compared.values())) == 2
    rows = (head.results / "sweep/rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert len([row for row in rows if json.loads(row).get("digest")]) == 12


def test_the_service_answers_to_its_token_and_tells_its_health(head: Head) -> None:
    config = yaml.safe_load(spec("service.yaml")["serveConfigV2"])
    (app,) = config["applications"]
    port = free_port()
    head.ask("PUT", "/api/serve/applications/", {**config, "http_options": {"host": "127.0.0.1", "port": port}})
    end = time.monotonic() + PATIENCE_S
    while (told := head.ask("GET", "/api/serve/applications/")["applications"].get(app["name"], {})).get(
            "status") != "RUNNING":
        assert time.monotonic() < end, told
        assert told.get("status") != "DEPLOY_FAILED", told["message"]
        time.sleep(0.5)
    served = Head(f"http://127.0.0.1:{port}", head.environment, head.results)
    assert served.ask("GET", "/health") == {"status": "ready"}
    asked = {"prompt": "def read_lines(path):", "max_tokens": 4}
    with pytest.raises(urllib.error.HTTPError, match="401"):
        served.ask("POST", "/v1/completions", asked, token="a-guess")
    answer = served.ask("POST", "/v1/completions", asked, token=SERVICE_TOKEN)
    assert answer["usage"]["completion_tokens"] == 4
    assert answer["choices"][0]["text"]
    assert answer["moelab"]["ttft_s"] > 0
