"""The workers of a sweep as Ray actors."""

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from cluster.config.on_ray import OnRay
from cluster.session import Silent
from cluster.transports.ray.cluster import cause, cluster
from cluster.transports.ray.standing import Heard, new_label, standing


class Hand:
    """What an actor of a pool runs: one function."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def work(self, task: Any) -> Any:
        return self._function(task)


class Pool:
    """A function on actors of a cluster, one task at a time each: a CPU each, by default one a CPU that is free.

    asked: what each reserves, and how long to wait for the first; heard is told of that wait.
    """

    def __init__(self, function: Callable[[Any], Any], workers: int | None = None, name: str = "sweep",
                 asked: OnRay | None = None, heard: Heard | None = None) -> None:
        self._function, self._wanted, self._label = function, workers or 0, new_label(name)
        self._asked, self._heard = asked or OnRay(), heard or Silent()
        self._stack = ExitStack()
        self._free: list[Any] = []
        self._actors: list[Any] = []
        self._in_held: Any = None  # the actor in the room that is held
        self._at: dict[Any, tuple[Any, Any]] = {}

    def __enter__(self) -> "Pool":
        with ExitStack() as opened:
            found = opened.enter_context(cluster(self._asked.namespace or f"moelab-{self._label}"))
            private = bool(found["private"])
            import ray

            known: Any = ray
            total, free = (float(of().get("CPU", 0)) for of in (known.cluster_resources, known.available_resources))
            each = 1.0 if self._asked.cpus_per_actor is None else self._asked.cpus_per_actor
            if self._wanted:
                each = min(each, total / self._wanted)
            else:
                self._wanted = max(int((total if private else free) / (each or 1.0)), 1)
            asked = self._asked.model_copy(update={"cpus_per_actor": each})
            # Room for one worker is held: where there is none, there is none for a sweep. Others come as there is room.
            self._place = opened.enter_context(standing(self._label, asked, 1, private, self._heard))
            self._stack = opened.pop_all()
        return self

    def _new(self) -> Any:
        import ray

        hand: Any = ray.remote(Hand)
        takes_held = self._in_held is None
        asked = self._place.options(f"worker-{len(self._actors)}", 0 if takes_held else None)
        actor = hand.options(**asked).remote(self._function)
        self._actors.append(actor)
        if takes_held:
            self._in_held = actor
        return actor

    def idle(self) -> bool:
        """Whether one more task can be given."""
        return len(self._at) < self._wanted

    def give(self, task: Any) -> None:
        """Let an actor that is free, or a new one, work on a task."""
        actor = self._free.pop() if self._free else self._new()
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
            if actor is self._in_held:
                self._in_held = None
            return task, f"died ({str(error).splitlines()[0]})"
        self._free.append(actor)
        return task, found

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 where: TracebackType | None) -> None:
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._stack.__exit__(kind, error, where)
