"""What a wall clock's conductor and its players say to each other: pieces of operations, moments of them, and records.

A piece is an operation, or the part of one between two of its stops. A moment is an instant of a piece that others
wait for: its start, its end, or where it leaves a lane. A player plays the pieces of the devices of one process.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
NO = -1

MAIN = "conductor"
"""The conductor's name at the post; players go by their numbers."""


class Load(NamedTuple):
    """The shard that a piece brings: its bytes on the emulated machine, and what a device with weights reads for it."""

    device: int
    moe: int
    expert: int
    part: int
    bytes: int


class Piece(NamedTuple):
    """number: of all players' pieces. waits: moments. step: the step that it ends, or NO."""

    number: int
    start_ps: int
    length_ps: int
    waits: tuple[int, ...]
    load: Load | None = None
    step: int = NO


class Moment(NamedTuple):
    """offset_ps behind the start of a piece. tell: players that wait for it; it may be named again with more."""

    number: int
    piece: int
    offset_ps: int
    tell: tuple[int, ...] = ()


@dataclass(frozen=True)
class Programme:
    """More to play, in order of emulated starts."""

    pieces: list[Piece] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)


@dataclass(frozen=True)
class Meet:
    """Where the players of a run meet: a folder of this host. scratch: the file that stands for missing weights."""

    folder: str
    number: int
    scratch: str


class Met(NamedTuple):
    """Which host and process a player is in."""

    host: str
    pid: int


class Begin(NamedTuple):
    """Forget what was played. Emulated time zero is origin_ns on this host's monotonic clock."""

    origin_ns: int
    dilation: float


class Pulse(NamedTuple):
    """Asks whether a player is well; answered by how many pieces have ended."""


class Collect(NamedTuple):
    """Asks for a record."""


class Leave(NamedTuple):
    """The player's part is over."""


Order = Meet | Begin | Programme | Pulse | Collect | Leave


class Record(NamedTuple):
    """What a player did since it began. start_ns, end_ns: of its pieces, on the host's monotonic clock.

    read_bytes: really read for loads, and what reading took. standstill_ns: the longest time by which it came too late
    to look at the clock. cpu_s: processor time of its whole process.
    """

    piece: Ints
    start_ns: Ints
    end_ns: Ints
    read_bytes: int
    read_ns: int
    standstill_ns: int
    cpu_s: float
    pid: int
