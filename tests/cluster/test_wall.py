"""Runs at the wall clock: the same result, played for real. Nothing here supposes that this host is idle."""

import contextlib
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

import numpy as np
import psutil
import pytest

import moelab
from actors.messages import DeviceSpec
from actors.programme import Begin, Leave, Meet, Moment, Piece, Programme, Record
from cluster import run as running
from cluster.config.reading import load_run
from cluster.config.run import RunConfig
from cluster.observe.schema import Wall
from cluster.transports.contract import Transport
from cluster.transports.local import LocalTransport
from cluster.transports.processes import ProcessTransport
from cluster.wall.rehearsal import collect
from cluster.wall.stream import Spelling
from emulation.errors import ConfigError, TransportError

MS_PS = 10**6
"""A millisecond at the dilation of 1000 that the programmes here are played with."""

NOTHING = np.empty((0, 3), np.int64)
SPECS = [DeviceSpec(number, f"unit{number}", 1, NOTHING) for number in range(3)]


def small(*settings: str, clock: str = "wall", transport: str = "local", dilation: float | str = 300) -> RunConfig:
    return load_run("wall_demo", [f"clock={clock}", f"transport={transport}", "workload.output_tokens=4",
                                  f"wall.dilation={dilation}", *settings])


def wall_of(result: moelab.Result) -> Wall:
    assert result.host.wall is not None
    return result.host.wall


@pytest.fixture(scope="module")
def wanted() -> str:
    return running.run(small(clock="virtual")).digest


def test_the_digest_is_that_of_the_virtual_clock_and_nothing_starts_before_its_inputs(wanted: str) -> None:
    result = running.run(small())
    wall = wall_of(result)
    assert result.digest == wanted
    assert (wall.steps, wall.causality_violations, wall.players, wall.dilation) == (4, 0, 1, 300)
    assert wall.ops >= result.host.operations
    assert wall.real_s >= 300 * result.makespan_ps * 1e-12
    assert wall.error >= 0
    assert 0 <= wall.lag_p50_s <= wall.lag_p99_s
    assert wall.verdict == ("VOID" if wall.reason else "OK")


def test_a_chosen_dilation_says_what_asked_for_it() -> None:
    wall = wall_of(running.run(small("workload.output_tokens=2", dilation="auto")))
    assert wall.dilation >= wall.smallest_dilation > 0
    assert wall.chosen_by
    assert 0 < wall.turn_s <= wall.hop_s


def test_a_tenth_of_what_the_host_manages_is_void() -> None:
    wall = wall_of(running.run(small(dilation=20)))
    assert wall.verdict == "VOID"
    assert wall.smallest_dilation > 20


def test_tokens_come_in_order_at_their_time_and_make_the_answer() -> None:
    heard: list[tuple[float, moelab.Token]] = []
    result = moelab.run(small(), on_token=lambda token: heard.append((time.monotonic(), token)))
    tokens = [token for _, token in heard]
    assert result.text is not None
    assert [token.token for token in tokens] == list(result.text[0].token_ids)
    assert "".join(token.text for token in tokens) == result.text[0].text
    assert [token.step for token in tokens] == [0, 1, 2, 3]
    for (at, token), (before_at, before) in zip(heard[1:], heard, strict=False):
        dilated_s = 300 * (token.emulated_s - before.emulated_s)
        assert token.real_s - before.real_s > 0.5 * dilated_s
        assert at > before_at
    assert all(token.real_s >= 300 * token.emulated_s for token in tokens)


