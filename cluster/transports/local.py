"""All devices in this process: the simplest transport, and the one that tests use as a fake of the others."""

from collections.abc import Mapping, Sequence

from actors.device import DeviceActor
from actors.messages import DeviceSpec, Reply, Work
from actors.player import Player
from actors.programme import Order
from cluster.transports.serving import open_devices


class LocalTransport:
    """Calls the devices directly."""

    name = "local"

    def __init__(self) -> None:
        self._devices: dict[int, DeviceActor] = {}
        self._player = Player(self._devices)

    def open(self, specs: Sequence[DeviceSpec]) -> None:
        self._player.close()
        self._devices = open_devices(specs)
        self._player = Player(self._devices)

    def wait(self) -> None:
        """They are there."""

    def exchange(self, work: Mapping[int, Work]) -> dict[int, Reply]:
        return {number: self._devices[number].work(item) for number, item in work.items()}

    def players(self) -> dict[int, int]:
        return dict.fromkeys(self._devices, 0)

    def perform(self, orders: Mapping[int, Order]) -> dict[int, object]:
        return {number: self._player.obey(order) for number, order in orders.items()}

    def close(self) -> None:
        self._player.close()
        self._devices = {}

    def describe(self) -> dict[str, object]:
        return {"transport": self.name, "workers": 1}
