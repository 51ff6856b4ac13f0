"""Worker processes that are killed: the same bytes, nothing done twice, and one sentence where it is too often.

Each seed is printed. `pytest -m soak tests/cluster/test_kills.py` kills two hundred.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from actors.messages import DeviceSpec, Move, Run, Work
from cluster import run as running
from cluster.config.reading import load_run
from cluster.config.run import RunConfig
from cluster.observe.result import Result
from cluster.session import Silent
from cluster.transports import processes
from cluster.transports.crash import STATES, VARIABLE, fuse
from cluster.transports.holdings import Holdings
from cluster.transports.processes import ProcessTransport
from emulation.errors import ConfigError, PlanError, TransportError
from emulation.plan import ALL_PARTS

SMALL = ["workload.output_tokens=4", "workload.requests=3", "against=[]", "machine.name=template",
         "machine.options.units=9"]
POLICIES = ("expert_parallel", "lru")  # the second moves shards: what a device holds then depends on every message
MIDDLE = ("received", "working", "answering", "answered")
NOTHING = np.empty((0, 3), np.int64)
ROWS, ONES = np.zeros(1, np.int64), np.ones(1, np.float32)


def small(policy: str, *settings: str) -> RunConfig:
    """The demo cut to a few tokens, on a machine of ten devices."""
    return load_run("demo", [*SMALL, f"policy={policy}", "transport=processes", *settings])


@pytest.fixture(scope="module")
def wanted() -> dict[str, str]:
    """What the runs give in one process."""
    return {policy: running.run(small(policy, "transport=local")).digest for policy in POLICIES}


@contextmanager
def crashing(*points: str) -> Iterator[None]:
    """Let processes end themselves at these points."""
    os.environ[VARIABLE] = ",".join(points)
    try:
        yield
    finally:
        del os.environ[VARIABLE]


def a_worker_each(rng: random.Random) -> list[str]:
    """Every state of a worker, each in another worker."""
    who = rng.sample(range(1, 10), len(STATES["worker"]))  # 0 is the GPU, which this policy gives nothing
    return [f"worker:{number}:{state}:{rng.randint(1, 3) if state in MIDDLE else 1}"
            for number, state in zip(who, STATES["worker"], strict=True)]


def one_after_the_other(rng: random.Random) -> list[str]:
    """Every state but the last in the lives of one worker, which serves the device whose shards move."""
    states = rng.sample(STATES["worker"][:-1], len(STATES["worker"]) - 1)
    points = [f"worker:0:{state}:{rng.randint(1, 3) if state in MIDDLE else 1}:{life}"
              for life, state in enumerate(states)]
    return [*points, "worker:1:closing:1"]


def check_every_state(seed: int, wanted: dict[str, str]) -> int:
    """Kill in every state, in two runs; how many kills that were."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    kills = 0
    for policy, points, workers in (("expert_parallel", a_worker_each(rng), "null"),
                                    ("lru", one_after_the_other(rng), "2")):
        print(policy, ",".join(points))
        with crashing(*points):
            result = running.run(small(policy, f"workers={workers}"))
        assert result.digest == wanted[policy]
        assert result.host.restarts == len(points) - 1  # who is killed as it closes has no one in its place
        kills += len(points)
    return kills


@pytest.mark.slow
def test_killed_in_every_state_the_run_gives_the_same_bytes(wanted: dict[str, str]) -> None:
    assert check_every_state(1, wanted) == 14  # each state twice; the soak goes on with other seeds


def killed_at_random(seed: int, policy: str, kills: int) -> tuple[Result, int]:
    """A run whose workers are killed from outside, at any time; how many were."""
    print(f"seed {seed}")
    rng, done, killed = random.Random(seed), threading.Event(), 0
    transport = ProcessTransport(3, restarts=kills)

    def kill() -> None:
        nonlocal killed
        while killed < kills and not done.wait(rng.uniform(0.02, 0.3)):
            pids = transport.pids()
            if pids:
                try:
                    os.kill(rng.choice(pids), signal.SIGKILL)
                    killed += 1
                except ProcessLookupError:
                    pass  # it is dead already, and its successor is on its way

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        results = running.Host(compare=False).run(small(policy, "workload.output_tokens=12"), transport, Silent())
    finally:
        done.set()
        thread.join()
        transport.close()
    return next(iter(results.values())), killed


@pytest.mark.slow
def test_killed_at_any_time_the_run_gives_the_same_bytes() -> None:
    wanted = running.run(small("lru", "transport=local", "workload.output_tokens=12")).digest
    result, killed = killed_at_random(int(time.time()), "lru", 6)
    assert result.digest == wanted
    assert killed
    assert result.host.restarts <= killed  # one that is killed behind its last message has no successor


@pytest.mark.soak
def test_two_hundred_kills(wanted: dict[str, str]) -> None:
    seed, kills = int(time.time()), 0
    longer = {policy: running.run(small(policy, "transport=local", "workload.output_tokens=12")).digest
              for policy in POLICIES}
    while kills < 200:
        seed += 1
        kills += check_every_state(seed, wanted)
        result, killed = killed_at_random(seed, POLICIES[seed % 2], 8)
        assert result.digest == longer[POLICIES[seed % 2]]
        kills += killed
    print(f"{kills} kills")


