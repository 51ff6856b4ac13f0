"""What the scheduler and a device say to each other: plain arrays, one message a device and layer."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class DeviceSpec:
    """What a device is told once. held: (moe, expert, part) rows [n, 3] of the shards that it starts with.

    folder: the checkpoint whose slices it reads, or None where nothing is computed for real (replay, synthetic).
    """

    number: int
    name: str
    parts: int
    held: Ints
    folder: str | None = None


class Run(NamedTuple):
    """One expert (or part of it) over rows of the message's x, scaled by the rows' weights."""

    moe: int
    expert: int
    part: int
    rows: Ints
    weights: Floats


class Move(NamedTuple):
    """A part of an expert comes to the device, or goes."""

    moe: int
    expert: int
    part: int
    comes: bool


class Placed(NamedTuple):
    """Experts were placed anew: an expert has so many parts now, and these (moe, expert, part) rows [n, 3] are all that
    the device holds. A device that died holds none."""

    parts: int
    held: Ints


@dataclass(frozen=True)
class Work:
    """A device's work for one layer, or for one step where nothing is computed: runs and moves in the plan's order.

    x: hidden states of the tokens it needs, [rows, d_model], or None.
    """

    x: Floats | None = None
    items: list[Run | Move | Placed] = field(default_factory=list)


class Reply(NamedTuple):
    """The runs' results, one below the other: [sum of rows over runs, d_model], or None. runs: how many were done."""

    out: Floats | None
    runs: int
