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
from cluster.transports.crash import Fuse, fuse
from cluster.transports.holdings import Holdings
from cluster.transports.serving import open_devices
from emulation.errors import MoelabError, TransportError

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 5.0


class ProcessTransport:
    """Devices in worker processes: `workers` of them, or one a device where `workers` is None.

    A worker that ends before it is told to is started again, with what its devices held after the last message that it
    answered, and the message that it has not answered is sent again: so no message is done twice by one process, and
    none is lost. `restarts` of them, then the run fails. At the wall clock none: what a worker played is gone.
    """

    name = "processes"

    def __init__(self, workers: int | None = None, restarts: int = 0) -> None:
        self._wanted, self._most_restarts = workers, restarts
        self._restarts = 0
        self._groups: list[list[int]] = []
        self._processes: list[ForkServerProcess] = []
        self._pipes: list[Connection[Any, Any]] = []
        self._lives: list[int] = []
        self._unanswered: dict[int, dict[int, Work]] = {}
        self._worker_of: dict[int, int] = {}
        self._is_torn = self._plays = False
        self._fuse = fuse("scheduler", 0)

    def open(self, specs: Sequence[DeviceSpec]) -> None:
        self._fuse.at("opening")
        count = max(1, min(self._wanted or len(specs), len(specs)))
        again = count == len(self._processes) and not self._is_torn
        if not again:
            self.close()
        self._holdings, self._plays, self._unanswered = Holdings(specs), False, {}
        self._groups = [[spec.number for spec in specs[i::count]] for i in range(count)]
        self._worker_of = {device: number for number, group in enumerate(self._groups) for device in group}
        try:
            for number in range(count):
                if again:
                    self._send(number, self._specs(number))
                else:
                    self._lives.append(0)
                    process, pipe = self._start(number)
                    self._processes.append(process)
                    self._pipes.append(pipe)
        except BaseException:
            self.close()
            raise

    def _specs(self, number: int) -> list[DeviceSpec]:
        return [self._holdings.spec(device) for device in self._groups[number]]

    def _start(self, number: int) -> "tuple[ForkServerProcess, Connection[Any, Any]]":
        context: ForkServerContext = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["cluster.transports.preload"])
        ours, theirs = context.Pipe()
        told = self._specs(number), fuse("worker", number, self._lives[number])
        process = context.Process(target=_serve, args=(theirs, *told), daemon=True, name=f"moelab-worker-{number}")
        with ours_only():
            process.start()
        theirs.close()
        return process, ours

    def wait(self) -> None:
        self._fuse.at("waiting")
        for number in range(len(self._pipes)):
            _unless_refused(self._answer(number, START_TIMEOUT_S))

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
        self._fuse.at("decided")
        batches: dict[int, dict[int, Work]] = {}
        for device, item in work.items():
            batches.setdefault(self._worker_of[device], {})[device] = item
        replies: dict[int, Reply] = {}
        with self._whole():
            self._unanswered = dict(batches)
            for number, batch in batches.items():
                self._send(number, batch)
            self._fuse.at("exchanging")
            answers = [self._answer(number) for number in batches]
        for answer in answers:
            replies.update(_unless_refused(answer))
        self._fuse.at("exchanged")
        return replies

    def players(self) -> dict[int, int]:
        return dict(self._worker_of)

    def perform(self, orders: Mapping[int, Order]) -> dict[int, object]:
        self._plays = True
        with self._whole():
            for number, order in orders.items():
                self._send(number, order)
            answers = {number: self._answer(number) for number in orders}
        return {number: _unless_refused(answer) for number, answer in answers.items()}

    def _send(self, number: int, what: dict[int, Work] | list[DeviceSpec] | Order) -> None:
        try:
            self._pipes[number].send(what)
        except OSError:
            self._again(number)

    def _answer(self, number: int, timeout_s: float | None = None) -> Any:
        """What a worker says next, or one in its place; then its message is answered, and its moves have happened."""
        answer: tuple[Any] | None = None
        while answer is None:
            try:
                if timeout_s is not None and not self._pipes[number].poll(timeout_s):
                    raise TransportError(f"worker process {number} did not start within {timeout_s:.0f} s")
                answer = (self._pipes[number].recv(),)
            except (EOFError, OSError):
                self._again(number)
        batch = self._unanswered.pop(number, None)
        if batch is not None and not isinstance(answer[0], BaseException):
            self._holdings.note(batch)
        return answer[0]

    def _again(self, number: int) -> None:
        """Start a worker in the place of one that died, and send it what that one had not answered.

        One that died before it said that its devices are open has nothing else to answer: this the next one will say.
        """
        while True:
            story = self._ended(number)
            self._restarts += 1
            self._lives[number] += 1
            process, pipe = self._start(number)
            self._processes[number].close()
            self._pipes[number].close()
            self._processes[number], self._pipes[number] = process, pipe
            batch = self._unanswered.get(number)
            if batch is None:
                return
            try:
                if not self._pipes[number].poll(START_TIMEOUT_S):
                    raise TransportError(f"{story}, and another one did not start within {START_TIMEOUT_S:.0f} s")
                _unless_refused(self._pipes[number].recv())
                self._pipes[number].send(batch)
                return
            except (EOFError, OSError):
                continue

    def _ended(self, number: int) -> str:
        """How a worker ended; raises it where no other may be started in its place."""
        process = self._processes[number]
        process.join(STOP_TIMEOUT_S)
        if process.exitcode is None:
            process.kill()
            process.join()
        story = f"worker process {number} (pid {process.pid}) ended with exit code {process.exitcode}"
        if self._plays:
            raise TransportError(f"{story}, and what it played at the wall clock cannot be played again: start the run "
                                 "again, or use clock: virtual")
        if self._restarts >= self._most_restarts:
            before = f" after {self._restarts} restarts, the most that `restarts` allows" if self._restarts else ""
            raise TransportError(story + before)
        return story

    def close(self) -> None:
        self._fuse.at("finishing")
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
        self._lives, self._groups = [], []

    def pids(self) -> list[int]:
        """The workers' process ids."""
        return [process.pid for process in self._processes if process.pid is not None]

    def describe(self) -> dict[str, object]:
        return {"transport": self.name, "workers": len(self._processes), "restarts": self._restarts}


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


def _serve(pipe: "Connection[Any, Any]", specs: list[DeviceSpec], burn: Fuse) -> None:
    """A worker: answers until its pipe closes, however early. Ctrl-C is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    burn.at("starting")
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
                    burn.at("opened")
                elif not isinstance(asked, dict):
                    answer = player.obey(asked)
                else:
                    burn.at("received")
                    answer = _work(devices, asked, burn)
                    burn.at_reply("answering", pipe)
            except Exception as error:  # noqa: BLE001 (the parent raises it again)
                answer = _portable(error)
            pipe.send(answer)
            burn.at("answered")
            asked = pipe.recv()
    burn.at("closing")


def _work(devices: Mapping[int, DeviceActor], batch: Mapping[int, Work], burn: Fuse) -> dict[int, Reply]:
    replies: dict[int, Reply] = {}
    for number, item in batch.items():
        replies[number] = devices[number].work(item)
        burn.at("working")
    return replies


def _portable(error: Exception) -> Exception:
    """An error that survives the pipe: ours as it is, any other with its traceback as text."""
    if isinstance(error, MoelabError):
        return error
    import traceback

    return RuntimeError("in a worker process:\n" + "".join(traceback.format_exception(error)))
