"""Operations as columns: what the engine times. Built by a lowering, never by a policy.

Serials are global: the first operation ever submitted to an engine has serial 0, and an `OpBuilder` hands out
the serials that its operations will have, so that waits and releases may name operations of earlier plans.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

START = 0
END = 1

DEMAND = 0
"""Priority of work that the current layer waits for. A lower number goes first."""
PREFETCH = 10
"""Priority of loads that nothing waits for yet."""
HIGHEST = 2**22 - 1
"""The largest priority, either way: the compiled engine keeps a candidate's priority and instant in one number."""

Ints = NDArray[np.int64]


class Edge(NamedTuple):
    """An instant of an operation that others may wait for: its START or its END."""

    op: int
    edge: int = END


@dataclass(frozen=True)
class Lane:
    """What an operation occupies: an engine, a stream, a thread, a link direction, a memory port.

    In an in-order lane operations run in the order of their serials: a stream, a queue of loads. Nobody overtakes in
    it; loads that more urgent ones may overtake share a lane that is not in-order.
    """

    name: str
    servers: int = 1
    in_order: bool = False

    def __post_init__(self) -> None:
        if self.servers < 1:
            raise ValueError(f"lane {self.name!r} has {self.servers} servers: it needs at least one")


@dataclass(frozen=True)
class Pool:
    """Counted slots or bytes."""

    name: str
    capacity: int

    def __post_init__(self) -> None:
        if self.capacity < 0:
            raise ValueError(f"pool {self.name!r} has a capacity of {self.capacity}: it is zero or more")


@dataclass(frozen=True)
class Ops:
    """A batch of operations in columns; `*_ptr` arrays delimit the rows of ragged columns (CSR).

    first, first_take: serial of the first operation, handle of the first take.
    priority, quantum_ps, length_ps: [n]; quantum 0 = never interrupted; length = end - start, >= longest hold.
    hold_lane, hold_ps: lanes held, each for its own time from the start.
    wait_op, wait_edge: edges that must have happened before the operation starts.
    take_pool, take_needs, take_amount: "needs n free, takes m" of a pool at the start; take i: handle first_take + i.
    release_take [r]: handles given back after the last of the edges release_op, release_edge.
    """

    first: int
    first_take: int
    priority: Ints
    quantum_ps: Ints
    length_ps: Ints
    hold_ptr: Ints
    hold_lane: Ints
    hold_ps: Ints
    wait_ptr: Ints
    wait_op: Ints
    wait_edge: Ints
    take_ptr: Ints
    take_pool: Ints
    take_needs: Ints
    take_amount: Ints
    release_take: Ints
    release_ptr: Ints
    release_op: Ints
    release_edge: Ints

    def __len__(self) -> int:
        return len(self.priority)

    @property
    def takes(self) -> int:
        return len(self.take_pool)

    def holds_of(self, i: int) -> list[tuple[int, int]]:
        """(lane, picoseconds) of the i-th operation."""
        rows = slice(self.hold_ptr[i], self.hold_ptr[i + 1])
        return list(zip(self.hold_lane[rows].tolist(), self.hold_ps[rows].tolist(), strict=True))

    def waits_of(self, i: int) -> list[Edge]:
        rows = slice(self.wait_ptr[i], self.wait_ptr[i + 1])
        return [Edge(op, edge) for op, edge in
                zip(self.wait_op[rows].tolist(), self.wait_edge[rows].tolist(), strict=True)]

    def takes_of(self, i: int) -> list[tuple[int, int, int, int]]:
        """(handle, pool, needs, amount) of the i-th operation."""
        lo, hi = int(self.take_ptr[i]), int(self.take_ptr[i + 1])
        return [(self.first_take + k, int(self.take_pool[k]), int(self.take_needs[k]), int(self.take_amount[k]))
                for k in range(lo, hi)]

    def releases(self) -> list[tuple[int, list[Edge]]]:
        """(handle, edges) of every release."""
        out = []
        for row, handle in enumerate(self.release_take.tolist()):
            rows = slice(self.release_ptr[row], self.release_ptr[row + 1])
            edges = zip(self.release_op[rows].tolist(), self.release_edge[rows].tolist(), strict=True)
            out.append((handle, [Edge(op, edge) for op, edge in edges]))
        return out


class _Ragged:
    """Rows of differing length, collected into CSR columns."""

    def __init__(self, columns: int) -> None:
        self.ptr = [0]
        self.columns: list[list[int]] = [[] for _ in range(columns)]

    def row(self, values: Iterable[Sequence[int]]) -> None:
        for value in values:
            for column, item in zip(self.columns, value, strict=True):
                column.append(item)
        self.ptr.append(len(self.columns[0]))

    def arrays(self) -> list[Ints]:
        return [_ints(self.ptr), *(_ints(column) for column in self.columns)]


