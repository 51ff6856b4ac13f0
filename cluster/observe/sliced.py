"""The slices of a run while it runs: chunk after chunk, twice as wide whenever the run outgrows them."""

import numpy as np
from numpy.typing import NDArray

from cluster.observe.slices import SLICES, Rows, add_stretches, halved, slice_at, width_of
from cluster.observe.submitted import Sliced
from emulation.lowering.emit import CAUSES, KINDS, Labels
from emulation.lowering.streams import Crossings
from emulation.ops import Ops

Ints = NDArray[np.int64]
_COPY = KINDS.index("copy")


class Slicer:
    """Adds up one run."""

    def __init__(self, rows: Rows, pools: int) -> None:
        self._rows, self.width = rows, 0
        self.busy_ps = np.zeros((len(rows.lanes), SLICES), np.int64)
        self.moved = np.zeros((len(rows.links), len(CAUSES), SLICES), np.int64)
        self.taken = np.zeros((pools, SLICES), np.int64)

    def reach(self, end_ps: int) -> None:
        """Slices that reach an instant."""
        width = width_of(end_ps)
        while self.width < width:
            self.busy_ps, self.moved, self.taken = map(halved, (self.busy_ps, self.moved, self.taken))
            self.width += 1

    def busy(self, lane: Ints, from_ps: Ints, to_ps: Ints) -> None:
        """Stretches in which lanes were held."""
        add_stretches(self.busy_ps, self._rows.lane[lane], from_ps, to_ps, self.width)

    def cross(self, link: Ints, cause: Ints, end_ps: Ints, bytes_: Ints) -> None:
        """Bytes that crossed links when their transfer ended."""
        np.add.at(self.moved, (self._rows.link[link], cause, slice_at(end_ps, self.width)), bytes_)

    def take(self, pool: Ints, at_ps: Ints, amount: Ints) -> None:
        """What was taken from pools, or (negative) given back."""
        np.add.at(self.taken, (pool, slice_at(at_ps, self.width)), amount)

    def told(self) -> Sliced:
        return Sliced(self.width, self.busy_ps, self.moved, self.taken)


def crossed(of: Crossings, ops: Ops, labels: Labels) -> Ints:
    """What crossed links, [n, CROSSING], as the lanes that operations hold tell it."""
    hold_op = np.repeat(np.arange(len(ops)), np.diff(ops.hold_ptr))
    copies = np.asarray(labels.kind)[hold_op] == _COPY
    row, lane = hold_op[copies], ops.hold_lane[copies]
    cause = np.asarray(labels.cause, np.int64)[row]
    link = of.links(lane, np.asarray(labels.device, np.int64)[row], cause)
    some = link >= 0
    return np.stack([ops.first + row, link, cause, np.asarray(labels.bytes)[row]], axis=1)[some]
