"""Devices as Ray actors."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from actors.device import DeviceActor
from actors.messages import DeviceSpec, Reply, Work
from actors.player import Player
from actors.programme import Order
from cluster.transports.crash import Fuse, fuse
from cluster.transports.holdings import Holdings
from cluster.transports.ray.cluster import DiedError, cause, gone, lost, options, spent
from cluster.transports.ray.shipping import Parcel, pack, unpack
from cluster.transports.ray.standing import Standing, devices_name
from cluster.transports.serving import open_devices
from emulation.errors import InputError, TransportError

START_TIMEOUT_S = 180.0


class Ready(NamedTuple):
    """Where the devices of an actor are: its process, its node, and whether it unpacked a checkpoint there."""

    pid: int
    node: str
    unpacked: bool


class DeviceGroup:
    """What a device actor runs: one emulated device or several."""

    def __init__(self, burn: Fuse) -> None:
        self._fuse = burn
        self._fuse.at("starting")
        self._unpacked = False
        self._devices: dict[int, DeviceActor] = {}
        self._player = Player(self._devices)

    def open(self, specs: Sequence[DeviceSpec], parcel: Parcel | None = None) -> Ready:
        """Devices from new; the process that serves them, and where it is. parcel: the checkpoint, where it is sent."""
        import ray

        self._player.close()
        if parcel is not None:
            folder, unpacked = unpack(parcel)
            self._unpacked |= unpacked
            specs = [spec if spec.folder is None else replace(spec, folder=str(folder)) for spec in specs]
        for spec in specs:
            if spec.folder is not None and not Path(spec.folder).is_dir():
                raise InputError(f"a node of the Ray cluster has no checkpoint folder {spec.folder}: put it under a "
                                 "path that all nodes share, or let it be sent with ray.checkpoint=shipped")
        self._devices = open_devices(specs)
        self._player = Player(self._devices)
        self._fuse.at("opened")
        return Ready(os.getpid(), ray.get_runtime_context().get_node_id(), self._unpacked)

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

    An actor that is lost, with its node or alone, is started again as a worker process is (`processes.py`).
    """

    name = "ray"

    def __init__(self, devices_per_actor: int = 1, place: Standing | None = None, *, ships: bool = False,
                 most_restarts: int = 0, restarts: int = 0, burn: Fuse | None = None) -> None:
        """place: how its actors stand in the cluster, by default without a reservation. ships: the checkpoint is sent.
        restarts: how many actors of this run were started again before this scheduler was there.
        """
        self._per_actor, self._ships, self._most_restarts = devices_per_actor, ships, most_restarts
        self._place = place or Standing(more=options())
        self.restarts, self._fuse = restarts, burn or Fuse()
        self._parcels: dict[str, Parcel] = {}
        self._ready: dict[int, Ready] = {}
        self._groups: list[list[DeviceSpec]] = []
        self._actors: list[Any] = []
        self._lives: list[int] = []
        self._actor_of: dict[int, int] = {}
        self._opened: list[Any] = []
        self._plays, self._started = False, 0

    def open(self, specs: Sequence[DeviceSpec]) -> None:
        self._fuse.at("opening")
        groups = [list(specs[at:at + self._per_actor]) for at in range(0, len(specs), self._per_actor)]
        again = len(groups) == len(self._actors)
        if not again:
            self.close()
        self._holdings, self._groups, self._plays, self._ready = Holdings(specs), groups, False, {}
        self._parcel = self._packed(specs)
        if not again:
            self._lives = [0] * len(groups)
            self._actors = [self._new(number) for number in range(len(groups))]
        self._opened = [self._open(number) for number in range(len(groups))]
        self._actor_of = {spec.number: i for i, group in enumerate(groups) for spec in group}

    def _new(self, number: int) -> Any:
        """An actor; names of actors that were just ended may not be free yet."""
        import ray

        self._started += 1
        name = devices_name(self._groups[number])
        if self._started > len(self._groups):
            name += f"#{self._started}"
        asked = self._place.options(name, number + 1)
        return ray.remote(DeviceGroup).options(**asked).remote(fuse("worker", number, self._lives[number]))

    def _open(self, number: int) -> Any:
        specs = [self._holdings.spec(spec.number) for spec in self._groups[number]]
        return self._actors[number].open.remote(specs, self._parcel)

    def _packed(self, specs: Sequence[DeviceSpec]) -> Parcel | None:
        folder = next((spec.folder for spec in specs if spec.folder is not None), None)
        if folder is None or not self._ships:
            return None
        if folder not in self._parcels:
            self._parcels[folder] = pack(Path(folder))
        return self._parcels[folder]

    def wait(self) -> None:
        self._fuse.at("waiting")
        for number, reference in enumerate(self._opened):
            self._answer(number, reference)

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
        return {number: self._answer(number, reference, {}) for number, reference in asked.items()}

    def _answer(self, number: int, reference: Any, message: dict[int, Work] | None = None) -> Any:
        """What an actor answers to a message, or to being opened (None); or one in its place."""
        import ray

        while True:
            try:
                answer = ray.get(reference, timeout=START_TIMEOUT_S if message is None else None)
            except ray.exceptions.RayTaskError as error:
                raise cause(error) from None
            except ray.exceptions.GetTimeoutError:
                raise TransportError(f"device actor {number} did not start within {START_TIMEOUT_S:.0f} s") from None
            except gone() as error:
                self._again(number, lost(f"device actor {number}", error))
                reference = self._open(number)
                if message is not None:
                    self._answer(number, reference)
                    reference = self._actors[number].work.remote(message)
            else:
                if message is None:
                    self._ready[number] = answer
                return answer

    def _again(self, number: int, story: Exception) -> None:
        """Another actor in the place of one that was lost; raises how that one ended where there may be no other."""
        import ray

        if not isinstance(story, DiedError):
            raise story
        if self._plays:
            raise TransportError(f"{story}, and what it played at the wall clock cannot be played again: start the run "
                                 "again, or use clock: virtual")
        if self.restarts >= self._most_restarts:
            raise TransportError(f"{story}{spent(self.restarts)}")
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
        return {"transport": self.name, "workers": len(self._actors), "restarts": self.restarts,
                "nodes": len({ready.node for ready in self._ready.values()}),
                "checkpoints_unpacked": sum(ready.unpacked for ready in self._ready.values())}
