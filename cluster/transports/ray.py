"""Ray: the scheduler is an actor, each device (or several) is an actor, and so is each worker of a sweep.

The only file that imports Ray.

A run of our own starts a private cluster on loopback, with a token of its own and a temporary folder of its own, and
takes both away again: an earlier cluster that died, or one that runs beside it, does not matter. Inside a Ray job
(`ray job submit`) or where RAY_ADDRESS is set, it uses that cluster.
"""

import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from types import TracebackType
from typing import Any, Protocol

from actors.messages import DeviceSpec, Reply, Work
from actors.player import Player
from actors.programme import Order
from cluster.transports.board import Board
from cluster.transports.serving import open_devices
from emulation.errors import MoelabError, TransportError
from emulation.extras import require
from moe.determinism import ENVIRONMENT

LOOPBACK = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Without the first, Ray 2.60 rewrites 127.0.0.1 to the host's address and listens on all interfaces."""

POLL_S = 0.2
START_TIMEOUT_S = 180.0


class Host(Protocol):
    """What the scheduler actor hosts: one run."""

    def run(self, config: Any, transport: Any, progress: Any, on_token: Any) -> Any: ...


def attached() -> bool:
    """Whether a cluster is given: inside a Ray job, or by RAY_ADDRESS."""
    return bool(os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"))


@cache
def _token() -> str:
    """What private clusters of this process are opened with; Ray keeps the first that a process uses."""
    return secrets.token_hex(32)


@contextmanager
def cluster() -> Iterator[dict[str, object]]:
    """A Ray cluster for the time of a run: the one that is given, or a private one on loopback."""
    require("transport: ray", "ray")
    before = dict(os.environ)
    folder = None
    if not attached():
        os.environ.update(LOOPBACK, **ENVIRONMENT, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=_token())
        folder = tempfile.mkdtemp(prefix="moelab-", dir="/tmp" if os.path.isdir("/tmp") else None)
    import ray
    from ray.job_config import JobConfig

    try:
        if folder is None:
            ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
        else:
            # As the job of a client Ray does not put the current folder first on its workers' path: it may hold a moe/.
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
                     num_cpus=os.cpu_count(), _temp_dir=folder, job_config=JobConfig(_client_job=True))
        yield {"private": folder is not None, "ray": ray.__version__}
    except (ConnectionError, ray.exceptions.RaySystemError) as error:
        raise TransportError(f"Ray did not start or was lost: {str(error).splitlines()[0]}") from None
    finally:
        ray.shutdown()
        os.environ.clear()
        os.environ.update(before)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _options() -> dict[str, Any]:
    """Actors wait for each other, so they reserve no CPU; in a cluster that is not ours they bring the environment."""
    return {"num_cpus": 0, **({"runtime_env": {"env_vars": ENVIRONMENT}} if attached() else {})}


class DeviceGroup:
    """What a device actor runs: one emulated device or several."""

    def __init__(self, specs: Sequence[DeviceSpec]) -> None:
        self._devices = open_devices(specs)
        self._player = Player(self._devices)

    def ready(self) -> int:
        """The process that serves these devices."""
        return os.getpid()

    def reopen(self, specs: Sequence[DeviceSpec]) -> int:
        """The same devices from new, with other shards."""
        self._player.close()
        self._devices = open_devices(specs)
        self._player = Player(self._devices)
        return os.getpid()

    def obey(self, order: Order) -> object:
        return self._player.obey(order)

    def work(self, batch: dict[int, Work]) -> dict[int, Reply]:
        return {number: self._devices[number].work(item) for number, item in batch.items()}


class RayTransport:
    """Devices as Ray actors, `devices_per_actor` in each; lives in the scheduler actor."""

    name = "ray"

    def __init__(self, devices_per_actor: int = 1) -> None:
        self._per_actor = devices_per_actor
        self._actors: list[Any] = []
        self._actor_of: dict[int, int] = {}
        self._starting: list[Any] = []

    def open(self, specs: Sequence[DeviceSpec]) -> None:
        import ray

        groups = [list(specs[at:at + self._per_actor]) for at in range(0, len(specs), self._per_actor)]
        if len(groups) == len(self._actors):
            self._starting = [a.reopen.remote(group) for a, group in zip(self._actors, groups, strict=True)]
        else:
            self.close()
            remote = ray.remote(DeviceGroup)
            self._actors = [remote.options(**_options()).remote(group) for group in groups]
            self._starting = [actor.ready.remote() for actor in self._actors]
        self._actor_of = {spec.number: i for i, group in enumerate(groups) for spec in group}

    def wait(self) -> None:
        self._get(self._starting, START_TIMEOUT_S)

    def exchange(self, work: Mapping[int, Work]) -> dict[int, Reply]:
        batches: dict[int, dict[int, Work]] = {}
        for device, item in work.items():
            batches.setdefault(self._actor_of[device], {})[device] = item
        answers = self._get([self._actors[number].work.remote(batch) for number, batch in batches.items()])
        replies: dict[int, Reply] = {}
        for answer in answers:
            replies.update(answer)
        return replies

    def players(self) -> dict[int, int]:
        return dict(self._actor_of)

    def perform(self, orders: Mapping[int, Order]) -> dict[int, object]:
        answers = self._get([self._actors[number].obey.remote(order) for number, order in orders.items()])
        return dict(zip(orders, answers, strict=True))

    def _get(self, references: list[Any], timeout_s: float | None = None) -> list[Any]:
        import ray

        try:
            answers: list[Any] = ray.get(references, timeout=timeout_s)
        except ray.exceptions.RayTaskError as error:
            raise _cause(error) from None
        except ray.exceptions.GetTimeoutError:
            raise TransportError(f"{len(references)} device actors did not start within {timeout_s} s") from None
        except ray.exceptions.RayActorError as error:
            raise TransportError(f"a device actor died: {str(error).splitlines()[0]}") from None
        return answers

    def close(self) -> None:
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def describe(self) -> dict[str, object]:
        return {"transport": self.name, "workers": len(self._actors)}


