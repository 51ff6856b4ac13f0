"""What the specification keeps of operations, takes and lanes; the story of a deadlock is told from it."""

from collections import deque
from dataclasses import dataclass, field

from emulation.engine.contract import UNSET
from emulation.ops import Edge, Lane


@dataclass(slots=True)
class Op:
    """An operation in the engine; `rest_ps` of its length is left, and events of an earlier `turn` are void."""

    serial: int
    priority: int
    quantum_ps: int
    rest_ps: int
    holds: list[tuple[int, int]]
    waits: list[Edge]
    takes: list[tuple[int, int, int, int]]
    pending: int = 0
    ready_ps: int = 0
    start_ps: int = UNSET
    end_ps: int = UNSET
    resumed_ps: int = UNSET
    alarm_ps: int = UNSET
    turn: int = 0

    @property
    def order(self) -> tuple[int, int, int]:
        return (self.priority, self.ready_ps, self.serial)


@dataclass(slots=True)
class Release:
    """A take to give back when `pending` edges have happened."""

    handle: int
    edges: list[Edge]
    pending: int = 0


@dataclass(slots=True)
class Take:
    """An amount held of a pool; `release` is how it will be given back, once a plan said so."""

    op: int
    pool: int
    amount: int
    taken: bool = False
    given: bool = False
    release: Release | None = None


@dataclass(slots=True)
class LaneState:
    """Who holds a lane now, since when; and, in an in-order lane, whose turn comes, by serial."""

    lane: Lane
    holders: dict[int, int] = field(default_factory=dict)
    queue: deque[int] = field(default_factory=deque)

    @property
    def full(self) -> bool:
        return len(self.holders) == self.lane.servers
