"""Conducts a run at the wall clock: hands what was timed to the players, keeps a little ahead of them, and judges."""

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from actors.post import Post
from actors.programme import MAIN, Begin, Leave, Meet, Met, Programme, Pulse
from actors.reading import SCRATCH_BYTES
from actors.scheduler import Scheduler
from cluster.config.run import WallClock
from cluster.observe.schema import Wall
from cluster.session import Progress
from cluster.transports.contract import Transport
from cluster.wall.cutting import Cutter
from cluster.wall.pace import Costs, Pace, pace
from cluster.wall.rehearsal import collect, rehearse
from cluster.wall.stream import Made, OnToken, Token
from cluster.wall.verdict import Host, Steps, judge
from emulation.errors import ConfigError, TransportError

LEAD = 2
"""Steps that are handed out before the first is played, and kept ahead of it."""

MOST_OPS = 200_000
START_NS = 50_000_000
PULSE_S = 1.0
STOP_S = 5.0


class _Step(NamedTuple):
    """A step that was timed: when, by which operation it ended, and what it produced."""

    begin_ps: int
    end_ps: int
    end_op: int
    made: Sequence[Made]


class Conductor:
    """Of one run. `open` once the devices are there, `step` behind each step that was timed, `finish`, and `close`."""

    def __init__(self, scheduler: Scheduler, transport: Transport, wall: WallClock, progress: Progress,
                 on_token: OnToken | None = None) -> None:
        self._scheduler, self._transport, self._wall, self._progress = scheduler, transport, wall, progress
        self._on_token = on_token
        scheduler.loads = []
        player_of = transport.players()
        self._players = sorted(set(player_of.values()))
        self._cutter = Cutter(scheduler.setting.machine, player_of)
        self._kept: dict[int, Programme] = {}
        self._steps: list[_Step] = []
        self._step_of: dict[int, int] = {}
        self._batches = self._cut_steps = self._handed = self._total = 0
        self._pace: Pace | None = None
        self._origin_ns = 0
        self._ended_ns: dict[int, int] = {}
        self._news = threading.Condition()
        self._failed: BaseException | None = None
        self._folder: Path | None = None
        self._thread: threading.Thread | None = None
        self._computing, self._left_s = 0.0, time.monotonic()

    @property
    def dilation(self) -> float | None:
        """Real seconds for an emulated one, once it is chosen."""
        return None if self._pace is None else self._pace.dilation

    def open(self) -> None:
        """Let the players meet, and rehearse; refuses players on several hosts."""
        self._folder = Path(tempfile.mkdtemp(prefix="moelab-", dir="/tmp" if os.path.isdir("/tmp") else None))
        scratch = self._folder / "scratch"
        with scratch.open("wb") as file:
            file.truncate(SCRATCH_BYTES)
        self._post = Post(str(self._folder), MAIN)
        met = self._transport.perform({p: Meet(str(self._folder), p, str(scratch)) for p in self._players})
        hosts = {answer.host for answer in met.values() if isinstance(answer, Met)}
        if len(hosts) > 1:
            raise ConfigError("clock: wall plays on one host, whose clock all share, and the devices' processes are on "
                              f"{len(hosts)}: use a cluster of one node, transport: processes or clock: virtual")
        self._costs: Costs = rehearse(self._transport, self._players)
        self._thread = threading.Thread(target=self._hear, name="moelab-conductor", daemon=True)
        self._thread.start()
        self._left_s = time.monotonic()

    def step(self, made: Sequence[Made], total: int) -> None:
        """A step was timed; returns when the players are near enough to it. total: steps of the run (0: unknown)."""
        times = self._scheduler.steps[-1]
        self._computing = (time.monotonic() - self._left_s) / max((times.end_ps - times.begin_ps) * 1e-12, 1e-12)
        self._step_of[times.end_op] = len(self._steps)
        self._steps.append(_Step(times.begin_ps, times.end_ps, times.end_op, made))
        self._total = total
        self._cut()
        if self._pace is None and self._cut_steps >= LEAD:
            self._start()
        if self._pace is not None:
            self._check(times.end_ps * 1e-12)
            self._hand_out()
            self._await(self._handed - LEAD)
        self._left_s = time.monotonic()

    def finish(self) -> Wall:
        """Hand out what is left, wait for the end, and judge."""
        self._cut()
        if self._pace is None:
            self._start()
        assert self._pace is not None
        self._hand_out()
        self._await(len(self._steps))
        while sum(self._check_players()) < len(self._cutter.played):
            time.sleep(0.02)  # what is in flight behind the last step, such as a prefetch
        records = collect(self._transport, self._players)
        real_s = time.monotonic() - self._began_s
        busy_s = _busy_s() - self._busy_s
        mine = {record.pid: record.cpu_s for record in records.values()}
        mine[os.getpid()] = time.process_time() - self._cpu_s
        host = Host(max(0.0, busy_s - sum(mine.values())) / real_s, self._costs.cores)
        steps = Steps(*(np.array(column, np.int64) for column in (
            [step.begin_ps for step in self._steps], [step.end_ps for step in self._steps],
            [self._ended_ns[number] for number in range(len(self._steps))])))
        return judge(self._cutter.played, records, steps, self._origin_ns, self._pace, self._costs, host)

    def close(self) -> None:
        """Let the players go, and take away where they met."""
        if self._folder is None:
            return
        try:
            self._transport.perform(dict.fromkeys(self._players, Leave()))
        except TransportError:
            pass  # they have gone
        finally:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._post.wake()
                thread.join(STOP_S)  # whoever it tells of tokens may listen no more
            self._post.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _cut(self) -> None:
        """Cut what has become certain."""
        scheduler, cutter = self._scheduler, self._cutter
        for batch, labels in zip(scheduler.batches[self._batches:], scheduler.labels[self._batches:], strict=True):
            cutter.submit(batch.ops, labels, batch.after)
        self._batches = len(scheduler.batches)
        for load in scheduler.loads or ():
            cutter.load(load, int(scheduler.ledger.part_bytes[load.part]))
        scheduler.loads = []
        cut = cutter.cut(scheduler.engine.spans(), scheduler.engine.occupancy(), self._step_of)
        for player, programme in cut.items():
            kept = self._kept.setdefault(player, Programme())
            kept.pieces.extend(programme.pieces)
            kept.moments.extend(programme.moments)
            self._cut_steps += sum(piece.step >= 0 for piece in programme.pieces)
        if len(cutter.played) > MOST_OPS:
            raise ConfigError(f"this run has more than {MOST_OPS:,} operations, the most that are played at the wall "
                              "clock: cut it with limits.steps, or use clock: virtual")

    def _hand_out(self) -> None:
        self._transport.perform(self._kept)
        self._kept, self._handed = {}, self._cut_steps

    def _start(self) -> None:
        """Choose the dilation by what is there to play, and let the clock run."""
        given = None if self._wall.dilation == "auto" else float(self._wall.dilation)
        self._pace = pace(self._cutter.played, self._costs, self._computing, given)
        last = self._steps[-1] if self._steps else _Step(0, 0, -1, ())
        more = max(self._total - len(self._steps), 0)
        self._check((last.end_ps + more * (last.end_ps - last.begin_ps)) * 1e-12)
        self._origin_ns = time.monotonic_ns() + START_NS
        self._began_s, self._busy_s, self._cpu_s = time.monotonic(), _busy_s(), time.process_time()
        self._transport.perform(dict.fromkeys(self._players, Begin(self._origin_ns, self._pace.dilation)))

    def _check(self, emulated_s: float) -> None:
        """Refuse what would take longer than the run allows."""
        assert self._pace is not None
        expected_s = emulated_s * self._pace.dilation
        if expected_s > self._wall.limit_s:
            raise ConfigError(f"at dilation {self._pace.dilation:.4g} this run would take about {expected_s:,.0f} s at "
                              f"the wall clock, and wall.limit_s is {self._wall.limit_s:g}: shorten it (limits.steps, "
                              "workload.output_tokens), raise wall.limit_s or use clock: virtual")

    def _await(self, steps: int) -> None:
        """Return when so many steps have really ended."""
        while True:
            with self._news:
                self._news.wait_for(lambda: len(self._ended_ns) >= steps or self._failed is not None, PULSE_S)
                if self._failed is not None:
                    raise self._failed
                if len(self._ended_ns) >= steps:
                    return
            self._check_players()

    def _check_players(self) -> list[int]:
        """How many pieces each has played; raises where one of them has gone."""
        return [int(str(ended)) for ended in self._transport.perform(dict.fromkeys(self._players, Pulse())).values()]

    def _hear(self) -> None:
        """Note each step's real end as it comes, and tell what it produced."""
        try:
            while self._thread is not None:
                self._post.wait(PULSE_S)
                for step, end_ns in self._post.receive():
                    self._tell(step, end_ns)
        except BaseException as error:  # noqa: BLE001 (raised again where the run waits)
            with self._news:
                self._failed = error
                self._news.notify_all()

    def _tell(self, number: int, end_ns: int) -> None:
        step = self._steps[number]
        if self._on_token is not None:
            for made in step.made:
                self._on_token(Token(number, *made, step.end_ps * 1e-12, (end_ns - self._origin_ns) * 1e-9))
        self._progress.update(number + 1, max(self._total, number + 1), f"step {number} at the wall clock")
        with self._news:
            self._ended_ns[number] = end_ns
            self._news.notify_all()


def _busy_s() -> float:
    """Processor time that this host spent on anything."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    counted_twice = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - idle - counted_twice)
