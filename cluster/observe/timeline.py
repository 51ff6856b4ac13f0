"""The timeline of a run as a Perfetto trace: a track for each server of a lane, flows from loads to first uses, pools.

Perfetto counts nanoseconds: instants are rounded down to them, so slices of a track keep their order and never
overlap, and shorter ones show as zero long. The exact picoseconds stand in each slice's notes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from typing import IO

import numpy as np
from numpy.typing import NDArray

from cluster.observe import wire
from cluster.observe.attribution import COPY
from cluster.observe.flight import Flight
from emulation.lowering.emit import CAUSES, KINDS, NO
from emulation.units import PS_PER_S

Ints = NDArray[np.int64]

TIMELINE_FILE = "timeline.perfetto-trace"
CAP_BYTES = 32 * 2**20
_PS_PER_NS = 1000
_COPY = KINDS.index("copy")
_LOADS = [CAUSES.index("demand"), CAUSES.index("prefetch")]
_LEAST_CAP_BYTES = 64 * 2**10
_NOTICE_BYTES = 512


@dataclass(frozen=True)
class Extent:
    """What of a run goes into its timeline: slices that touch the window (None: to its end), up to a size."""

    first_s: float = 0.0
    last_s: float | None = None
    cap_bytes: int = CAP_BYTES

    def __post_init__(self) -> None:
        if self.last_s is not None and not 0 <= self.first_s <= self.last_s:
            raise ValueError(f"a window from {self.first_s} s to {self.last_s} s: its end is no earlier than its start")
        if self.cap_bytes < _LEAST_CAP_BYTES:
            raise ValueError(f"a timeline of at most {self.cap_bytes} bytes: the least is {_LEAST_CAP_BYTES}")


@dataclass(frozen=True)
class Written:
    """How many slices a timeline holds, of how many in its window, and in words what is missing, if anything is."""

    slices: int
    of: int
    truncated: str | None


def write_timeline(flight: Flight, file: IO[bytes], extent: Extent | None = None) -> Written:
    """Write the trace; where it would pass the cap it ends early, and an instant on a track of its own says so."""
    return _Timeline(flight, extent or Extent()).write(file)


class _Timeline:
    """One trace being written."""

    def __init__(self, flight: Flight, extent: Extent) -> None:
        self.flight, self.extent, self.interned = flight, extent, wire.Interned()
        rows = flight.rows
        self.first_ps = int(extent.first_s * PS_PER_S)
        end_ps = flight.horizon_ps + (not flight.is_whole)
        self.last_ps = end_ps if extent.last_s is None else int(extent.last_s * PS_PER_S)
        shown = np.flatnonzero((rows.to_ps > rows.from_ps) & (rows.to_ps >= self.first_ps)
                               & (rows.from_ps <= self.last_ps))
        self.shown = shown[np.lexsort((rows.lane[shown], rows.from_ps[shown]))]
        self.used_by = _first_uses(flight)
        self._names: dict[tuple[int, int, int], bytes] = {}
        self._places: dict[tuple[int, int], bytes] = {}

    def write(self, file: IO[bytes]) -> Written:
        room = self.extent.cap_bytes - _NOTICE_BYTES
        head = wire.first_packet() + b"".join(self._tracks())
        room -= file.write(head)
        slices = 0
        for at_ps, is_slice, data in self._events():
            packet = self.interned.packet() + data
            if len(packet) > room:
                notice = (f"cut at {at_ps / PS_PER_S:.9f} s: {self.extent.cap_bytes} bytes hold {slices} of "
                          f"{len(self.shown)} slices; choose a window or a larger cap")
                file.write(wire.track(self._cut_track, "cut short", rank=len(self._groups) + 1))
                file.write(wire.event(at_ps // _PS_PER_NS, wire.on_track(wire.INSTANT, self._cut_track),
                                      wire.text(notice)))
                return Written(slices, len(self.shown), notice)
            room -= file.write(packet)
            slices += is_slice
        cut = None if self.flight.is_whole or self.last_ps <= self.flight.horizon_ps else (
            f"it holds the first {len(self.flight.start_ps)} operations, to {self.flight.horizon_ps / PS_PER_S:.9f} s")
        return Written(slices, len(self.shown), cut)

    def _tracks(self) -> Iterator[bytes]:
        """A group for each device and for the links, with a track for each server of their lanes; then the pools."""
        flight = self.flight
        names = dict.fromkeys([*(owner for owner in flight.owners if owner != "links"), "links", "pools"])
        self._groups = {name: 1 + i for i, name in enumerate(names)}
        uuid = len(self._groups)
        for rank, (name, group) in enumerate(self._groups.items()):
            yield wire.track(group, name, rank=rank)
        self._first_track = []
        for lane, owner in zip(flight.lanes, flight.owners, strict=True):
            self._first_track.append(uuid + 1)
            for server in range(lane.servers):
                uuid += 1
                name = lane.name if lane.servers == 1 else f"{lane.name} #{server}"
                yield wire.track(uuid, name, self._groups[owner], rank=uuid)
        self._first_pool = uuid + 1
        for i, pool in enumerate(flight.pools):
            uuid += 1
            unit = wire.UNIT_COUNT if i < flight.slots else wire.UNIT_BYTES
            yield wire.track(uuid, pool.name, self._groups["pools"], rank=uuid, unit=unit)
        self._cut_track, self._mark_track = uuid + 1, uuid + 2
        if flight.marks:
            yield wire.track(self._mark_track, "faults", rank=0)

    def _events(self) -> Iterator[tuple[int, bool, bytes]]:
        """(instant, whether a slice, packets) in order of time; what pools hold before what starts on it."""
        counts = merge(self._pool_counts(), self._marks(), key=lambda each: each[0])
        count = next(counts, None)
        for from_ps, data in self._slices():
            while count is not None and count[0] <= from_ps:
                yield count[0], False, count[1]
                count = next(counts, None)
            yield from_ps, True, data
        while count is not None:
            yield count[0], False, count[1]
            count = next(counts, None)

    def _marks(self) -> Iterator[tuple[int, bytes]]:
        """What happened in the window, as instants on a track of its own."""
        for at_ps, what in self.flight.marks:
            if self.first_ps <= at_ps <= self.last_ps:
                yield at_ps, wire.event(at_ps // _PS_PER_NS, wire.on_track(wire.INSTANT, self._mark_track),
                                        wire.text(what))

    def _slices(self) -> Iterator[tuple[int, bytes]]:
        """(start, begin and end) of each slice."""
        flight, shown = self.flight, self.shown
        op = flight.rows.op[shown]
        track = np.array(self._first_track, np.int64)[flight.rows.lane[shown]] + flight.servers[shown]
        ends = {uuid: wire.on_track(wire.END, uuid) for uuid in np.unique(track).tolist()}
        begins = {uuid: wire.on_track(wire.BEGIN, uuid) for uuid in ends}
        what = np.stack([flight.labels.kind, flight.labels.cause, flight.labels.expert], axis=1)[op].tolist()
        where = np.stack([flight.labels.step, flight.labels.layer, flight.labels.bytes], axis=1)[op].tolist()
        times = zip(flight.rows.from_ps[shown].tolist(), flight.rows.to_ps[shown].tolist(), strict=True)
        seen: set[int] = set()
        for serial, uuid, (kind, cause, expert), (step, layer, bytes_), (from_ps, to_ps) in zip(
                op.tolist(), track.tolist(), what, where, times, strict=True):
            parts = [begins[uuid], self._named(kind, cause, expert), self._placed(step, layer),
                     self._note("op", serial), self._note("from_ps", from_ps), self._note("held_ps", to_ps - from_ps)]
            if bytes_:
                parts.append(self._note("bytes", bytes_))
            if serial not in seen:
                seen.add(serial)
                parts += [wire.flow(serial + 1, ends=False)] if serial in self.used_by.of else []
                parts += [wire.flow(load + 1, ends=True) for load in self.used_by.loads.get(serial, ())]
            yield from_ps, wire.event(from_ps // _PS_PER_NS, *parts) + wire.event(to_ps // _PS_PER_NS, ends[uuid])

    def _note(self, key: str, value: int) -> bytes:
        return wire.note(self.interned.id("annotation", key), value)

    def _named(self, kind: int, cause: int, expert: int) -> bytes:
        """Name and category of a slice, and its expert."""
        known = self._names.get((kind, cause, expert))
        if known is None:
            category = COPY[CAUSES[cause]] if kind == _COPY else KINDS[kind]
            name = category if expert == NO else f"{category} {expert}"
            known = wire.named(self.interned.id("name", name), self.interned.id("category", category))
            known += self._note("expert", expert) if expert != NO else b""
            self._names[kind, cause, expert] = known
        return known

    def _placed(self, step: int, layer: int) -> bytes:
        """Step and layer of a slice."""
        known = self._places.get((step, layer))
        if known is None:
            known = b"".join(self._note(key, at) for key, at in (("step", step), ("layer", layer)) if at != NO)
            self._places[step, layer] = known
        return known

    def _pool_counts(self) -> Iterator[tuple[int, bytes]]:
        """What each pool has lent, whenever that changes within the window, and at its beginning."""
        pool, at_ps, held = pool_levels(self.flight)
        before = at_ps < self.first_ps
        opening = {int(p): int(h) for p, h in zip(pool[before], held[before], strict=True)}
        for number, amount in sorted(opening.items()):
            yield self.first_ps, self._count(number, self.first_ps, amount)
        inside = ~before & (at_ps <= self.last_ps)
        for number, ps, amount in zip(*(c[inside].tolist() for c in (pool, at_ps, held)), strict=True):
            yield ps, self._count(number, ps, amount)

    def _count(self, pool: int, at_ps: int, amount: int) -> bytes:
        return wire.event(at_ps // _PS_PER_NS, wire.on_track(wire.COUNTER, self._first_pool + pool), wire.level(amount))


def pool_levels(flight: Flight) -> tuple[Ints, Ints, Ints]:
    """(pool, instant, amount lent from then on), by instant: one row where a pool's amount ends up after an instant."""
    pool = np.concatenate([flight.take_pool, flight.take_pool[flight.release_take]])
    at_ps = np.concatenate([flight.start_ps[flight.take_op], flight.release_ps])
    change = np.concatenate([flight.take_amount, -flight.take_amount[flight.release_take]])
    order = np.lexsort((at_ps, pool))
    pool, at_ps, change = pool[order], at_ps[order], change[order]
    level = np.cumsum(change)
    first = np.concatenate([[True], pool[1:] != pool[:-1]])[:len(pool)]
    level -= np.repeat((level - change)[first], np.diff(np.append(np.flatnonzero(first), len(pool))))
    last = np.concatenate([(pool[1:] != pool[:-1]) | (at_ps[1:] != at_ps[:-1]), [True]])[:len(pool)]
    pool, at_ps, level = pool[last], at_ps[last], level[last]
    order = np.lexsort((pool, at_ps))
    return pool[order], at_ps[order], level[order]


@dataclass(frozen=True)
class _Uses:
    """of: load -> the first operation that waits for it and is no copy. loads: that operation -> its loads."""

    of: dict[int, int]
    loads: dict[int, list[int]]


def _first_uses(flight: Flight) -> _Uses:
    waiter = np.repeat(np.arange(len(flight.start_ps)), np.diff(flight.wait_ptr))
    kind, cause = flight.labels.kind, flight.labels.cause
    load = (kind[flight.wait_op] == _COPY) & np.isin(cause[flight.wait_op], _LOADS) & (kind[waiter] != _COPY)
    of: dict[int, int] = {}
    loads: dict[int, list[int]] = {}
    for op, user in zip(flight.wait_op[load].tolist(), waiter[load].tolist(), strict=True):
        if op not in of:
            of[op] = user
            loads.setdefault(user, []).append(op)
    return _Uses(of, loads)