def _ints(values: Sequence[int]) -> Ints:
    return np.array(values, dtype=np.int64)


class OpBuilder:
    """Collects operations row by row: the readable way to make `Ops`."""

    def __init__(self, first: int = 0, first_take: int = 0) -> None:
        self.first = first
        self.first_take = first_take
        self._blocks: list[Ops] = []
        self._begin(first, first_take)

    def _begin(self, first: int, first_take: int) -> None:
        """Rows from this serial and this handle on."""
        self._row_first, self._take_first = first, first_take
        self._plain: tuple[list[int], list[int], list[int]] = ([], [], [])
        self._holds = _Ragged(2)
        self._waits = _Ragged(2)
        self._takes = _Ragged(3)
        self._releases = _Ragged(2)
        self._release_take: list[int] = []

    @property
    def next_serial(self) -> int:
        return self._row_first + len(self._plain[0])

    @property
    def next_take(self) -> int:
        return self._take_first + self._takes.ptr[-1]

    def append(self, block: "Ops") -> None:
        """Many operations at once, built for `next_serial` and `next_take`."""
        if (block.first, block.first_take) != (self.next_serial, self.next_take):
            raise ValueError(f"a block for serial {block.first} and take {block.first_take} comes at "
                             f"{self.next_serial} and {self.next_take}")
        self._blocks += [self._rows(), block]
        self._begin(block.first + len(block), block.first_take + block.takes)

    def op(self, holds: dict[int, int] | None = None, *, after: Iterable[Edge | int] = (), length_ps: int = 0,
           priority: int = DEMAND, quantum_ps: int = 0,
           takes: Iterable[tuple[int, int, int]] = ()) -> int:
        """Add an operation and return its serial.

        holds: lane -> picoseconds. after: edges, or serials whose end is meant. length_ps: the time from start to end
        where that is longer than every hold (a pure delay, a link's latency). takes: (pool, needs, amount).
        """
        holds = holds or {}
        longest = max(holds.values(), default=0)
        priorities, quanta, lengths = self._plain
        priorities.append(priority)
        quanta.append(quantum_ps)
        lengths.append(max(longest, length_ps))
        self._holds.row(holds.items())
        self._waits.row(edge if isinstance(edge, tuple) else (edge, END) for edge in after)
        self._takes.row(takes)
        return self.next_serial - 1

    def take_handle(self, op: int, index: int = 0) -> int:
        """The handle of an operation's take, for a release."""
        row = op - self._row_first
        if not 0 <= row < self.next_serial - self._row_first:
            raise IndexError(f"operation {op} is none of this builder's ({self._row_first} to {self.next_serial - 1})")
        first, end = self._takes.ptr[row:row + 2]
        if not 0 <= index < end - first:
            raise IndexError(f"operation {op} has {end - first} takes, and none with index {index}")
        return self._take_first + first + index

    def release(self, handle: int, *, after: Iterable[Edge | int]) -> None:
        """Give a take back after the last of these edges."""
        self._release_take.append(handle)
        self._releases.row(edge if isinstance(edge, tuple) else (edge, END) for edge in after)

    def build(self) -> Ops:
        if not self._blocks:
            return self._rows()
        return joined([*self._blocks, self._rows()])

    def _rows(self) -> Ops:
        priority, quantum_ps, length_ps = (_ints(column) for column in self._plain)
        hold_ptr, hold_lane, hold_ps = self._holds.arrays()
        wait_ptr, wait_op, wait_edge = self._waits.arrays()
        take_ptr, take_pool, take_needs, take_amount = self._takes.arrays()
        release_ptr, release_op, release_edge = self._releases.arrays()
        return Ops(self._row_first, self._take_first, priority, quantum_ps, length_ps, hold_ptr, hold_lane, hold_ps,
                   wait_ptr, wait_op, wait_edge, take_ptr, take_pool, take_needs, take_amount,
                   _ints(self._release_take), release_ptr, release_op, release_edge)


_RAGGED = {"hold_ptr": ("hold_lane", "hold_ps"), "wait_ptr": ("wait_op", "wait_edge"),
           "take_ptr": ("take_pool", "take_needs", "take_amount"), "release_ptr": ("release_op", "release_edge")}


def joined(blocks: Sequence[Ops]) -> Ops:
    """Blocks that follow each other in serials and handles, as one."""
    columns = {name: np.concatenate([getattr(each, name) for each in blocks])
               for name in ("priority", "quantum_ps", "length_ps", "release_take")}
    for ptr, of in _RAGGED.items():
        lengths = np.concatenate([np.diff(getattr(each, ptr)) for each in blocks])
        columns[ptr] = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        columns.update({name: np.concatenate([getattr(each, name) for each in blocks]) for name in of})
    return Ops(blocks[0].first, blocks[0].first_take, **columns)
