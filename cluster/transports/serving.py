"""What every worker process does first, whatever carries its messages: pin the arithmetic, open its devices."""

from collections.abc import Sequence

from actors.device import DeviceActor
from actors.messages import DeviceSpec


def open_devices(specs: Sequence[DeviceSpec]) -> dict[int, DeviceActor]:
    """The devices of one process, by number."""
    if any(spec.folder is not None for spec in specs):
        from moe.determinism import pin

        pin()
    return {spec.number: DeviceActor(spec) for spec in specs}
