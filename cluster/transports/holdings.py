"""Which shards a device holds, as its scheduler knows: what one that is started in its place is told."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from actors.messages import DeviceSpec, Move, Work


class Holdings:
    """Of all devices of a run: what they started with, and the moves of every message that was answered."""

    def __init__(self, specs: Sequence[DeviceSpec]) -> None:
        self._specs = {spec.number: spec for spec in specs}
        self._held = {spec.number: {(int(m), int(e), int(p)) for m, e, p in spec.held.tolist()} for spec in specs}

    def note(self, work: Mapping[int, Work]) -> None:
        """These messages were answered: their moves have happened."""
        for number, message in work.items():
            held = self._held[number]
            for item in message.items:
                if isinstance(item, Move):
                    (held.add if item.comes else held.discard)((item.moe, item.expert, item.part))

    def spec(self, number: int) -> DeviceSpec:
        """A device as it is now: what it holds after the last message that was answered."""
        held = np.array(sorted(self._held[number]), np.int64).reshape(-1, 3)
        return replace(self._specs[number], held=held)