@pytest.mark.slow
def test_without_restarts_the_same_kill_ends_the_run() -> None:
    with crashing("worker:0:working:2"), pytest.raises(
            TransportError, match=r"^worker process 0 \(pid \d+\) ended with exit code -9$"):
        running.run(small("lru", "restarts=0", "workers=2"))


class Forgetful(Holdings):
    """A mutant: what has come to a device, and gone, is not kept."""

    def note(self, work: object) -> None:
        pass


class Hasty(ProcessTransport):
    """A mutant: a message counts as done when it is sent."""

    def exchange(self, work):  # type: ignore[no-untyped-def]
        self._holdings.note(work)
        return super().exchange(work)


def one_device(transport: ProcessTransport) -> int:
    """Two messages, the worker killed within the second; how many runs that one was answered with."""
    transport.open([DeviceSpec(0, "gpu", 1, NOTHING)])
    transport.wait()
    try:
        transport.exchange({0: Work(items=[Move(0, 5, 0, comes=True)])})
        gone = [Run(0, 5, ALL_PARTS, ROWS, ONES), Move(0, 5, 0, comes=False)]
        return transport.exchange({0: Work(items=gone)})[0].runs
    finally:
        transport.close()


@pytest.mark.parametrize("state", MIDDLE[:3])
def test_moves_of_a_message_happen_once(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with crashing(f"worker:0:{state}:2"):
        assert one_device(ProcessTransport(1, restarts=1)) == 1
        with pytest.raises(PlanError, match="which it does not hold"):
            one_device(Hasty(1, restarts=1))
        monkeypatch.setattr(processes, "Holdings", Forgetful)
        with pytest.raises(PlanError, match="which it does not hold"):
            one_device(ProcessTransport(1, restarts=1))


def test_a_worker_that_dies_again_and_again_is_one_sentence() -> None:
    with crashing("worker:0:working:1:*"), pytest.raises(
            TransportError, match=r"^worker process 0 \(pid \d+\) ended with exit code -9 after 3 restarts, the most "
                                  "that `restarts` allows$"):
        one_device(ProcessTransport(1, restarts=3))


def test_devices_are_opened_anew_where_a_worker_died_between_two_runs() -> None:
    transport = ProcessTransport(1, restarts=1)
    transport.open([DeviceSpec(0, "gpu", 1, NOTHING)])
    transport.wait()
    os.kill(transport.pids()[0], signal.SIGKILL)
    assert one_device(transport) == 1
    assert transport.pids() == []


class Killer:
    """Kills a worker when it hears that a step was played."""

    def __init__(self, transport: ProcessTransport) -> None:
        self.transport = transport

    def update(self, done: int, total: int, text: str) -> None:
        if "at the wall clock" in text and done == 1:
            os.kill(self.transport.pids()[0], signal.SIGKILL)


def test_at_the_wall_clock_a_killed_worker_ends_the_run_in_a_sentence() -> None:
    config = load_run("wall_demo", ["clock=wall", "transport=processes", "workload.output_tokens=12",
                                    "wall.dilation=300"])
    transport = ProcessTransport(2, restarts=8)
    try:
        with pytest.raises(TransportError, match=r"ended with exit code -9, and what it played at the wall clock "
                                                 r"cannot be played again: start the run again, or use clock: vir"):
            running.Host(compare=False).run(config, transport, Killer(transport))
    finally:
        transport.close()


@pytest.mark.soak
@pytest.mark.parametrize("state", ["opening", "waiting", "decided", "exchanging", "finishing"])
def test_a_killed_command_leaves_no_process_and_no_file_and_runs_again(state: str, tmp_path: Path,
                                                                       wanted: dict[str, str]) -> None:
    command = [sys.executable, "-c", "from cluster.main import main; main()", "run", "demo", "--out",
               str(tmp_path / "o"), "--transport", "processes"]
    for setting in [*SMALL, "policy=lru", "workers=2"]:
        command += ["--set", setting]
    environment = {**os.environ, VARIABLE: f"scheduler:0:{state}:{5 if state in ('decided', 'exchanging') else 1}"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    seen: set[psutil.Process] = set()
    while process.poll() is None:
        try:
            seen |= set(psutil.Process(process.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            break
        time.sleep(0.05)
    assert process.wait() == -signal.SIGKILL
    _, alive = psutil.wait_procs(seen, timeout=20)
    assert alive == []
    assert not (tmp_path / "o").exists()
    if state == "exchanging":
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120)
        assert Result.read(tmp_path / "o").digest == wanted["lru"]


@pytest.mark.parametrize(("text", "told"), [
    ("worker:1:workin:3", "unknown state of a worker 'workin'; did you mean 'working'?"),
    ("device:1:working:3", "unknown role 'device'"),
    ("worker:1:working", "'worker:1:working' is written like worker:1:working:3"),
    ("worker:1:working:0", "'worker:1:working:0' is written like"),
])
def test_a_crash_point_that_does_not_exist_is_told(text: str, told: str) -> None:
    with crashing(text), pytest.raises(ConfigError, match=f"{VARIABLE}: .*{told}"):
        fuse("worker", 1)
