"""One OS process a device, or several devices a process, on this host; pipes between them and the scheduler."""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from types import ModuleType
from typing import Any

from actors.device import DeviceActor
from actors.messages import DeviceSpec, Reply, Work
from actors.player import Player
from actors.programme import Order
from cluster.transports.serving import open_devices
from emulation.errors import MoelabError, TransportError

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 5.0


class ProcessTransport:
    """Devices in worker processes: `workers` of them, or one a device where `workers` is None."""

    name = "processes"

    def __init__(self, workers: int | None = None) -> None:
        self._wanted = workers
        self._processes: list[ForkServerProcess] = []
        self._pipes: list[Connection[Any, Any]] = []
        self._worker_of: dict[int, int] = {}
        self._is_torn = False

    def open(self, specs: Sequence[DeviceSpec]) -> None:
        context: ForkServerContext = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["cluster.transports.preload"])
        count = max(1, min(self._wanted or len(specs), len(specs)))
        groups = [list(specs[i::count]) for i in range(count)]
        self._worker_of = {spec.number: number for number, group in enumerate(groups) for spec in group}
        if count == len(self._processes) and not self._is_torn:
            for number, group in enumerate(groups):
                self._send(number, group)
            return
        self.close()
        self._worker_of = {spec.number: number for number, group in enumerate(groups) for spec in group}
        try:
            for number, group in enumerate(groups):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, group), daemon=True,
                                          name=f"moelab-worker-{number}")
                with ours_only():
                    process.start()
                theirs.close()
                self._processes.append(process)
                self._pipes.append(ours)
        except BaseException:
            self.close()
            raise

    def wait(self) -> None:
        for number, pipe in enumerate(self._pipes):
            if not pipe.poll(START_TIMEOUT_S):
                raise TransportError(f"worker process {number} did not start within {START_TIMEOUT_S:.0f} s")
            _unless_refused(self._answer(number))

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """Messages that are sent and answered within: all of them, or nothing more is said over these pipes.

        What is left of a message that Ctrl-C cut off would be taken for the beginning of the next, and both sides would
        wait for the rest of it for good.
        """
        if self._is_torn:
            raise TransportError("an exchange with the worker processes was broken off: they are to be closed")
        self._is_torn = True
        yield
        self._is_torn = False

    def exchange(self, work: Mapping[int, Work]) -> dict[int, Reply]:
        batches: dict[int, dict[int, Work]] = {}
        for device, item in work.items():
            batches.setdefault(self._worker_of[device], {})[device] = item
        replies: dict[int, Reply] = {}
        with self._whole():
            for number, batch in batches.items():
                self._send(number, batch)
            answers = [self._answer(number) for number in batches]
        for answer in answers:
            replies.update(_unless_refused(answer))
        return replies

    def players(self) -> dict[int, int]:
        return dict(self._worker_of)

    def perform(self, orders: Mapping[int, Order]) -> dict[int, object]:
        with self._whole():
            for number, order in orders.items():
                self._send(number, order)
            answers = {number: self._answer(number) for number in orders}
        return {number: _unless_refused(answer) for number, answer in answers.items()}

    def _send(self, number: int, what: dict[int, Work] | list[DeviceSpec] | Order) -> None:
        try:
            self._pipes[number].send(what)
        except OSError:
            raise self._dead(number) from None

    def _answer(self, number: int) -> Any:
        try:
            return self._pipes[number].recv()
        except (EOFError, OSError):
            raise self._dead(number) from None

    def _dead(self, number: int) -> TransportError:
        process = self._processes[number]
        process.join(STOP_TIMEOUT_S)
        return TransportError(f"worker process {number} (pid {process.pid}) ended with exit code {process.exitcode}")

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        until = time.monotonic() + STOP_TIMEOUT_S
        for process in self._processes:
            process.join(max(until - time.monotonic(), 0.0))
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
        self._pipes, self._processes, self._worker_of, self._is_torn = [], [], {}, False

    def pids(self) -> list[int]:
        """The workers' process ids."""
        return [process.pid for process in self._processes if process.pid is not None]

    def describe(self) -> dict[str, object]:
        return {"transport": self.name, "workers": len(self._processes)}


def _unless_refused(answer: Any) -> Any:
    """A worker's answer; raises what it refused with."""
    if isinstance(answer, BaseException):
        raise answer
    return answer


@contextlib.contextmanager
def ours_only() -> Iterator[None]:
    """Workers started within import nothing of the user's: neither the script that runs, nor the current folder.

    A script without `if __name__ == "__main__"` would run again in each of them; a folder with a `moe/` of its own
    would stand before ours on the fork server's path. Nor do they hear Ctrl-C, from their first moment on.
    """
    main, before = sys.modules["__main__"], os.environ.get("PYTHONSAFEPATH")
    sys.modules["__main__"] = ModuleType("__main__")
    os.environ["PYTHONSAFEPATH"] = "1"
    resource_tracker.ensure_running()  # the fork server starts it otherwise, and it unblocks SIGINT
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        sys.modules["__main__"] = main
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def _serve(pipe: "Connection[Any, Any]", specs: list[DeviceSpec]) -> None:
    """A worker: answers until its pipe closes, however early. Ctrl-C is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):  # OSError: the pipe closed within a message
        asked: dict[int, Work] | list[DeviceSpec] | Order = specs
        devices: dict[int, DeviceActor] = {}
        player = Player(devices)
        while True:
            answer: object = {}
            try:
                if isinstance(asked, list):
                    player.close()
                    devices = open_devices(asked)
                    player = Player(devices)
                elif not isinstance(asked, dict):
                    answer = player.obey(asked)
                else:
                    answer = {number: devices[number].work(item) for number, item in asked.items()}
            except Exception as error:  # noqa: BLE001 (the parent raises it again)
                answer = _portable(error)
            pipe.send(answer)
            asked = pipe.recv()


def _portable(error: Exception) -> Exception:
    """An error that survives the pipe: ours as it is, any other with its traceback as text."""
    if isinstance(error, MoelabError):
        return error
    import traceback

    return RuntimeError("in a worker process:\n" + "".join(traceback.format_exception(error)))
