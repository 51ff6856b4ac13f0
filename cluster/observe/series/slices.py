"""What happened when: a run's figures in equal slices of emulated time, at most SLICES of them from 0 on.

A slice is a power of two of picoseconds wide, the least for which SLICES of them reach the horizon: so nobody needs to
know the horizon beforehand, and two slices make one of the next width. What happens at an instant belongs to the slice
that ends there or behind it: slice i is from i * width, not included, to (i + 1) * width; instant 0 is in the first.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cluster.observe.flight import Flight, lane_owners
from cluster.observe.submitted import Sliced
from emulation.lowering.emit import CAUSES
from emulation.machine import Machine

Ints = NDArray[np.int64]
SLICES = 128
ROWS = 64
"""So many lanes, links or devices have a row of their own; those behind them share one for each kind."""


class Rows(NamedTuple):
    """Who has which row: `lane` [lanes] and `link` [links] are numbers of rows, the names are those of the rows."""

    lane: Ints
    lanes: tuple[str, ...]
    link: Ints
    links: tuple[str, ...]


def plain_rows(lanes: int) -> Rows:
    """A row for each of so many lanes, whatever their names, and no link."""
    return Rows(np.arange(lanes), ("",) * lanes, np.empty(0, np.int64), ())


def rows_of(machine: Machine) -> Rows:
    """The rows of a machine."""
    kinds = {device.name: device.kind for device in machine.devices}
    lanes = grouped([lane.name for lane in machine.lanes], [f"other {kinds.get(owner, 'link')} lanes"
                                                            for owner in lane_owners(machine)])
    links = grouped([link.name for link in machine.links], ["other links"] * len(machine.links))
    return Rows(*lanes, *links)


def grouped(names: Sequence[str], others: Sequence[str]) -> tuple[Ints, tuple[str, ...]]:
    """The row of each name, and the names of rows: of more than ROWS names, those behind go by what `others` says."""
    own = [name if i < ROWS else others[i] for i, name in enumerate(names)]
    rows = {name: i for i, name in enumerate(dict.fromkeys(own))}
    return np.array([rows[name] for name in own], np.int64), tuple(rows)


def width_of(horizon_ps: int) -> int:
    """How wide a slice is, as a power of two of picoseconds."""
    return max(-(-horizon_ps // SLICES) - 1, 0).bit_length()


def slice_at(at_ps: Ints, width: int) -> Ints:
    """The slice that an instant is in."""
    found: Ints = np.maximum(at_ps - 1, 0) >> width
    return found


def halved(of: Ints) -> Ints:
    """The same in slices of twice the width: sums of pairs, along the last axis."""
    out = np.zeros_like(of)
    half = of.shape[-1] // 2
    out[..., :half] = of[..., 0::2] + of[..., 1::2]
    return out


def add_stretches(out: Ints, row: Ints, from_ps: Ints, to_ps: Ints, width: int) -> None:
    """Add to out [rows, SLICES] the time of each stretch, divided over the slices that it overlaps."""
    some = to_ps > from_ps
    row, from_ps, to_ps = row[some], from_ps[some], to_ps[some]
    first, last = from_ps >> width, (to_ps - 1) >> width
    count = last - first + 1
    each = np.repeat(np.arange(len(row)), count)
    at = first[each] + np.arange(len(each)) - np.repeat(np.cumsum(count) - count, count)
    begin_ps = at << width
    np.add.at(out, (row[each], at), np.minimum(to_ps[each], begin_ps + (1 << width)) - np.maximum(from_ps[each],
                                                                                                 begin_ps))


def sliced(flight: Flight, rows: Rows, crossed: Ints) -> Sliced:
    """A whole flight in slices; crossed [n, CROSSING]: what crossed links."""
    width = width_of(flight.horizon_ps)
    busy_ps = np.zeros((len(rows.lanes), SLICES), np.int64)
    moved = np.zeros((len(rows.links), len(CAUSES), SLICES), np.int64)
    taken = np.zeros((len(flight.pools), SLICES), np.int64)
    add_stretches(busy_ps, rows.lane[flight.rows.lane], flight.rows.from_ps, flight.rows.to_ps, width)
    op, link, cause, bytes_ = crossed.T
    np.add.at(moved, (rows.link[link], cause, slice_at(flight.end_ps[op], width)), bytes_)
    np.add.at(taken, (flight.take_pool, slice_at(flight.start_ps[flight.take_op], width)), flight.take_amount)
    np.subtract.at(taken, (flight.take_pool[flight.release_take], slice_at(flight.release_ps, width)),
                   flight.take_amount[flight.release_take])
    return Sliced(width, busy_ps, moved, taken)
