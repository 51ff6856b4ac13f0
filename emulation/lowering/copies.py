"""Copies of shards in time: when each is ready, who used it last, and the memory that it holds."""

from collections import deque
from collections.abc import ItemsView, Sequence
from dataclasses import dataclass, field

from emulation.ledger import Ledger
from emulation.lowering.emit import Emitter
from emulation.ops import Edge, Pool

Key = tuple[int, int, int, int]
"""device, MoE layer, expert, part"""


@dataclass
class Copy:
    """The marks of one copy (`ready`, `last_use`) and its hold on the device's memory."""

    handle: int
    ready: list[Edge] = field(default_factory=list)
    uses: list[Edge] = field(default_factory=list)
    uses_from: int = -1


@dataclass
class Leaving:
    """Evicted copies whose room no load has waited for: bytes and the edges after which they are free, oldest first."""

    queue: deque[tuple[int, list[Edge]]] = field(default_factory=deque)
    bytes_: int = 0


def memory_pools(ledger: Ledger, first: int) -> tuple[tuple[Pool, ...], dict[int, int]]:
    """One pool of bytes a device, for copies: what its budget leaves beside the experts that rest there."""
    pools: list[Pool] = []
    numbers: dict[int, int] = {}
    for i, device in enumerate(ledger.machine.devices):
        resting = int(((ledger.start.rest == i) * ledger.part_bytes).sum())
        numbers[i] = first + len(pools)
        pools.append(Pool(f"{device.name}.memory", max(int(ledger.budget_bytes[i]) - resting, 0)))
    return tuple(pools), numbers


class Copies:
    """All copies on all devices."""

    def __init__(self, emit: Emitter, ledger: Ledger, pool_of: dict[int, int]) -> None:
        self._emit, self._ledger, self._pool_of = emit, ledger, pool_of
        self._copies: dict[Key, Copy] = {}
        self._leaving: dict[int, Leaving] = {}
        self._placed: list[Edge] = []

    def settled(self) -> list[Edge]:
        """When nothing is on its way any more and all copies of the start are in their places."""
        leaving = [edge for left in self._leaving.values() for _, after in left.queue for edge in after]
        coming = [edge for copy in self._copies.values() for edge in (*copy.ready, *copy.uses)]
        return list(dict.fromkeys([*self._placed, *leaving, *coming]))

    def release_all(self, after: Sequence[Edge]) -> None:
        """Give the memory of every copy back after these edges."""
        for copy in self._copies.values():
            self._emit.ops.release(copy.handle, after=after)
        self._copies = {}

    def place_first(self, after: Sequence[Edge] = ()) -> None:
        """Copies of the start are there at time zero, or after these edges, and hold their memory."""
        for device in sorted(self._ledger.start.copies):
            for moe, whole in enumerate(self._ledger.start.copies[device]):
                parts = range(self._ledger.start.parts)
                keys = [(device, moe, expert, part) for expert in whole.nonzero()[0].tolist() for part in parts]
                if not keys:
                    continue
                op = self._emit.add("place", device=device, takes=[self._take(device, part) for *_, part in keys],
                                    after=after)
                self._placed.append(Edge(op))
                for i, key in enumerate(keys):
                    self._copies[key] = Copy(self._emit.ops.take_handle(op, i))

    def items(self) -> ItemsView[Key, Copy]:
        """All copies by key."""
        return self._copies.items()

    def _take(self, device: int, part: int) -> tuple[int, int, int]:
        bytes_ = int(self._ledger.part_bytes[part])
        return (self._pool_of[device], bytes_, bytes_)

    def load(self, key: Key, cause: str, priority: int, over: int | None, known: Sequence[Edge] = ()) -> Edge:
        """Copy one part from where it rests, into free memory or into the place of the same part of expert `over`,
        after the edges `known`."""
        device, moe, expert, part = key
        source = int(self._ledger.start.rest[moe, expert, part])
        bytes_ = int(self._ledger.part_bytes[part])
        columns = self._ledger.model.columns(part, self._ledger.start.parts)
        if over is None:
            op = self._emit.copy([(source, device)], bytes_, cause, [*self._room(device), *known], priority=priority,
                                 expert=expert, takes=[self._take(device, part)], columns=columns)
            copy = Copy(self._emit.ops.take_handle(op))
        else:
            copy = self._copies.pop((device, moe, over, part))
            op = self._emit.copy([(source, device)], bytes_, cause, [*copy.ready, *copy.uses, *known],
                                 priority=priority, expert=expert, columns=columns)
            copy = Copy(copy.handle)
        copy.ready = [Edge(op)]
        self._copies[key] = copy
        return Edge(op)

    def evict(self, key: Key) -> None:
        """Give a copy's memory back after its last use."""
        device, _, _, part = key
        copy = self._copies.pop(key)
        after = [*copy.ready, *copy.uses]
        self._emit.ops.release(copy.handle, after=after)
        leaving = self._leaving.setdefault(device, Leaving())
        leaving.queue.append((int(self._ledger.part_bytes[part]), after))
        leaving.bytes_ += int(self._ledger.part_bytes[part])

    def _room(self, device: int) -> list[Edge]:
        """When evicted copies have left the room that the load just noted in the ledger needs.

        The ledger counts in the order of decisions, the pool in time: without these edges an urgent load could take
        the room of a prefetch that was given up before it started, which would then wait for good.
        """
        leaving = self._leaving.setdefault(device, Leaving())
        lack = leaving.bytes_ - self._ledger.free_bytes(device)
        edges: list[Edge] = []
        while lack > 0:
            bytes_, after = leaving.queue.popleft()
            edges += after
            if bytes_ > lack:
                leaving.queue.appendleft((bytes_ - lack, after))
            leaving.bytes_ -= min(bytes_, lack)
            lack -= bytes_
        return edges

    def ready(self, device: int, moe: int, expert: int, parts: range) -> list[Edge]:
        """What a run waits for; nothing for a shard that rests there."""
        edges: list[Edge] = []
        for part in parts:
            copy = self._copies.get((device, moe, expert, part))
            edges += copy.ready if copy else []
        return edges

    def used(self, device: int, moe: int, expert: int, parts: range, edges: Sequence[Edge]) -> None:
        """Extend `last_use`. Uses of an earlier step ended before this step's began."""
        for part in parts:
            copy = self._copies.get((device, moe, expert, part))
            if copy is not None:
                if copy.uses_from != self._emit.step:
                    copy.uses, copy.uses_from = [], self._emit.step
                copy.uses += edges