class SchedulerActor:
    """The central scheduler as an actor: hosts one run, and answers how far it is meanwhile."""

    def __init__(self) -> None:
        self._board = Board()

    def run(self, host: Host, config: Any, devices_per_actor: int) -> Any:
        transport = RayTransport(devices_per_actor)
        try:
            return host.run(config, transport, self._board, self._board.add)
        finally:
            transport.close()

    def read(self) -> Any:
        return self._board.read()


def run_in_cluster(host: Host, config: Any, devices_per_actor: int, progress: Any, on_token: Any = None) -> Any:
    """Host a run in a scheduler actor, and pass on its progress and tokens; returns what it returns."""
    with cluster():
        import ray

        remote = ray.remote(SchedulerActor)
        scheduler: Any = remote.options(**_options(), max_concurrency=2).remote()
        answer = scheduler.run.remote(host, config, devices_per_actor)
        try:
            is_over = False
            while not is_over:
                is_over = bool(ray.wait([answer], timeout=POLL_S)[0])
                last, tokens = ray.get(scheduler.read.remote())
                if last is not None:
                    progress.update(*last)
                for token in tokens if on_token is not None else ():
                    on_token(token)
            return ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            raise _cause(error) from None
        except ray.exceptions.RayActorError as error:
            raise TransportError(f"the scheduler actor died: {str(error).splitlines()[0]}") from None
        finally:
            ray.kill(scheduler)


class Hand:
    """What an actor of a pool runs: one function."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def work(self, task: Any) -> Any:
        return self._function(task)


class Pool:
    """A function on actors of a cluster, one task at a time each: a CPU's share each, by default one a CPU."""

    def __init__(self, function: Callable[[Any], Any], workers: int | None = None) -> None:
        self._function, self._wanted = function, workers or 0
        self._stack = ExitStack()
        self._free: list[Any] = []
        self._at: dict[Any, tuple[Any, Any]] = {}

    def __enter__(self) -> "Pool":
        with ExitStack() as opened:
            opened.enter_context(cluster())
            import ray

            resources: Any = ray.cluster_resources
            cpus = int(resources().get("CPU", 1))
            self._wanted = self._wanted or cpus
            options = {**_options(), "num_cpus": min(1.0, cpus / self._wanted)}
            hand: Any = ray.remote(Hand)
            self._actor = hand.options(**options)
            self._stack = opened.pop_all()
        return self

    def idle(self) -> bool:
        """Whether one more task can be given."""
        return len(self._at) < self._wanted

    def give(self, task: Any) -> None:
        """Let an actor that is free, or a new one, work on a task."""
        actor = self._free.pop() if self._free else self._actor.remote(self._function)
        self._at[actor.work.remote(task)] = (actor, task)

    def answer(self) -> tuple[Any, Any]:
        """Wait for the next task to end: what the function returned, or, as text, how its actor ended."""
        import ray

        (reference, *_), _ = ray.wait(list(self._at), num_returns=1)
        actor, task = self._at.pop(reference)
        try:
            found = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise _cause(error) from None
        except ray.exceptions.RayActorError as error:
            return task, f"died ({str(error).splitlines()[0]})"
        self._free.append(actor)
        return task, found

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 where: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, where)


def _cause(error: Any) -> Exception:
    """The error that an actor raised: ours as it is, any other with Ray's account of it."""
    cause = error.cause
    if isinstance(cause, MoelabError):
        return type(cause)(str(cause))
    return RuntimeError(f"in an actor: {error}")


def floor(actors: int) -> dict[str, float]:
    """What Ray itself takes: start, that many actors that only import torch, shutdown; seconds."""
    begin = time.perf_counter()
    with cluster():
        import ray

        started = time.perf_counter()
        remote: Any = ray.remote(_Bare)
        bare = [remote.options(**_options()).remote() for _ in range(actors)]
        ray.get([actor.ready.remote() for actor in bare])
        ready = time.perf_counter()
    return {"init_s": started - begin, "actors_s": ready - started, "shutdown_s": time.perf_counter() - ready}


class _Bare:
    def ready(self) -> int:
        import torch

        return torch.get_num_threads()
