"""Where a run is scraped: on loopback, by who may, until the end; and what is said where that cannot be."""

import contextlib
import json
import re
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from cluster.main import enter
from cluster.observe.metrics.door import MOST_CONNECTIONS, opened
from cluster.observe.metrics.families import Family, Samples, joined
from cluster.observe.metrics.watch import Points
from emulation.errors import MoelabError
from tests.scraped import found, value
from tests.studies.small import RUN

TOKEN = "a token of sixteen".replace(" ", "-")


def source() -> list[Family]:
    out = Samples("run", "policy")
    out.add("moelab_done_ratio", 0.5)
    return joined([out])


def scrape(url: str, **headers: str) -> str:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
        return str(answer.read().decode())


def refused(url: str, **headers: str) -> tuple[int, str]:
    with pytest.raises(urllib.error.HTTPError) as caught:
        scrape(url, **headers)
    return caught.value.code, caught.value.read().decode()


def test_the_door_shows_metrics_and_nothing_else() -> None:
    with opened(0, source, None) as url:
        assert value(scrape(url), "moelab_done_ratio", run="run", policy="policy") == 0.5
        assert scrape(url, Accept="application/openmetrics-text; version=1.0.0").endswith("# EOF\n")
        assert refused(url.replace("/metrics", "/else")) == (404, "there is nothing here but /metrics\n")
        host, port = url.removeprefix("http://").removesuffix("/metrics").split(":")
        assert host == "127.0.0.1"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=5)


@pytest.mark.parametrize("wrong", [{}, {"Authorization": TOKEN}, {"Authorization": f"Bearer {TOKEN}x"},
                                   {"Authorization": "Bearer \xff"}])
def test_a_token_is_asked_for(wrong: dict[str, str]) -> None:
    with opened(0, source, TOKEN) as url:
        assert refused(url, **wrong)[0] == 401
        assert "moelab_done_ratio" in scrape(url, Authorization=f"Bearer {TOKEN}")


def test_a_port_that_is_taken_is_told_in_a_sentence() -> None:
    with opened(0, source, None) as url:
        port = int(re.findall(r":(\d+)/", url)[0])
        with pytest.raises(MoelabError, match=f"metrics cannot be shown at 127.0.0.1 port {port}: .*in use; choose"), \
                opened(port, source, None):
            pass


def test_scrapers_that_leave_or_say_nothing_hold_up_nobody() -> None:
    """A Prometheus that goes away in the middle is not an event for a run."""
    with opened(0, source, None) as url:
        address = ("127.0.0.1", int(re.findall(r":(\d+)/", url)[0]))
        silent = [socket.create_connection(address) for _ in range(MOST_CONNECTIONS - 1)]
        for _ in range(50):
            with socket.create_connection(address) as gone:
                gone.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert "moelab_done_ratio" in scrape(url)
        for connection in silent:
            connection.close()


def test_a_run_is_scraped_while_it_lasts_and_behind_it(tmp_path: Path) -> None:
    run = tmp_path / "mine.yaml"
    run.write_text(json.dumps({**RUN, "against": ["tensor_parallel"], "metrics": {"linger_s": 1}}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    seen: list[str] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            with contextlib.suppress(OSError):
                seen.append(scrape(f"http://127.0.0.1:{port}/metrics"))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        assert enter(["run", str(run), "--metrics-port", str(port), "--out", str(tmp_path / "out")]) == 0
    finally:
        over.set()
        looking.join()
    for policy in ("expert_parallel", "tensor_parallel"):
        result = json.loads((tmp_path / "out" / policy / "result.json").read_text())
        assert value(seen[-1], "moelab_tokens_total", run="mine", policy=policy, kind="output") == \
            result["emitted_tokens"]
        assert value(seen[-1], "moelab_run_info", policy=policy, machine="template") == 1
        done = [ratio for text in seen for ratio in found(text, "moelab_done_ratio", policy=policy)]
        assert done == sorted(done)
        assert done[-1] == 1


def test_a_sweep_tells_its_points_and_no_series_of_theirs() -> None:
    points = Points("grid")
    with opened(0, points.families, None) as url:
        for done in range(4):
            points.count(3000, done, done // 2)
            text = scrape(url)
            assert {state: value(text, "moelab_sweep_points", run="grid", state=state)
                    for state in ("total", "done", "failed")} == {"total": 3000, "done": done, "failed": done // 2}
        assert len(re.findall(r"^moelab_", text, re.M)) == 3


@pytest.mark.parametrize(("arguments", "code", "sentence"), [
    (["--metrics-port", "99999"], 2, "65535"),
    (["--set", "metrics.port=-1"], 2, "metrics.port"),
])
def test_a_port_that_is_none_is_refused(arguments: list[str], code: int, sentence: str,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    assert enter(["run", "demo", *arguments]) == code
    assert sentence in capsys.readouterr().err


def test_a_run_whose_port_is_taken_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "mine.yaml"
    run.write_text(json.dumps(RUN))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert enter(["run", str(run), "--metrics-port", str(port), "--out", str(tmp_path / "out")]) == 1
    assert f"metrics cannot be shown at 127.0.0.1 port {port}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
