"""The workers of a sweep as Ray actors."""

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from cluster.transports.ray.cluster import cause, cluster, options


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
            asked = {**options(), "num_cpus": min(1.0, cpus / self._wanted)}
            hand: Any = ray.remote(Hand)
            self._actor = hand.options(**asked)
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
            raise cause(error) from None
        except ray.exceptions.RayActorError as error:
            return task, f"died ({str(error).splitlines()[0]})"
        self._free.append(actor)
        return task, found

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 where: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, where)
