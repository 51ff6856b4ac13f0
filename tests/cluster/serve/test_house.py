"""`moelab serve` from the command line: what it refuses, and how it is switched off."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from cluster.main import enter
from tests.scraped import value

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["serve", "serve_qwen3", "--host", "0.0.0.0"], "listens on 127.0.0.1 only"),
    (["serve", "serve_qwen3", "--transport", "ray"], "serve over local or processes"),
    (["serve", "serve_qwen3", "--dilation", "-1"], "should be auto"),
    (["serve", "serve_qwen"], "did you mean 'serve_qwen3'"),
    (["run", "serve_qwen3"], "start this run with `moelab serve`"),
    (["compare", "serve_embedded", "--policies", "lru(slots=4),on_demand"], "start this run with `moelab serve`")])
def test_what_is_wrong_is_one_sentence(arguments: list[str], sentence: str, tmp_path: Path,
                                       capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert enter(arguments) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1


@pytest.mark.slow
def test_switched_off_while_it_answers_it_ends_the_answer_and_leaves_nothing(tmp_path: Path) -> None:
    ready, run = tmp_path / "ready.json", tmp_path / "small.yaml"
    run.write_text(
        "machine: {name: edge-gpu-ndp, options: {units: 2}}\nmodel: embedded\npolicy: expert_parallel\n"
        "workload: {work: synthetic, generator: {name: zipf, skew: 0.6}, serving: {max_batch: 4}}\n"
        "clock: wall\nwall: {dilation: 300}\n")
    started = [sys.executable, "-m", "cluster.main", "serve", str(run), "--http-port", "0", "--ready-file", str(ready)]
    server = subprocess.Popen(started, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        until_s = time.monotonic() + 100
        while not ready.exists() and server.poll() is None and time.monotonic() < until_s:
            time.sleep(0.05)
        door, heard = json.loads(ready.read_text())["http"], list[dict[str, object]]()

        def listen() -> None:
            body = json.dumps({"model": "embedded", "prompt": "hello", "max_tokens": 20}).encode()
            asked = urllib.request.Request(f"{door}/v1/completions", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(asked, timeout=60) as answer:
                heard.append(json.load(answer))

        listener = threading.Thread(target=listen)
        listener.start()
        while value(urllib.request.urlopen(f"{door}/metrics", timeout=60).read().decode(),
                    "moelab_requests_running") != 1:
            assert listener.is_alive()
        server.send_signal(signal.SIGTERM)
        out, err = server.communicate(timeout=60)
        listener.join(60)
    finally:
        server.kill()
        server.wait()
    assert (server.returncode, err) == (0, "")
    assert "filler tokens" in out.splitlines()[0]
    assert "300 real seconds" in out.splitlines()[0]
    assert not ready.exists(), "says that a machine is ready which is off"
    assert heard[0]["usage"] == {"prompt_tokens": 2, "completion_tokens": 20, "total_tokens": 22}
