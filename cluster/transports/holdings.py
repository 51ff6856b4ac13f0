"""Which shards a device holds, as its scheduler knows: what one that is started in its place is told."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from actors.messages import DeviceSpec, Ints, Move, Placed, Work


class Holdings:
    """Of all devices of a run: what they started with, and the moves and placements of every message that
    was answered."""

    def __init__(self, specs: Sequence[DeviceSpec]) -> None:
        self._specs = {spec.number: spec for spec in specs}
        self._held = {spec.number: _shards(spec.held) for spec in specs}

    def note(self, work: Mapping[int, Work]) -> None:
        """These messages were answered: their moves have happened."""
        for number, message in work.items():
            for item in message.items:
                held = self._held[number]
                if isinstance(item, Placed):
                    self._held[number] = _shards(item.held)
                    self._specs[number] = replace(self._specs[number], parts=item.parts)
                elif isinstance(item, Move):
                    (held.add if item.comes else held.discard)((item.moe, item.expert, item.part))

    def spec(self, number: int) -> DeviceSpec:
        """A device as it is now: what it holds after the last message that was answered."""
        held = np.array(sorted(self._held[number]), np.int64).reshape(-1, 3)
        return replace(self._specs[number], held=held)


def _shards(held: Ints) -> set[tuple[int, int, int]]:
    """Rows [n, 3] as shards: MoE layer, expert, part."""
    return {(moe, expert, part) for moe, expert, part in held.tolist()}
