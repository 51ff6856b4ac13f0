"""Prometheus as its Debian package has it, on a free port of loopback, for the time of a test."""

import json
import math
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.conftest import ROOT

READY_S = 30.0
Labels = frozenset[tuple[str, str]]


def program(name: str) -> str:
    """Where a program of the package is; skips the test where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: the package `prometheus` has it")
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """What promtool says."""
    return subprocess.run([program("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False,
                          timeout=60)


class Value(NamedTuple):
    """One series of an answer, and its value."""

    labels: dict[str, str]
    value: float


class Prometheus(NamedTuple):
    """A Prometheus that answers."""

    url: str

    def get(self, what: str, **asked: object) -> Any:
        """`data` of an answer of its API; an error of it is an AssertionError with its words."""
        question = urllib.parse.urlencode({key: str(value) for key, value in asked.items()})
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{what}?{question}", timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{asked}: {error.read().decode()}") from None

    def ask(self, expr: str, at_s: float | None = None) -> list[Value]:
        """Every series of an answer at an instant; by default now. NaN is none."""
        more = {} if at_s is None else {"time": f"{at_s:.3f}"}
        found = self.get("query", query=expr, **more)["result"]
        values = [Value({key: value for key, value in row["metric"].items() if key != "__name__"},
                        float(row["value"][1])) for row in found]
        return [value for value in values if not math.isnan(value.value)]

    def scraped(self, selector: str, holds: Callable[[float], bool], timeout_s: float = 60.0) -> float:
        """When the one series was scraped that at last is as it should be. A scrape under way that fails will mark its
        series as gone from its own beginning on, so only a sample's own time is sure to keep it."""
        deadline = time.monotonic() + timeout_s
        while True:
            times = self.ask(f"timestamp({selector})")
            found = self.ask(selector, times[0].value) if times else []
            if found and holds(found[0].value):
                return times[0].value
            assert time.monotonic() < deadline, f"{selector} is still {found}"
            time.sleep(0.1)

    def until(self, expr: str, holds: Callable[[list[Value]], bool] = bool, timeout_s: float = 30.0) -> list[Value]:
        """The answer, once it is as it should be."""
        deadline = time.monotonic() + timeout_s
        while not holds(found := self.ask(expr)):
            assert time.monotonic() < deadline, f"{expr} is still {found}"
            time.sleep(0.1)
        return found


def blocks(text: Path, into: Path) -> None:
    """Make blocks of OpenMetrics with timestamps."""
    made = promtool("tsdb", "create-blocks-from", "openmetrics", text, into)
    assert made.returncode == 0, made.stdout + made.stderr


@contextmanager
def started(folder: Path, targets: Mapping[str, str], every: str = "500ms", *, rules: bool = True,
            lists: str | None = None) -> Iterator[Prometheus]:
    """A Prometheus with deploy/prometheus as it is, but for the targets, how often it looks at them, and its port.

    targets: job -> address; lists: a file of further targets, for Ray's job. folder: its data, may hold blocks.
    """
    binary, port = program("prometheus"), free_port()
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": every, "evaluation_interval": every, "scrape_timeout": every}
    config["rule_files"] = [str(ROOT / "deploy/prometheus/rules/*.yml")] if rules else []
    for job in config["scrape_configs"]:
        if "static_configs" in job:
            address = targets.get(job["job_name"])
            job["static_configs"] = [{"targets": [address]}] if address else []
        else:
            job["file_sd_configs"] = [{"files": [lists or str(folder / "none.json")]}]
    written = folder.parent / f"{folder.name}.yml"
    written.write_text(yaml.safe_dump(config), encoding="utf-8")
    log = folder.parent / f"{folder.name}.log"
    with log.open("w", encoding="utf-8") as told:
        process = subprocess.Popen(
            [binary, f"--config.file={written}", f"--storage.tsdb.path={folder}",
             f"--web.listen-address=127.0.0.1:{port}", "--storage.tsdb.retention.time=100y"], stdout=told, stderr=told)
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + READY_S
        while not _ready(url):
            assert process.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
            time.sleep(0.05)
        yield Prometheus(url)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
