"""Devices as Ray actors."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from actors.messages import DeviceSpec, Reply, Work
from actors.player import Player
from actors.programme import Order
from cluster.transports.ray.cluster import cause, options
from cluster.transports.serving import open_devices
from emulation.errors import TransportError

START_TIMEOUT_S = 180.0


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
            self._actors = [remote.options(**options()).remote(group) for group in groups]
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
            raise cause(error) from None
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
