"""All devices in this process: the simplest transport, and the one that tests use as a fake of the others."""

from collections.abc import Mapping, Sequence

from actors.device import DeviceActor
from actors.messages import DeviceSpec, Reply, Work
from cluster.transports.serving import open_devices


class LocalTransport:
    """Calls the devices directly."""

    name = "local"

    def __init__(self) -> None:
        self._devices: dict[int, DeviceActor] = {}

    def open(self, specs: Sequence[DeviceSpec]) -> None:
        self._devices = open_devices(specs)

    def wait(self) -> None:
        """They are there."""

    def exchange(self, work: Mapping[int, Work]) -> dict[int, Reply]:
        return {number: self._devices[number].work(item) for number, item in work.items()}

    def close(self) -> None:
        self._devices = {}

    def describe(self) -> dict[str, object]:
        return {"transport": self.name, "workers": 1}
