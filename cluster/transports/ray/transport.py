"""Devices as Ray actors."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from actors.device import DeviceActor
from actors.messages import DeviceSpec, Reply, Work
from actors.player import Player
from actors.programme import Order
from cluster.transports.crash import Fuse, fuse
from cluster.transports.holdings import Holdings
from cluster.transports.ray.cluster import cause, lost, options
from cluster.transports.serving import open_devices
from emulation.errors import TransportError

START_TIMEOUT_S = 180.0


class DeviceGroup:
    """What a device actor runs: one emulated device or several."""

    def __init__(self, burn: Fuse) -> None:
        self._fuse = burn
        self._fuse.at("starting")
        self._devices: dict[int, DeviceActor] = {}
        self._player = Player(self._devices)

    def open(self, specs: Sequence[DeviceSpec]) -> int:
        """Devices from new; the process that serves them."""
        self._player.close()
        self._devices = open_devices(specs)
        self._player = Player(self._devices)
        self._fuse.at("opened")
        return os.getpid()

    def obey(self, order: Order) -> object:
        return self._player.obey(order)

    def work(self, batch: dict[int, Work]) -> dict[int, Reply]:
        self._fuse.at("received")
        replies = {}
        for number, item in batch.items():
            replies[number] = self._devices[number].work(item)
            self._fuse.at("working")
        self._fuse.at("answering")
        return replies


class RayTransport:
    """Devices as Ray actors, `devices_per_actor` in each; lives in the scheduler actor.

    An actor that is lost, with its node or alone, is started again as a worker process is (`processes.py`). restarts:
    how many actors of this run were, `before` of them before this scheduler was there.
    """

    name = "ray"

    def __init__(self, devices_per_actor: int = 1, most_restarts: int = 0, before: int = 0,
                 burn: Fuse | None = None) -> None:
        self._per_actor, self._most_restarts = devices_per_actor, most_restarts
        self.restarts = before
        self._fuse = burn or Fuse()
        self._groups: list[list[int]] = []
        self._actors: list[Any] = []
        self._lives: list[int] = []
        self._actor_of: dict[int, int] = {}
        self._opened: list[Any] = []
        self._plays = False

    def open(self, specs: Sequence[DeviceSpec]) -> None:
        self._fuse.at("opening")
        count = -(-len(specs) // self._per_actor)
        again = count == len(self._actors)
        if not again:
            self.close()
        self._holdings, self._plays = Holdings(specs), False
        numbers = [spec.number for spec in specs]
        self._groups = [numbers[at:at + self._per_actor] for at in range(0, len(numbers), self._per_actor)]
        self._actor_of = {device: number for number, group in enumerate(self._groups) for device in group}
        if not again:
            self._lives = [0] * count
            self._actors = [self._new(number) for number in range(count)]
        self._opened = [self._open(number) for number in range(count)]

    def _new(self, number: int) -> Any:
        import ray

        return ray.remote(DeviceGroup).options(**options()).remote(fuse("worker", number, self._lives[number]))

    def _open(self, number: int) -> Any:
        return self._actors[number].open.remote([self._holdings.spec(device) for device in self._groups[number]])

    def wait(self) -> None:
        self._fuse.at("waiting")
        for number, reference in enumerate(self._opened):
            self._answer(number, reference, timeout_s=START_TIMEOUT_S)

    def exchange(self, work: Mapping[int, Work]) -> dict[int, Reply]:
        self._fuse.at("decided")
        batches: dict[int, dict[int, Work]] = {}
        for device, item in work.items():
            batches.setdefault(self._actor_of[device], {})[device] = item
        asked = {number: self._actors[number].work.remote(batch) for number, batch in batches.items()}
        self._fuse.at("exchanging")
        replies: dict[int, Reply] = {}
        for number, reference in asked.items():
            replies.update(self._answer(number, reference, batches[number]))
            self._holdings.note(batches[number])
        self._fuse.at("exchanged")
        return replies

    def players(self) -> dict[int, int]:
        return dict(self._actor_of)

    def perform(self, orders: Mapping[int, Order]) -> dict[int, object]:
        self._plays = True
        asked = {number: self._actors[number].obey.remote(order) for number, order in orders.items()}
        return {number: self._answer(number, reference) for number, reference in asked.items()}

    def _answer(self, number: int, reference: Any, batch: dict[int, Work] | None = None,
                timeout_s: float | None = None) -> Any:
        """What an actor answers to a message, or to being opened (None), or one in its place."""
        import ray

        while True:
            try:
                return ray.get(reference, timeout=timeout_s)
            except ray.exceptions.RayTaskError as error:
                raise cause(error) from None
            except ray.exceptions.GetTimeoutError:
                raise TransportError(f"device actor {number} did not start within {timeout_s:.0f} s") from None
            except lost() as error:
                self._again(number, f"device actor {number} died: {str(error).splitlines()[0]}")
                reference = self._open(number)
                if batch is not None:
                    self._answer(number, reference, timeout_s=START_TIMEOUT_S)
                    reference = self._actors[number].work.remote(batch)

    def _again(self, number: int, story: str) -> None:
        """Another actor in the place of one that was lost; raises how that one ended where there may be no other."""
        import ray

        if self._plays:
            raise TransportError(f"{story}, and what it played at the wall clock cannot be played again: start the run "
                                 "again, or use clock: virtual")
        if self.restarts >= self._most_restarts:
            before = f" after {self.restarts} restarts, the most that `restarts` allows" if self.restarts else ""
            raise TransportError(story + before)
        self.restarts += 1
        self._lives[number] += 1
        ray.kill(self._actors[number])  # one that cannot be reached may be alive
        self._actors[number] = self._new(number)

    def close(self) -> None:
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def describe(self) -> dict[str, object]:
        return {"transport": self.name, "workers": len(self._actors), "restarts": self.restarts}
