"""The scheduler as a Ray actor: hosts one run."""

from collections.abc import Mapping
from typing import Any, Protocol

from cluster.config.run import RunConfig
from cluster.transports.board import Board
from cluster.transports.ray.cluster import cause, cluster, lost
from cluster.transports.ray.standing import Heard, Standing, new_label, standing
from cluster.transports.ray.transport import RayTransport
from emulation.errors import TransportError

POLL_S = 0.2


class Host(Protocol):
    """What the scheduler actor hosts: one run."""

    def run(self, config: Any, transport: Any, progress: Any, on_token: Any) -> Any: ...

    def counts(self, answer: Any) -> Mapping[str, Mapping[str, float]]:
        """Of what `run` returned, by policy: the figures that Ray's metrics count."""


class SchedulerActor:
    """The central scheduler as an actor: hosts one run, and answers how far it is meanwhile."""

    def __init__(self) -> None:
        self._board = Board()

    def run(self, host: Host, config: RunConfig, place: Standing) -> Any:
        from cluster.transports.ray import figures

        transport = RayTransport(config.devices_per_actor, place, ships=config.ray.checkpoint == "shipped")
        try:
            answer = host.run(config, transport, self._board, self._board.add)
        finally:
            transport.close()
        figures.count(config.name, host.counts(answer))
        return answer

    def read(self) -> Any:
        return self._board.read()

    def flush(self) -> None:
        """Return when what was counted has reached Ray's agent."""
        from cluster.transports.ray import figures

        figures.flush()


def run_in_cluster(host: Host, config: RunConfig, actors: int, progress: Heard, on_token: Any = None) -> Any:
    """Host a run in a scheduler actor, and pass on its progress and tokens; returns what it returns.

    actors: how many its devices need.
    """
    label = new_label(config.name)
    with cluster(config.ray.namespace or f"moelab-{label}") as found, standing(
            label, config.ray, actors + 1, bool(found["private"]), progress,
            one_node=config.clock == "wall") as place:
        import ray

        remote = ray.remote(SchedulerActor)
        scheduler: Any = remote.options(**place.options("scheduler", 0), max_concurrency=2).remote()
        answer = scheduler.run.remote(host, config, place)
        try:
            is_over = False
            while not is_over:
                is_over = bool(ray.wait([answer], timeout=POLL_S)[0])
                last, tokens = ray.get(scheduler.read.remote())
                if last is not None:
                    progress.update(*last)
                for token in tokens if on_token is not None else ():
                    on_token(token)
            results = ray.get(answer)
            if config.ray.flush_metrics and not found["private"]:
                ray.get(scheduler.flush.remote())
            return results
        except ray.exceptions.RayTaskError as error:
            raise cause(error) from None
        except ray.exceptions.RayActorError as error:
            raise lost("the scheduler actor", error) from None
        except ray.exceptions.RuntimeEnvSetupError as error:
            raise TransportError(f"the Ray cluster cannot set up the run's environment: {error}") from None
        finally:
            ray.kill(scheduler)