@pytest.mark.alone
@pytest.mark.parametrize("transport", ["local", "processes"])
def test_ctrl_c_while_it_is_played_ends_it_at_once_and_leaves_nothing(transport: str,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first of forty tokens, each a second apart."""
    pressed: list[float] = []
    folders: list[str] = []
    make = tempfile.mkdtemp
    monkeypatch.setattr(tempfile, "mkdtemp", lambda *a, **k: folders.append(make(*a, **k)) or folders[-1])

    def press(_: object) -> None:
        if not pressed:
            pressed.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        moelab.run(small("workload.output_tokens=40", "wall.limit_s=3600", transport=transport, dilation=3000),
                   on_token=press)
    assert time.monotonic() - pressed[0] < 15
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("moelab-")]
    servers = psutil.Process().children()  # the fork server stays for the next run; its workers do not
    assert not [worker for worker in psutil.Process().children(recursive=True) if worker not in servers
                and "forkserver" in " ".join(worker.cmdline())]
    assert [os.path.exists(folder) for folder in folders if "moelab-" in folder] == [False]


def test_an_order_that_was_cut_off_hangs_neither_side() -> None:
    """Ctrl-C within a long message: what is sent next would be read as the rest of it, and answered never."""
    transport = ProcessTransport(None)
    try:
        transport.open(SPECS)
        transport.wait()
        workers = [psutil.Process(pid) for pid in transport.pids()]
        pipe = transport._pipes[1]

        def cut(_: object) -> None:
            os.write(pipe.fileno(), struct.pack("!i", 1 << 20) + bytes(1000))
            raise KeyboardInterrupt

        pipe.send = cut  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            transport.perform(dict.fromkeys(range(3), Leave()))
        del pipe.send
        with pytest.raises(TransportError, match="broken off"):
            transport.perform(dict.fromkeys(range(3), Leave()))
        began = time.monotonic()
        transport.close()
        assert time.monotonic() - began < 10
        assert not any(worker.is_running() for worker in workers)
        transport.open(SPECS)  # anew
        transport.wait()
        assert transport.perform({0: Leave()}) == {0: None}
    finally:
        transport.close()


def test_what_a_listener_raises_ends_the_run() -> None:
    def listen(_: moelab.Token) -> None:
        raise OSError("the line is dead")

    with pytest.raises(OSError, match="the line is dead"):
        moelab.run(small(), on_token=listen)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("moelab")]


def test_a_run_that_would_take_too_long_is_refused_with_its_time() -> None:
    told = r"at dilation 1e\+07 this run would take about [\d,]+ s at the wall clock, and wall.limit_s is 600"
    with pytest.raises(ConfigError, match=told):
        running.run(small(dilation=1e7))


def test_loads_are_really_read_from_the_mapped_shards() -> None:
    more = ["policy={name: lru, parameters: {slots: 4}}", "workload.output_tokens=2"]
    result = running.run(small(*more))
    loads = sum(phase.loads for phase in result.phases.values())
    wall = wall_of(result)
    assert loads > 0
    assert wall.read_bytes % loads == 0  # experts of one size
    assert wall.bytes_per_s == pytest.approx(wall.read_bytes / wall.real_s)


def test_without_weights_a_mapped_file_stands_for_the_shards() -> None:
    config = load_run("olmoe_h200", ["clock=wall", "wall.dilation=5", "against=[]", "policy={name: lru, parameters: "
                                     "{slots: 16}}", "model.layers=2", "limits.steps=2"])
    virtual = running.run(load_run("olmoe_h200", ["against=[]", "policy={name: lru, parameters: {slots: 16}}",
                                                  "model.layers=2", "limits.steps=2"]))
    result = running.run(config)
    assert result.digest == virtual.digest
    loaded = sum(phase.loaded_bytes for phase in result.phases.values())
    assert wall_of(result).read_bytes == loaded > 0


def test_text_is_held_back_in_the_middle_of_a_letter() -> None:
    data = "aä!".encode()
    spelling = Spelling(lambda tokens: bytes(tokens).decode(errors="replace"))
    assert [spelling.add(0, byte) for byte in data] == ["a", "", "ä", "!"]


# Players, and one that is delayed


@contextlib.contextmanager
def players(transport: Transport) -> Iterator[list[int]]:
    """Three devices' players that have met."""
    transport.open(SPECS)
    transport.wait()
    with tempfile.TemporaryDirectory() as folder:
        numbers = sorted(set(transport.players().values()))
        transport.perform({number: Meet(folder, number, "") for number in numbers})
        try:
            yield numbers
        finally:
            transport.perform(dict.fromkeys(numbers, Leave()))
            transport.close()


def ring(numbers: list[int], rounds: int) -> dict[int, Programme]:
    """Pieces of ten milliseconds, each behind the one before it, round the players."""
    out = {number: Programme() for number in numbers}
    for i in range(rounds * len(numbers)):
        number, after = numbers[i % len(numbers)], numbers[(i + 1) % len(numbers)]
        out[number].pieces.append(Piece(i, 10 * i * MS_PS, 10 * MS_PS, (i - 1,) if i else ()))
        out[number].moments.append(Moment(i, i, 10 * MS_PS, (after,) if after != number else ()))
    return out


def played(transport: Transport, numbers: list[int], rounds: int) -> dict[int, tuple[int, int]]:
    """Piece -> real start and end, nanoseconds behind the origin."""
    origin_ns = time.monotonic_ns() + 50_000_000
    transport.perform(dict.fromkeys(numbers, Begin(origin_ns, 1000.0)))
    transport.perform(ring(numbers, rounds))
    records: dict[int, Record] = {}
    while sum(len(record.piece) for record in records.values()) < rounds * len(numbers):
        time.sleep(0.05)
        records = collect(transport, numbers)
    return {int(piece): (int(start) - origin_ns, int(end) - origin_ns) for record in records.values()
            for piece, start, end in zip(record.piece, record.start_ns, record.end_ns, strict=True)}


@pytest.mark.parametrize("transport", [LocalTransport(), ProcessTransport(None)], ids=["local", "processes"])
def test_players_hand_over_in_order_and_never_early(transport: Transport) -> None:
    with players(transport) as numbers:
        times = played(transport, numbers, rounds=4)
    for i in range(1, len(times)):
        assert times[i][0] >= max(times[i - 1][1], 10_000_000 * i)
        assert times[i][1] >= times[i][0] + 10_000_000


@pytest.mark.alone
def test_successors_of_a_stopped_actor_move_with_it() -> None:
    transport = ProcessTransport(None)
    with players(transport) as numbers:
        stopped = psutil.Process(transport.pids()[1])
        begin = threading.Timer(0.15, stopped.suspend)
        end = threading.Timer(0.55, stopped.resume)
        begin.start()
        end.start()
        times = played(transport, numbers, rounds=15)
        end.join()
    lag_ms = [(times[i][0] - 10_000_000 * i) / 1e6 for i in range(len(times))]
    late = next(i for i, lag in enumerate(lag_ms) if lag > 200)
    assert late % 3 in (1, 2)  # the stopped one's own piece, or the next player's behind it
    assert min(lag_ms[late:]) > 200  # the ring has no time to spare: all behind it are as late
    assert late > 3
    for i in range(1, len(times)):
        assert times[i][0] >= times[i - 1][1]


@pytest.mark.alone
def test_worker_processes_play_the_same_result(wanted: str) -> None:
    result = running.run(small(transport="processes", dilation=1000))
    wall = wall_of(result)
    assert result.digest == wanted
    assert (wall.players, wall.causality_violations, wall.steps) == (5, 0, 4)
    shared = running.run(small("workers=2", transport="processes", dilation=1000))
    assert (shared.digest, wall_of(shared).players) == (wanted, 2)


class StopAt:
    """Stops one of a run's worker processes for a while when its first token comes."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._timer = seconds, threading.Thread()

    def __call__(self, token: moelab.Token) -> None:
        if token.step == 0:
            self._timer = threading.Thread(target=self._stop)
            self._timer.start()

    def _stop(self) -> None:
        worker = max((p for p in psutil.Process().children(recursive=True) if p.num_threads() > 1
                      and "forkserver" in " ".join(p.cmdline())), key=lambda p: p.pid)
        worker.send_signal(signal.SIGSTOP)
        time.sleep(self._seconds)
        worker.send_signal(signal.SIGCONT)


def with_a_stopped_actor() -> Wall:
    return wall_of(moelab.run(small("workload.output_tokens=8", transport="processes", dilation=1500),
                              on_token=StopAt(0.2)))


@contextlib.contextmanager
def hogged(cores: int = 1) -> Iterator[None]:
    """Busy processes beside a run."""
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


@pytest.mark.alone
def test_an_actor_stopped_for_200_ms_voids_the_run() -> None:
    wall = with_a_stopped_actor()
    assert wall.verdict == "VOID"
    assert wall.standstill_s > 0.1
    assert wall.causality_violations == 0


@pytest.mark.alone
def test_hogged_cores_void_the_run() -> None:
    cores = os.cpu_count() or 1
    with hogged(-(-cores // 2)):
        wall = wall_of(running.run(small("workload.output_tokens=8", transport="processes", dilation=1500)))
    assert wall.verdict == "VOID"
    assert wall.others_cores > 0.35 * cores


@pytest.mark.alone
def test_a_worker_that_dies_is_one_sentence() -> None:
    def kill(_: moelab.Token) -> None:
        max((p for p in psutil.Process().children(recursive=True) if p.num_threads() > 1
             and "forkserver" in " ".join(p.cmdline())), key=lambda p: p.pid).kill()

    with pytest.raises(TransportError, match=r"worker process \d \(pid \d+\) ended with exit code -9"):
        moelab.run(small("workload.output_tokens=8", transport="processes", dilation=1500), on_token=kill)


# By hand, on an idle host


@pytest.mark.soak
@pytest.mark.parametrize("transport", ["local", "processes"])
def test_nine_of_ten_runs_are_ok_at_the_least_dilation_that_an_idle_host_manages(transport: str) -> None:
    walls = [wall_of(running.run(load_run("wall_demo", [f"transport={transport}"]))) for _ in range(10)]
    assert sum(wall.verdict == "OK" for wall in walls) >= 9, [wall.reason for wall in walls]
    assert all(wall.causality_violations == 0 for wall in walls)


@pytest.mark.soak
def test_ten_of_ten_disturbed_runs_are_void() -> None:
    assert [with_a_stopped_actor().verdict for _ in range(10)] == ["VOID"] * 10
    with hogged(-(-(os.cpu_count() or 1) // 2)):
        walls = [wall_of(running.run(small("workload.output_tokens=8", transport="processes", dilation=1500)))
                 for _ in range(10)]
    assert [wall.verdict for wall in walls] == ["VOID"] * 10
    managed = wall_of(running.run(small(transport="processes", dilation="auto"))).dilation
    tenths = [wall_of(running.run(small(transport="processes", dilation=managed / 10))) for _ in range(10)]
    assert [wall.verdict for wall in tenths] == ["VOID"] * 10
