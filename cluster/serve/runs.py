"""Runs that a front door carries out: one at a time, each in a process of its own, and a few that wait."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.config.run import RunConfig
from cluster.serve.contract import BusyError, StoppedError
from cluster.serve.offered import dumped
from emulation.errors import (
    ConfigError,
    DeadlockError,
    InputError,
    MoelabError,
    PlanError,
    TransportError,
)

ROOT = Path(__file__).resolve().parents[2]
LONGEST_LINE = 4 << 20
ERRORS: dict[int, type[MoelabError]] = {
    kind.exit_code: kind for kind in (ConfigError, InputError, PlanError, DeadlockError, TransportError)}


@dataclass(frozen=True)
class Queued:
    """A run has to wait; before: how many go first."""

    before: int


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    done: int
    total: int
    text: str


@dataclass(frozen=True)
class ResultPart:
    """A piece of a result's JSON, in order; the last one of a policy says so."""

    policy: str
    digest: str
    json: str
    last: bool


class LongRun(MoelabError):
    """A run took longer than a front door lets it."""


class WorkerFault(Exception):
    """A run's process told of a fault of moelab's, or ended without a word."""


class Runs:
    """Carries runs out, one at a time. waiting: how many may wait. limit_s: the longest that one may take.
    memory_bytes: the most that its process may hold."""

    def __init__(self, waiting: int = 8, limit_s: float = 600.0, memory_bytes: int = 8 << 30) -> None:
        self.waiting, self.limit_s, self.memory_bytes = waiting, limit_s, memory_bytes
        self.under_way = 0
        self._turn = asyncio.Lock()
        self._closed = False

    async def carry_out(self, config: RunConfig, compare: bool) -> AsyncGenerator[Queued | Progress | ResultPart, None]:
        """What a run tells until its results. BusyError where too many wait; its own errors as `moelab run` has them.

        Left before its end, it stops the run.
        """
        if self._closed:
            raise StoppedError("the server is being switched off and takes no runs")
        if self.under_way > self.waiting:
            raise BusyError(f"{self.waiting} runs wait already: try again later")
        with self._counted():
            if self.under_way > 1:
                yield Queued(self.under_way - 1)
            async with self._turn, contextlib.aclosing(self._worked(config, compare)) as events:
                async for event in events:
                    yield event

    async def close(self) -> None:
        """Take no more."""
        self._closed = True

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    async def _worked(self, config: RunConfig, compare: bool) -> AsyncGenerator[Progress | ResultPart, None]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(
            path for path in (str(ROOT), os.environ.get("PYTHONPATH")) if path)}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "cluster.serve.run_worker", stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, env=environment, start_new_session=True, limit=LONGEST_LINE)
        assert process.stdin is not None
        assert process.stdout is not None
        overdue = asyncio.get_running_loop().call_later(self.limit_s, _kill, process.pid)
        try:
            asked = {**dumped(config), "compare": compare, "memory_bytes": self.memory_bytes}
            process.stdin.write(json.dumps(asked).encode() + b"\n")
            finished = False
            async for line in process.stdout:
                [(kind, data)] = json.loads(line).items()
                if kind == "error":
                    code, text = data
                    if code not in ERRORS:
                        raise WorkerFault(text)
                    raise ERRORS[code](text)
                if kind == "progress":
                    yield Progress(*data)
                else:
                    part = ResultPart(*data)
                    finished = part.last
                    yield part
            if not finished and asyncio.get_running_loop().time() >= overdue.when():
                raise LongRun(f"the run took longer than {self.limit_s:g} s, the longest that one over the network may "
                              "take")
            if not finished:
                raise WorkerFault("the run's process ended before its result was whole")
        finally:
            overdue.cancel()
            if process.returncode is None:
                _kill(process.pid)
            await process.wait()


def _kill(process: int) -> None:
    """End a process and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
