"""The floor of a transport's calls: the same messages, to workers that compute nothing and reply as many bytes."""

import multiprocessing
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from actors.messages import Move, Reply, Work
from benchmarks.harness import ROOT

Batch = dict[int, Work]


class Floor(Protocol):
    """Workers that answer at once; open within `with`."""

    def __enter__(self) -> "Floor": ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None: ...

    def seconds(self, exchanges: Sequence[Batch]) -> float:
        """What it takes to carry these exchanges, one after the other."""


def reply(work: Work) -> Reply:
    """As many bytes as the work's results take, and none of its math."""
    runs = [item for item in work.items if not isinstance(item, Move)]
    if work.x is None or not runs:
        return Reply(None, len(runs))
    return Reply(np.zeros((sum(len(run.rows) for run in runs), work.x.shape[1]), np.float32), len(runs))


def floor(transport: str, devices: int) -> Floor:
    """The floor of `processes` or `ray`, a worker a device; Ray's cluster must be up."""
    return RayFloor(devices) if transport == "ray" else PipeFloor(devices)


def _serve(pipe: "Connection[Any, Any]") -> None:
    try:
        while True:
            asked: Batch = pipe.recv()
            pipe.send({number: reply(work) for number, work in asked.items()})
    except (EOFError, OSError):
        pipe.close()


class PipeFloor:
    """Processes behind pipes, as the `processes` transport has them."""

    def __init__(self, devices: int) -> None:
        self._devices = devices
        self._workers: list[tuple[Any, Connection[Any, Any]]] = []
        self._of: dict[int, int] = {}

    def __enter__(self) -> "PipeFloor":
        context = multiprocessing.get_context("forkserver")
        for _ in range(self._devices):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._workers.append((process, ours))
        return self

    def __exit__(self, *_: object) -> None:
        for process, pipe in self._workers:
            pipe.close()
            process.join()
        self._workers = []

    def _pipe(self, device: int) -> "Connection[Any, Any]":
        return self._workers[self._of.setdefault(device, len(self._of))][1]

    def seconds(self, exchanges: Sequence[Batch]) -> float:
        for pipe in (pipe for _, pipe in self._workers):  # answered once: the worker is there
            pipe.send({})
            pipe.recv()
        began = time.perf_counter()
        for work in exchanges:
            for device, item in work.items():
                self._pipe(device).send({device: item})
            for device in work:
                self._pipe(device).recv()
        return time.perf_counter() - began


class _Echo:
    def work(self, batch: Batch) -> dict[int, Reply]:
        return {number: reply(work) for number, work in batch.items()}


class RayFloor:
    """Ray actors, as the `ray` transport has them."""

    def __init__(self, devices: int) -> None:
        self._devices = devices
        self._actors: list[Any] = []
        self._of: dict[int, int] = {}

    def __enter__(self) -> "RayFloor":
        import ray

        remote: Any = ray.remote(_Echo)
        path = {"env_vars": {"PYTHONPATH": str(ROOT)}}  # workers know the packages, and this folder is none
        self._actors = [remote.options(num_cpus=0, runtime_env=path).remote() for _ in range(self._devices)]
        ray.get([actor.work.remote({}) for actor in self._actors])
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def seconds(self, exchanges: Sequence[Batch]) -> float:
        import ray

        began = time.perf_counter()
        for work in exchanges:
            ray.get([self._actors[self._of.setdefault(device, len(self._of))].work.remote({device: item})
                     for device, item in work.items()])
        return time.perf_counter() - began
