"""Devices as Ray actors."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from actors.messages import DeviceSpec, Reply, Work
from actors.player import Player
from actors.programme import Order
from cluster.transports.ray.cluster import cause, lost, options
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
    """What a device actor runs: one emulated device or several. parcel: the checkpoint, where it is sent."""

    def __init__(self, specs: Sequence[DeviceSpec], parcel: Parcel | None = None) -> None:
        self._unpacked = False
        self._open(specs, parcel)

    def _open(self, specs: Sequence[DeviceSpec], parcel: Parcel | None) -> None:
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

    def ready(self) -> Ready:
        """The process that serves these devices, and where it is."""
        import ray

        return Ready(os.getpid(), ray.get_runtime_context().get_node_id(), self._unpacked)

    def reopen(self, specs: Sequence[DeviceSpec], parcel: Parcel | None = None) -> Ready:
        """The same devices from new, with other shards."""
        self._player.close()
        self._open(specs, parcel)
        return self.ready()

    def obey(self, order: Order) -> object:
        return self._player.obey(order)

    def work(self, batch: dict[int, Work]) -> dict[int, Reply]:
        return {number: self._devices[number].work(item) for number, item in batch.items()}


class RayTransport:
    """Devices as Ray actors, `devices_per_actor` in each; lives in the scheduler actor."""

    name = "ray"

    def __init__(self, devices_per_actor: int = 1, place: Standing | None = None, *, ships: bool = False) -> None:
        """place: how its actors stand in the cluster, by default without a reservation. ships: the checkpoint is sent.
        """
        self._per_actor, self._ships = devices_per_actor, ships
        self._place = place or Standing(more=options())
        self._opened = 0
        self._parcels: dict[str, Parcel] = {}
        self._ready: list[Ready] = []
        self._actors: list[Any] = []
        self._actor_of: dict[int, int] = {}
        self._starting: list[Any] = []

    def open(self, specs: Sequence[DeviceSpec]) -> None:
        import ray

        groups = [list(specs[at:at + self._per_actor]) for at in range(0, len(specs), self._per_actor)]
        parcel = self._parcel(specs)
        if len(groups) == len(self._actors):
            self._starting = [a.reopen.remote(group, parcel) for a, group in zip(self._actors, groups, strict=True)]
        else:
            self.close()
            self._opened += 1
            remote = ray.remote(DeviceGroup)
            self._actors = [remote.options(**self._place.options(self._name(group), i)).remote(group, parcel)
                            for i, group in enumerate(groups, 1)]
            self._starting = [actor.ready.remote() for actor in self._actors]
        self._actor_of = {spec.number: i for i, group in enumerate(groups) for spec in group}

    def _name(self, group: Sequence[DeviceSpec]) -> str:
        """What an actor is called; names of actors that were just ended may not be free yet."""
        return devices_name(group) + (f"#{self._opened}" if self._opened > 1 else "")

    def _parcel(self, specs: Sequence[DeviceSpec]) -> Parcel | None:
        folder = next((spec.folder for spec in specs if spec.folder is not None), None)
        if folder is None or not self._ships:
            return None
        if folder not in self._parcels:
            self._parcels[folder] = pack(Path(folder))
        return self._parcels[folder]

    def wait(self) -> None:
        self._ready = self._get(self._starting, START_TIMEOUT_S)

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
            raise lost("a device actor", error) from None
        return answers

    def close(self) -> None:
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def describe(self) -> dict[str, object]:
        return {"transport": self.name, "workers": len(self._actors),
                "nodes": len({ready.node for ready in self._ready}),
                "checkpoints_unpacked": sum(ready.unpacked for ready in self._ready)}
