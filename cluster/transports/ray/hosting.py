"""The scheduler as a Ray actor: hosts one run."""

import os
import time
from collections.abc import Mapping
from typing import Any, Protocol

from cluster.config.run import RunConfig
from cluster.observe.metrics.families import Samples
from cluster.observe.metrics.watch import Watch
from cluster.transports.board import Board, News
from cluster.transports.crash import VARIABLE, Fuse, fuse
from cluster.transports.ray.cluster import DiedError, cause, cluster, gone, lost, spent
from cluster.transports.ray.standing import Heard, Standing, new_label, standing
from cluster.transports.ray.transport import START_TIMEOUT_S, RayTransport
from emulation.errors import TransportError

POLL_S = 0.2
WATCHED_S = 1.0
"""Between two looks at the metrics of a run that shows them where it was started."""


class Host(Protocol):
    """What the scheduler actor hosts: one run."""

    def run(self, config: Any, transport: Any, progress: Any, on_token: Any, safe: Any, watch: Any) -> Any: ...


class SchedulerActor:
    """The central scheduler as an actor: hosts one run, and answers how far it is meanwhile.

    crash: MOELAB_CRASH_AT, as the driver has it. kept: what a scheduler before this one put into the safe. restarts:
    how many actors of this run were started again.
    """

    def __init__(self, crash: str, burn: Fuse, kept: Mapping[str, Any], restarts: int) -> None:
        burn.at("starting")
        os.environ[VARIABLE] = crash
        self._board, self._fuse, self._restarts = Board(kept, burn), burn, restarts
        self._transport: RayTransport | None = None
        self._watch: Watch | None = None

    def run(self, host: Host, config: RunConfig, place: Standing) -> Any:
        from cluster.transports.ray.figures import EVERY_S, Figures

        self._watch = Watch(config.name, Figures().tell, EVERY_S if config.metrics.port is None else WATCHED_S)
        transport = self._transport = RayTransport(
            config.devices_per_actor, place, ships=config.ray.checkpoint == "shipped", most_restarts=config.restarts,
            restarts=self._restarts, burn=self._fuse)
        try:
            answer = host.run(config, transport, self._board, self._board.add, self._board, self._watch)
            self._fuse.at("finishing")
        finally:
            transport.close()
        return answer

    def read(self) -> tuple[News, int]:
        """What is new, and how many actors were started again."""
        return self._board.read(), self._restarts if self._transport is None else self._transport.restarts

    def metrics(self) -> dict[str, Samples]:
        """The metrics of each policy that has begun."""
        return {} if self._watch is None else self._watch.told()

    def flush(self) -> None:
        """Return when what was counted has reached Ray's agent."""
        from cluster.transports.ray import figures

        figures.flush()


class Follower:
    """The driver's side of a run: passes on what is new and nothing twice, whichever scheduler tells it."""

    def __init__(self, progress: Heard, on_token: Any, watch: Watch | None = None) -> None:
        self._progress, self._on_token, self._watch, self._due_s = progress, on_token, watch, 0.0
        self._furthest: dict[str, int] = {}
        self.kept: dict[str, Any] = {}
        self.restarts = 0

    def follow(self, scheduler: Any, answer: Any) -> Any:
        """Listen to a scheduler until its run is over; what that returned."""
        import ray

        is_over = False
        while not is_over:
            is_over = bool(ray.wait([answer], timeout=POLL_S)[0])
            news, self.restarts = ray.get(scheduler.read.remote())
            self._hear(news)
            if self._watch is not None and (is_over or time.monotonic() > self._due_s):
                self._watch.take(ray.get(scheduler.metrics.remote()))
                self._due_s = time.monotonic() + WATCHED_S
        return ray.get(answer)

    def _hear(self, news: News) -> None:
        self.kept.update(news.kept)
        if news.last is not None:
            done, total, text = news.last
            of = text.rpartition(": ")[0]
            if done > self._furthest.get(of, 0):
                self._furthest[of] = done
                self._progress.update(done, total, text)
        for token in news.tokens if self._on_token is not None else ():
            self._on_token(token)


def _until_up(scheduler: Any) -> None:
    """Until a scheduler that takes another's place is there; where no node has room for it, it never will be."""
    import ray

    try:
        ray.get(scheduler.metrics.remote(), timeout=START_TIMEOUT_S)  # `read` would take what is new
    except ray.exceptions.GetTimeoutError:
        raise TransportError("the scheduler actor died, and no other started in its place within "
                             f"{START_TIMEOUT_S:.0f} s: the Ray cluster may have no room for it") from None


def run_in_cluster(host: Host, config: RunConfig, actors: int, progress: Heard, on_token: Any = None,
                   watch: Watch | None = None) -> Any:
    """Host a run in a scheduler actor, and pass on its progress and tokens; returns what it returns.

    actors: how many its devices need. Where the scheduler is lost, another one is started in its place, up to
    config.restarts: it takes results and batches that the driver has from there, and does the rest again, which gives
    the same. Not at the wall clock.
    """
    label, follower, life = new_label(config.name), Follower(progress, on_token, watch), 0
    with cluster(config.ray.namespace or f"moelab-{label}") as found, standing(
            label, config.ray, actors + 1, bool(found["private"]), progress,
            one_node=config.clock == "wall") as place:
        import ray

        known: Any = ray
        remote = ray.remote(SchedulerActor)
        while True:
            asked = place.options(f"scheduler#{life + 1}" if life else "scheduler", 0)
            scheduler: Any = remote.options(**asked, max_concurrency=2).remote(
                os.environ.get(VARIABLE, ""), fuse("scheduler", 0, life), follower.kept, follower.restarts)
            try:
                if life:
                    _until_up(scheduler)
                results = follower.follow(scheduler, scheduler.run.remote(host, config, place.of_life(life)))
                if config.ray.flush_metrics and not found["private"]:
                    ray.get(scheduler.flush.remote())
                return results
            except ray.exceptions.RayTaskError as error:
                raise cause(error) from None
            except gone() as error:
                story = lost("the scheduler actor", error)
                if not isinstance(story, DiedError):
                    raise story from None
                if config.clock == "wall":
                    raise TransportError(f"{story}, and what was played at the wall clock cannot be played again: "
                                         "start the run again, or use clock: virtual") from None
                if follower.restarts >= config.restarts:
                    raise TransportError(f"{story}{spent(follower.restarts)}") from None
                if not any(node["Alive"] for node in known.nodes()):
                    raise TransportError(f"{story}, and the Ray cluster has no node left for another") from None
            except ray.exceptions.RuntimeEnvSetupError as error:
                raise TransportError(f"the Ray cluster cannot set up the run's environment: {error}") from None
            finally:
                ray.kill(scheduler)
            life += 1
            follower.restarts += 1
