"""How the actors of a run stand in a cluster: their names, what they reserve, on which nodes they go."""

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from actors.messages import DeviceSpec
from cluster.config.on_ray import OnRay
from cluster.transports.ray.cluster import options
from emulation.errors import TransportError

GRANT_S = 10.0
"""How long a cluster may take to hand out what it has: what an earlier run held comes back a moment after its end."""
LOOK_S = 1.0
LEAST_CPUS = 0.001
"""What an actor reserves whose node matters and that asks for nothing else."""


class Heard(Protocol):
    """Hears how far a run is; total 0: it has not begun, and the text says what it waits for."""

    def update(self, done: int, total: int, text: str) -> None: ...


@dataclass(frozen=True)
class Standing:
    """label: the first part of every actor's name, of this run alone; empty: actors have no names. cpus, memory_bytes:
    what each actor reserves. group: the placement group that holds it, a bundle an actor, the scheduler's first."""

    label: str = ""
    cpus: float = 0.0
    memory_bytes: int = 0
    spread: bool = False
    group: Any = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def options(self, name: str, bundle: int | None = None) -> dict[str, Any]:
        """Ray's options for an actor. bundle: its place in the group."""
        found: dict[str, Any] = {**self.more, "num_cpus": self.cpus}
        if self.label:
            found["name"] = f"{self.label}/{name}"
        if self.memory_bytes:
            found["memory"] = self.memory_bytes
        if self.group is not None and bundle is not None:
            from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

            found["scheduling_strategy"] = PlacementGroupSchedulingStrategy(self.group, bundle)
        elif self.spread:
            found["scheduling_strategy"] = "SPREAD"
        return found

    def of_life(self, life: int) -> "Standing":
        """The same for the devices of another scheduler: names of the last one's may not be free yet."""
        return replace(self, label=f"{self.label}#{life + 1}") if life and self.label else self


def new_label(run: str) -> str:
    """A name for a run's actors that no other run has."""
    return f"{run}-{secrets.token_hex(3)}"


def devices_name(specs: Sequence[DeviceSpec]) -> str:
    """A device actor's name: its devices', the first and the last where there are many."""
    names = [spec.name for spec in specs]
    return "+".join(names) if len(names) <= 2 else f"{names[0]}..{names[-1]}"


@contextmanager
def standing(label: str, asked: OnRay, actors: int, private: bool, heard: Heard, *,
             one_node: bool = False) -> Iterator[Standing]:
    """Room for so many actors, held for the time of a run; TransportError where there is none in time.

    one_node: they talk to each other in ways that one host alone has.
    """
    import ray
    from ray.util import placement_group, remove_placement_group

    cpus, memory = asked.cpus(private), asked.memory_bytes(private)
    placement = "strict_pack" if one_node else asked.placement
    if placement == "strict_spread" or (one_node and not private):
        cpus = max(cpus, LEAST_CPUS)  # a group of nothing is none
    plain = Standing(label, cpus, memory, asked.placement == "spread", None, options())
    if not cpus and not memory:
        yield plain
        return
    bundle = {key: value for key, value in (("CPU", cpus), ("memory", memory)) if value}
    group = placement_group([bundle] * actors, strategy=placement.upper(), name=label)
    try:
        wanted = f"{actors} actors of {_amount(cpus, memory)} each{WHERE[placement]}"
        until = Patience(asked.wait_s, wanted, heard)
        while not group.wait(timeout_seconds=LOOK_S):
            until.look()
        yield Standing(label, cpus, memory, plain.spread, group, plain.more)
    finally:
        with suppress(ray.exceptions.RayError, ConnectionError):
            remove_placement_group(group)


WHERE = {"pack": "", "strict_pack": ", all on one node", "spread": ", spread over its nodes",
         "strict_spread": ", each on a node of its own"}


class Patience:
    """Waits for room in a cluster, tells so, and gives up with a sentence."""

    def __init__(self, wait_s: float, wanted: str, heard: Heard) -> None:
        self._began, self._wait_s, self._wanted, self._heard = time.monotonic(), wait_s, wanted, heard

    def look(self) -> None:
        """It is not there yet. TransportError after wait_s, or at once where nobody waits."""
        waited = time.monotonic() - self._began
        if waited >= max(self._wait_s, GRANT_S):
            waits = f"after {self._wait_s:.0f} s " if self._wait_s else ""
            more = "longer" if self._wait_s else "for it"
            raise TransportError(
                f"{waits}the Ray cluster has no room for {self._wanted}: {_free()}; ask for less "
                f"(ray.cpus_per_actor, ray.memory_per_actor, more devices_per_actor), or wait {more} (--wait SECONDS)")
        if self._wait_s > GRANT_S:
            self._heard.update(0, 0, f"waiting up to {self._wait_s:.0f} s for room on the Ray cluster: {self._wanted}")


def _free() -> str:
    """What is free in the cluster, of what it has."""
    import ray

    asked: Any = ray
    has, free = asked.cluster_resources(), asked.available_resources()
    nodes = sum(node["Alive"] for node in asked.nodes())
    return (f"{_number(free.get('CPU', 0.0))} of {_number(has.get('CPU', 0.0))} CPUs and "
            f"{_number(free.get('memory', 0.0) / 1e9)} of {_number(has.get('memory', 0.0) / 1e9)} GB are free on "
            f"{nodes} node{'s' * (nodes != 1)}")


def _amount(cpus: float, memory_bytes: int) -> str:
    parts = [f"{_number(cpus)} CPU{'s' * (cpus != 1)}"] if cpus else []
    return " and ".join([*parts, *([f"{_number(memory_bytes / 1e9)} GB"] if memory_bytes else [])])


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
