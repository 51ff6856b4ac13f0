"""Operations as they were submitted, batch by batch, with their labels."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.engine.contract import Retired
from emulation.lowering.emit import Labels
from emulation.ops import Ops

Ints = NDArray[np.int64]


@dataclass
class Submitted:
    """Operations of one or several batches. batch_end, release_end: rows and releases up to which each goes;
    at_ps, after: when each was submitted, and behind which decision (-1: none)."""

    ops: Ops
    labels: Labels
    batch_end: Ints
    release_end: Ints
    at_ps: Ints
    after: Ints


@dataclass
class Kept:
    """The first operations of a run, whole: for a timeline."""

    submitted: list[Submitted] = field(default_factory=list)
    retired: list[Retired] = field(default_factory=list)
    ops: int = 0


class Sliced(NamedTuple):
    """Figures in slices of 2^width picoseconds, summed over each: busy_ps [rows of lanes, slices]; moved [rows of
    links, causes, slices]: bytes of transfers that ended; taken [pools, slices]: what was taken less what was released.
    """

    width: int
    busy_ps: Ints
    moved: Ints
    taken: Ints
