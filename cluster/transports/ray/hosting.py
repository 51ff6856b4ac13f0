"""The scheduler as a Ray actor: hosts one run."""

import os
from collections.abc import Mapping
from typing import Any, Protocol

from cluster.transports.board import Board, News
from cluster.transports.crash import VARIABLE, Fuse, fuse
from cluster.transports.ray.cluster import cause, cluster, lost, options
from cluster.transports.ray.transport import RayTransport
from emulation.errors import TransportError

POLL_S = 0.2


class Host(Protocol):
    """What the scheduler actor hosts: one run."""

    def run(self, config: Any, transport: Any, progress: Any, on_token: Any, safe: Any) -> Any: ...


class SchedulerActor:
    """The central scheduler as an actor: hosts one run, and answers how far it is meanwhile.

    crash: MOELAB_CRASH_AT, as the driver has it. kept: what a scheduler before this one handed on. restarts: how many
    actors of this run were started again.
    """

    def __init__(self, crash: str, burn: Fuse, kept: Mapping[str, Any], restarts: int) -> None:
        burn.at("starting")
        os.environ[VARIABLE] = crash
        self._board, self._fuse, self._transport = Board(kept, burn), burn, RayTransport(1, 0, 0)
        self._restarts = restarts

    def run(self, host: Host, config: Any) -> Any:
        self._transport = RayTransport(config.devices_per_actor, config.restarts, self._restarts, self._fuse)
        try:
            answer = host.run(config, self._transport, self._board, self._board.add, self._board)
            self._fuse.at("finishing")
            return answer
        finally:
            self._transport.close()

    def read(self) -> tuple[News, int]:
        """What is new, and how many actors were started again."""
        return self._board.read(), max(self._restarts, self._transport.restarts)


class Follower:
    """The driver's side of a run: passes on what is new and nothing twice, whichever scheduler tells it."""

    def __init__(self, progress: Any, on_token: Any) -> None:
        self._progress, self._on_token = progress, on_token
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


def run_in_cluster(host: Host, config: Any, progress: Any, on_token: Any = None) -> Any:
    """Host a run in a scheduler actor, and pass on its progress and tokens; returns what it returns.

    Where that actor dies, another one is started in its place, up to config.restarts: it takes results and batches that
    the driver has from there, and does the rest again, which gives the same. Not at the wall clock.
    """
    with cluster():
        import ray

        remote, follower, life = ray.remote(SchedulerActor), Follower(progress, on_token), 0
        while True:
            scheduler: Any = remote.options(**options(), max_concurrency=2).remote(
                os.environ.get(VARIABLE, ""), fuse("scheduler", 0, life), follower.kept, follower.restarts)
            try:
                return follower.follow(scheduler, scheduler.run.remote(host, config))
            except ray.exceptions.RayTaskError as error:
                raise cause(error) from None
            except lost() as error:
                story = f"the scheduler actor died: {str(error).splitlines()[0]}"
                if config.clock == "wall":
                    raise TransportError(f"{story}, and what was played at the wall clock cannot be played again: "
                                         "start the run again, or use clock: virtual") from None
                if follower.restarts >= config.restarts:
                    before = f" after {follower.restarts} restarts, the most that `restarts` allows"
                    raise TransportError(story + (before if follower.restarts else "")) from None
            finally:
                ray.kill(scheduler)
            life += 1
            follower.restarts += 1
