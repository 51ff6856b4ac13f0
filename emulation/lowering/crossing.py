"""An emitter that notes which bytes cross which links by which operation: an operation's label says bytes, no links."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from emulation.lowering.emit import CAUSES, Emitter
from emulation.machine import Machine
from emulation.model import Model

Ints = NDArray[np.int64]
CROSSING = ("operation", "link", "cause", "bytes")
"""What a row says of bytes that cross a link: serials and numbers."""


class CrossingEmitter(Emitter):
    """Notes what is counted, until `take_crossed` asks for it."""

    def __init__(self, machine: Machine, model: Model | None = None) -> None:
        super().__init__(machine, model)
        self._crossed: list[Ints] = []
        self._crossing: list[tuple[int, int, int, int]] = []
        self._coming: list[tuple[int, int, int]] = []

    def _count(self, carried: dict[int, int], cause: str) -> None:
        super()._count(carried, cause)
        code = CAUSES.index(cause)
        self._coming = [(link, code, bytes_) for link, bytes_ in carried.items()]

    def add(self, kind: str, *args: Any, **kwargs: Any) -> int:
        """One operation; a copy is what carries the bytes that were counted last."""
        op = super().add(kind, *args, **kwargs)
        if kind == "copy" and self._coming:
            self._crossing += [(op, *row) for row in self._coming]
            self._coming = []
        return op

    def cross(self, rows: Ints) -> None:
        """Count bytes of many copies at once, rows [n, 4] of CROSSING."""
        np.add.at(self.moved_bytes, (rows[:, 1], rows[:, 2]), rows[:, 3])
        self._crossed.append(rows)

    def take_crossed(self) -> Ints:
        """What was counted since the last call, [n, 4] of CROSSING."""
        rows: Ints = np.concatenate([*self._crossed, np.array(self._crossing, np.int64).reshape(-1, len(CROSSING))])
        self._crossed, self._crossing = [], []
        return rows
