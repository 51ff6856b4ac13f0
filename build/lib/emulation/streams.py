"""Parts of experts that stream through devices: each enters at one, is run there, and is handed on along a path.

Tokens stay where they lie; every device of the path runs the part for those of its own that are routed to the expert
(FSE-DP, arXiv 2603.27624). A part takes one slot of a pool on each device that it visits.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.ops import END, START

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

EDGES = {"start": START, "end": END}


class Handing(NamedTuple):
    """How parts are handed on.

    pool: what the slots of each device are called in the hardware file. needs: free slots without which none enters
    (it takes one; the others keep a place for what comes along the ring). hop_after: the edge of a device's own run
    after which the part goes on, "start" or "end". slot_free_at: the edge of the hop at which the slot that it left is
    free, once the run there is over. Both edges change the time by up to 1.6 times and are named in results.
    """

    pool: str = "expert_slots"
    needs: int = 2
    hop_after: str = "start"
    slot_free_at: str = "start"


BY_TWO_SLOTS = Handing()
"""As FSE-DP's simulator has it."""


class Streams(NamedTuple):
    """expert, part [n]; path_ptr [n + 1], path: the devices of each, its entry first; wake [n]: whether the policy is
    woken when it has come in."""

    expert: Ints
    part: Ints
    path_ptr: Ints
    path: Ints
    wake: Mask

    @property
    def lengths(self) -> Ints:
        """Devices of each path, [n]."""
        return np.diff(self.path_ptr)

    @property
    def of_visit(self) -> Ints:
        """The stream that each device of `path` belongs to."""
        return np.repeat(np.arange(len(self.expert)), self.lengths)

    @property
    def entries(self) -> Ints:
        """Where each enters, [n]."""
        return self.path[self.path_ptr[:-1]]


def streams_of(expert: Ints, part: Ints, paths: Sequence[Sequence[int]] | tuple[Ints, Ints],
               wake: Mask | bool = False) -> Streams:
    """Streams in columns; paths: a list of them, or (path_ptr, path)."""
    if isinstance(paths, tuple):
        ptr, path = (np.asarray(column, np.int64) for column in paths)
    else:
        ptr = np.concatenate([[0], np.cumsum([len(p) for p in paths])]).astype(np.int64)
        path = np.array([device for p in paths for device in p], np.int64)
    n = len(ptr) - 1
    return Streams(np.broadcast_to(np.asarray(expert, np.int64), (n,)),
                   np.broadcast_to(np.asarray(part, np.int64), (n,)), ptr, path,
                   np.broadcast_to(np.asarray(wake, np.bool_), (n,)))


def joined(blocks: Sequence[Streams]) -> Streams:
    """Streams one behind the other."""
    if len(blocks) == 1:
        return blocks[0]
    lengths = np.concatenate([block.lengths for block in blocks])
    return Streams(np.concatenate([block.expert for block in blocks]), np.concatenate([block.part for block in blocks]),
                   np.concatenate([[0], np.cumsum(lengths)]), np.concatenate([block.path for block in blocks]),
                   np.concatenate([block.wake for block in blocks]))


def bound_tokens(expert: Ints, home: Ints, experts: int, devices: int) -> Ints:
    """Tokens of each expert by the device on which they lie, [experts, devices]; expert, home [pairs]."""
    counted: Ints = np.bincount(expert * devices + home, minlength=experts * devices).reshape(experts, devices)
    return counted.astype(np.int64)
