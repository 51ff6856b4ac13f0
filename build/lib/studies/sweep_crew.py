"""Worker processes of a sweep: started when there is work, fed one point at a time, replaced when they die."""

import multiprocessing
import os
import signal
import threading
from multiprocessing import connection, forkserver, process
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any, Protocol

from cluster.transports.processes import ours_only
from studies.sweep_work import Answer, Task, carry_out

PRELOAD = "studies.sweep_preload"


class Crew(Protocol):
    """Whoever carries out points: each worker one at a time."""

    def idle(self) -> bool:
        """Whether one more task can be given."""

    def give(self, task: Task) -> None:
        """Let an idle worker carry out a task."""

    def answer(self) -> tuple[Task, Answer | str]:
        """Wait for the next task to end: its answer, or how its worker ended."""


class Processes:
    """Worker processes on this host, forked from a server that has imported what they need."""

    def __init__(self, workers: int | None = None) -> None:
        """workers: by default one a core that this process may use."""
        self._wanted = workers or len(os.sched_getaffinity(0))
        self._at: dict[Connection[Any, Any], tuple[ForkServerProcess, Task | None]] = {}
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")

    def __enter__(self) -> "Processes":
        """Start the fork server, which imports while the sweep reads its study."""
        self._context.set_forkserver_preload([PRELOAD])
        with ours_only():
            forkserver.ensure_running()
        return self

    def idle(self) -> bool:
        return sum(task is not None for _, task in self._at.values()) < self._wanted

    def give(self, task: Task) -> None:
        free = next((pipe for pipe, (_, now) in self._at.items() if now is None), None)
        while True:
            if free is None:
                free, worker = self._start()
            else:
                worker = self._at[free][0]
            try:
                free.send(task)
                self._at[free] = (worker, task)
                return
            except OSError:  # it died while it had nothing to do
                self._drop(free)
                free = None

    def _start(self) -> "tuple[Connection[Any, Any], ForkServerProcess]":
        ours, theirs = self._context.Pipe()
        worker = self._context.Process(target=_serve, args=(theirs,), daemon=True, name="moelab-sweep-worker")
        try:
            with ours_only():
                worker.start()
                self._at[ours] = (worker, None)
        finally:
            theirs.close()
        return ours, worker

    def answer(self) -> tuple[Task, Answer | str]:
        while True:
            for pipe in connection.wait([pipe for pipe, (_, task) in self._at.items() if task is not None]):
                assert isinstance(pipe, Connection)
                worker, task = self._at[pipe]
                assert task is not None
                try:
                    told: Answer = pipe.recv()
                except (EOFError, OSError):
                    return task, self._drop(pipe)
                self._at[pipe] = (worker, None)
                return task, told

    def _drop(self, pipe: "Connection[Any, Any]") -> str:
        """Take a worker away, dead or not; how it ended."""
        worker, _ = self._at.pop(pipe)
        pipe.close()
        worker.join(5)
        if worker.is_alive():
            worker.kill()
            worker.join()
        code = worker.exitcode or 0
        worker.close()
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def __exit__(self, *_: object) -> None:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            for worker, _task in self._at.values():
                worker.kill()
            for pipe in list(self._at):
                self._drop(pipe)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _serve(pipe: "Connection[Any, Any]") -> None:
    """A worker: carries out what comes until its pipe closes or its parent is gone. Ctrl-C is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    try:
        while True:
            task: Task = pipe.recv()
            pipe.send(carry_out(task))
    except (EOFError, OSError):
        return


def _leave_with_parent() -> None:
    """End this process in the middle of a point when the sweep that wants it has been killed."""
    parent = process.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
