"""The slices of a run while it runs: chunk after chunk, twice as wide whenever the run outgrows them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cluster.observe.series.compiled_slices import add_copies, add_lanes
from cluster.observe.series.slices import SLICES, Rows, halved, slice_at, width_of
from cluster.observe.submitted import Sliced
from emulation.lowering.emit import CAUSES
from emulation.lowering.streams import Crossings

Ints = NDArray[np.int64]


class Slicer:
    """Adds up one run."""

    def __init__(self, rows: Rows, pools: int) -> None:
        self._rows, self.width, self._is_fresh = rows, 0, True
        self.busy_ps = np.zeros((len(rows.lanes), SLICES), np.int64)
        self.moved = np.zeros((len(rows.links), len(CAUSES), SLICES), np.int64)
        self.taken = np.zeros((pools, SLICES), np.int64)

    def reach(self, end_ps: int) -> None:
        """Slices that reach an instant."""
        width = width_of(end_ps)
        if self._is_fresh:
            self.width, self._is_fresh = width, False
        while self.width < width:
            self.busy_ps, self.moved, self.taken = map(halved, (self.busy_ps, self.moved, self.taken))
            self.width += 1

    def busy(self, lane_ptr: Ints, from_ps: Ints, to_ps: Ints) -> None:
        """Stretches in which lanes were held, lane by lane; lane_ptr [lanes + 1]: where each lane's begin."""
        add_lanes(lane_ptr, from_ps, to_ps, self._rows.lane, self.width, self.busy_ps)

    def cross(self, rows: Ints, end_ps: Ints) -> None:
        """Bytes that crossed links, rows [n, CROSSING], when their operation ended."""
        op, link, cause, bytes_ = rows.T
        np.add.at(self.moved, (self._rows.link[link], cause, slice_at(end_ps[op], self.width)), bytes_)

    def copies(self, of: Crossings, labels: Sequence[Ints], bytes_: Ints, end_ps: Ints, hold_ptr: Ints,
               hold_lane: Ints) -> None:
        """Bytes of operations that hold the lanes of links. labels: kind, cause and device, of 32 bits each."""
        if len(self._rows.link):
            add_copies(*labels, bytes_, end_ps, hold_ptr, hold_lane, of.toward, of.outward, self._rows.link, self.width,
                       self.moved.reshape(-1, SLICES))

    def take(self, pool: Ints, at_ps: Ints, amount: Ints) -> None:
        """What was taken from pools, or (negative) given back."""
        np.add.at(self.taken, (pool, slice_at(at_ps, self.width)), amount)

    def told(self) -> Sliced:
        return Sliced(self.width, self.busy_ps, self.moved, self.taken)
