"""The scheduler as a Ray actor: hosts one run."""

from typing import Any, Protocol

from cluster.transports.board import Board
from cluster.transports.ray.cluster import cause, cluster, options
from cluster.transports.ray.transport import RayTransport
from emulation.errors import TransportError

POLL_S = 0.2


class Host(Protocol):
    """What the scheduler actor hosts: one run."""

    def run(self, config: Any, transport: Any, progress: Any, on_token: Any) -> Any: ...


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
        scheduler: Any = remote.options(**options(), max_concurrency=2).remote()
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
            raise cause(error) from None
        except ray.exceptions.RayActorError as error:
            raise TransportError(f"the scheduler actor died: {str(error).splitlines()[0]}") from None
        finally:
            ray.kill(scheduler)
