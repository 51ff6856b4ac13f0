"""The machine as an ingress of Ray Serve, run as a RayService runs it, and asked through the official client."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.conftest import ROOT
from tests.scraped import value

pytestmark = pytest.mark.ray

RAY = [sys.executable, "-m", "ray.scripts.scripts"]
SERVE = [sys.executable, "-m", "ray.serve.scripts"]
START_S = 150.0
RUN = """
machine: {name: edge-gpu-ndp, options: {units: 2}}
model: embedded
policy: expert_parallel
workload:
  work: synthetic
  generator: {name: zipf, skew: 0.6}
  serving: {max_batch: 16, token_budget: 64}
serve: {max_prompt_tokens: 64, max_output_tokens: 4096}
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def head() -> Iterator[dict[str, str]]:
    """A head on loopback; the environment that its clients need."""
    folder = tempfile.mkdtemp(prefix="moelab-serve-", dir=os.environ.get("RAY_TMPDIR"))
    port = free_port()
    environment = {**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0",
                   "RAY_AUTH_MODE": "disabled", "HOME": folder, "PYTHONPATH": str(ROOT),
                   "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [*RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}",
               f"--temp-dir={folder}", "--num-cpus=2", "--include-dashboard=false"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          start_new_session=True) as running:
        until = time.monotonic() + START_S
        while not listens(port):
            assert running.poll() is None, "the head did not start"
            assert time.monotonic() < until, "the head did not start in time"
            time.sleep(0.2)
        yield {**environment, "RAY_ADDRESS": f"127.0.0.1:{port}"}
        running.terminate()  # it takes its own processes along; `ray stop` would take every head of the host
        running.wait(60)
    shutil.rmtree(folder, ignore_errors=True)


def listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def test_serve_run_answers_the_official_client_and_ends_with_grace(head: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    start = [*SERVE, "start", "--http-host", "127.0.0.1", "--http-port", str(port)]
    subprocess.run(start, cwd=ROOT, env=head, check=True, capture_output=True, timeout=120)
    run = tmp_path / "small.yaml"
    run.write_text(RUN, encoding="utf-8")
    command = [*SERVE, "run", "cluster.serve.ingress:app", f"run={run}", "clock=virtual", "max_streams=8"]
    with (tmp_path / "log").open("w") as log:
        served = subprocess.Popen(command, cwd=ROOT, env=head, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + START_S
        while not is_ready(url):
            assert served.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < until, (tmp_path / "log").read_text()
            time.sleep(0.5)
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            found: Any = client.completions.create(model="embedded", prompt="Hello", max_tokens=4)
            assert found.usage.completion_tokens == 4
            assert found.moelab["ttft_s"] > 0
            chunks = list(client.chat.completions.create(
                model="embedded", messages=[{"role": "user", "content": "Hello"}], max_tokens=4, stream=True))
            assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "length"]
            with pytest.raises(openai.BadRequestError):
                client.completions.create(model="embedded", prompt="Hello", max_tokens=10**6)
        assert "moelab serve" in httpx.get(f"{url}/").text
        assert "emulated time ago" in httpx.get(f"{url}/live").text
        with httpx.stream("POST", f"{url}/v1/completions", json={"prompt": "a", "max_tokens": 4000, "stream": True,
                                                                 "ignore_eos": True}) as gone:
            next(gone.iter_raw())
        while value(httpx.get(f"{url}/metrics").text, "moelab_http_streams"):
            assert time.monotonic() < until
            time.sleep(0.2)
        assert value(httpx.get(f"{url}/metrics").text, "moelab_requests_total", outcome="cancelled") == 1
    finally:
        served.send_signal(signal.SIGINT)
        served.wait(60)
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{url}/health").raise_for_status()


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


WRONG = """
import click, json, sys
from cluster.serve.ingress import app

for arguments in json.loads(sys.argv[1]):
    try:
        app(arguments)
    except click.ClickException as error:  # what its command line shows without a traceback
        print(error.exit_code, error.format_message())
"""


def test_a_wrong_argument_is_one_sentence_for_serve_run() -> None:
    """In a process of its own: a Ray that is imported before its settings keeps to those that it found."""
    wrong = [{"rn": "x"}, {"run": "serve_embeded"}]
    done = subprocess.run([sys.executable, "-c", WRONG, json.dumps(wrong)], cwd=ROOT, capture_output=True, text=True,
                          check=True)
    first, second = done.stdout.splitlines()
    assert first.startswith("2 ")
    assert "unknown key 'rn'; did you mean 'run'?" in first
    assert second.startswith("2 ")
    assert "did you mean 'serve_embedded'?" in second
