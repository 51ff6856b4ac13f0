"""A player: one thread that plays the pieces of a process's devices at the wall clock."""

import ctypes
import gc
import os
import platform
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from actors.device import DeviceActor
from actors.play import Play
from actors.post import Post
from actors.programme import MAIN, Begin, Collect, Leave, Meet, Met, Order, Programme, Record
from actors.reading import Reader

BEAT_NS = 25_000_000
"""A player looks at the clock at least this often, and notes by how much it came too late."""

SPIN_NS = 25_000
"""The last of a wait, in which the thread stays awake: it would come later than this if it slept."""

SWITCH_S = 1e-4
"""How long another thread of the process may keep the interpreter."""

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_SET_TIMER_SLACK = 29


def host_id() -> str:
    """What tells this host, and this start of it, from others: processes with the same share a monotonic clock."""
    with suppress(OSError):
        return _BOOT.read_text(encoding="utf-8").strip()
    return platform.node()


class Player:
    """Obeys a conductor's orders; what it is to play goes to its thread."""

    def __init__(self, devices: Mapping[int, DeviceActor]) -> None:
        self._devices = devices
        self._thread: threading.Thread | None = None
        self._news: deque[Begin | Programme | None] = deque()
        self._given = self._taken = 0
        self._failed: BaseException | None = None
        self._standstill_ns = 0
        self._cpu_s = 0.0
        self._play = Play(0, 1.0, time.monotonic_ns)

    def obey(self, order: Order) -> object:
        """Carry out an order, or hand it to the thread; raises what the thread failed of."""
        if isinstance(order, Meet):
            return self._meet(order)
        if isinstance(order, Leave):
            self.close()
            return None
        if self._failed is not None:
            raise self._failed
        if isinstance(order, Begin | Programme):
            self._given += 1
            self._news.append(order)
            self._post.wake()
            return None
        while self._taken < self._given:  # what is asked is asked about all that was ordered
            time.sleep(1e-3)
            if self._failed is not None:
                raise self._failed
        return self._record() if isinstance(order, Collect) else len(self._play.ended_ns)

    def close(self) -> None:
        """End the thread, and what was set for it in this process."""
        if self._thread is None:
            return
        self._news.append(None)
        self._post.wake()
        self._thread.join()
        self._thread = None
        sys.setswitchinterval(self._interval_s)
        if self._collected:
            gc.enable()

    def _meet(self, order: Meet) -> Met:
        self.close()
        self._failed = None
        self._post = Post(order.folder, str(order.number))
        self._reader = Reader(self._devices, order.scratch)
        self._interval_s, self._collected = sys.getswitchinterval(), gc.isenabled()
        sys.setswitchinterval(SWITCH_S)
        gc.disable()  # a full collection would hold everything up for some hundred milliseconds
        self._thread = threading.Thread(target=self._run, name="moelab-player", daemon=True)
        self._thread.start()
        return Met(host_id(), os.getpid())

    def _record(self) -> Record:
        play = self._play
        return Record(*play.columns(), play.read_bytes, play.read_ns, self._standstill_ns,
                      time.process_time() - self._cpu_s, os.getpid())

    def _run(self) -> None:
        _sharpen_timers()
        try:
            with self._post:
                self._loop()
        except BaseException as error:  # noqa: BLE001 (told with the next order)
            self._failed = error

    def _loop(self) -> None:
        post = self._post
        while True:
            looked_ns = time.monotonic_ns()
            while self._news:
                news = self._news.popleft()
                if news is None:
                    return
                if isinstance(news, Begin):
                    self._play = Play(news.origin_ns, news.dilation, time.monotonic_ns, self._reader.reads)
                    self._standstill_ns, self._cpu_s = 0, time.process_time()
                else:
                    self._play.add(news)
                self._taken += 1
            play = self._play
            for moments in post.receive():
                play.hear(moments)
            if play.has_news:
                self._tell()
            while play.act():
                if play.has_news:
                    self._tell()
            if post.keeps:
                post.flush()
            self._stood(looked_ns)
            self._wait(play.next_ns, BEAT_NS // 25 if post.keeps else BEAT_NS)

    def _tell(self) -> None:
        """What has happened goes to those who wait for it at once, before what else is due."""
        for player, moments in self._play.take_said().items():
            self._post.send(str(player), moments)
        for step in self._play.take_steps():
            self._post.send(MAIN, step)

    def _stood(self, since_ns: int) -> None:
        """Note a time in which the thread did not come to look at the clock."""
        self._standstill_ns = max(self._standstill_ns, time.monotonic_ns() - since_ns)

    def _wait(self, due_ns: int | None, most_ns: int) -> None:
        """Sleep until something comes or is due, at most one beat; the last of it awake.

        A sleep ends late, a long one by more than a short one: so it is to end early, and is taken up again.
        """
        now_ns = time.monotonic_ns()
        until_ns = now_ns + most_ns if due_ns is None else min(due_ns, now_ns + most_ns)
        left_ns = until_ns - now_ns
        if left_ns > 2 * SPIN_NS:
            self._post.wait((left_ns * 0.9 - SPIN_NS) * 1e-9)
        else:
            while time.monotonic_ns() < until_ns:
                pass
        self._stood(until_ns)


def _sharpen_timers() -> None:
    """Let this thread's sleeps end within a microsecond, where the system can do that; 50 otherwise."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_SET_TIMER_SLACK, 1000, 0, 0, 0)
