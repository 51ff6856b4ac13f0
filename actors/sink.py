"""Where what a scheduler submits goes, if the scheduler does not keep it."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from emulation.engine.play import Program
from emulation.lowering.emit import Labels
from emulation.ops import Ops

Ints = NDArray[np.int64]


class Sink(Protocol):
    """Takes what a scheduler submits, so that the scheduler need not keep it."""

    def batch(self, ops: Ops, labels: Labels, at_ps: int, after: int) -> None:
        """Operations that were submitted at an instant, behind a decision (NO: none)."""

    def batches(self, program: Program, labels: Labels, at_ps: Ints, after: Ints) -> None:
        """Several batches at once: when each was submitted, and behind which decision, [batches]."""

    def step(self, begin_ps: int, end_op: int) -> None:
        """A step is over: what has ended may be asked of the engine."""

    def flush(self) -> None:
        """Nothing more comes for now."""
