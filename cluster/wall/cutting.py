"""Cuts what the engine timed into pieces for players: who plays an operation, and what it waits for.

An operation waits for its edges; for whoever left each of its lanes before it; for the release of a pool at whose
instant it started; and, where none of its batch comes before it, for the decision behind which it was submitted. One
that stopped at a quantum is several pieces, of which each waits for whoever took its lanes in between.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from actors.programme import NO, Ints, Load, Moment, Piece, Programme
from emulation.engine.contract import Occupancy, Spans
from emulation.lowering.emit import CAUSES, KINDS, Labels
from emulation.lowering.experts import Load as Issued
from emulation.machine import Machine
from emulation.ops import END, Edge, Ops

_COPY, _LOADS, _DISPATCH = KINDS.index("copy"), (CAUSES.index("demand"), CAUSES.index("prefetch")), \
    CAUSES.index("dispatch")


class Stretch(NamedTuple):
    """A piece before it has a number: which part of which operation, when, and (lane, from, to) of what it held.

    reads: whether it is the longest part, in which a load's bytes are read.
    """

    start_ps: int
    end_ps: int
    op: int
    part: int
    is_last: bool
    reads: bool
    held: tuple[tuple[int, int, int], ...]


@dataclass
class _Submitted:
    """What is kept of an operation until it is cut."""

    player: int
    waits: list[Edge]
    pools: list[int]
    behind: int


@dataclass
class Played:
    """Everything that was cut, by number of piece: for judging. moments: (piece, offset_ps) by number."""

    pieces: list[Piece] = field(default_factory=list)
    player: list[int] = field(default_factory=list)
    op: list[int] = field(default_factory=list)
    moments: list[tuple[int, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.pieces)


class Cutter:
    """Turns batches of operations and their spans into programmes, in order of emulated starts."""

    def __init__(self, machine: Machine, player_of: Mapping[int, int]) -> None:
        """player_of: device -> player; devices that compute nothing have none, and a home plays for them."""
        self._machine = machine
        home = next((player_of[home] for home in machine.homes if home in player_of), 0)
        self._players = [player_of.get(device, home) for device in range(len(machine.devices))]
        self._home = home
        self._link_of = {link.lane: link for link in machine.links}
        self.played = Played()
        self._ops: dict[int, _Submitted] = {}
        self._loads: dict[int, Load] = {}
        self._pool_of_take: dict[int, int] = {}
        self._releases: list[tuple[int, list[Edge]]] = []
        self._released: dict[tuple[int, int], Edge] = {}
        self._stretches: list[Stretch] = []
        self._open: list[int] = []
        self._last: dict[int, int] = {}
        self._numbers: dict[tuple[int, int], int] = {}
        self._told: dict[tuple[int, int], None] = {}
        self._servers = [[(0, NO, 0)] * lane.servers for lane in machine.lanes]
        self._moments: dict[tuple[int, int], int] = {}

    def submit(self, ops: Ops, labels: Labels, after: int) -> None:
        """A batch as it went to the engine. after: the decision op behind which it was submitted (NO: none)."""
        kinds, causes, devices = labels.kind.tolist(), labels.cause.tolist(), labels.device.tolist()
        for i in range(len(ops)):
            op, waits, takes = ops.first + i, ops.waits_of(i), ops.takes_of(i)
            behind = NO if any(edge.op >= ops.first for edge in waits) else after
            lanes = [lane for lane, _ in ops.holds_of(i)]
            player = self._player(kinds[i], causes[i], devices[i], lanes, waits)
            self._ops[op] = _Submitted(player, waits, [pool for _, pool, _, _ in takes], behind)
            self._pool_of_take.update({handle: pool for handle, pool, _, _ in takes})
            self._open.append(op)
        self._releases += ops.releases()

    def load(self, load: Issued, bytes_: int) -> None:
        """Which shard an operation brings."""
        self._loads[load.op] = Load(load.device, load.moe, load.expert, load.part, bytes_)

    def _player(self, kind: int, cause: int, device: int, lanes: Sequence[int], waits: Sequence[Edge]) -> int:
        """Who plays an operation: its device; of activations on their way the home, whose links they queue for."""
        if kind == _COPY and cause == _DISPATCH:
            sources = [self._link_of[lane].source for lane in lanes if lane in self._link_of]
            device = next((source for source in sources if source in self._machine.homes), device)
        if device == NO:
            known = [self._ops[edge.op].player for edge in waits if edge.op in self._ops]
            return known[-1] if known and not lanes else self._home
        return self._players[device]

    def cut(self, spans: Spans, rows: Occupancy, steps: Mapping[int, int]) -> dict[int, Programme]:
        """Player -> what has become certain since the last cut: all that starts before whatever is still in flight.

        steps: operation -> the step that ends with it.
        """
        starts, ends = spans
        self._stretch(starts, ends, rows)
        flying = starts[self._open] if self._open else np.empty(0, np.int64)
        limit = int(flying[flying >= 0].min(initial=1 << 62))
        self._stretches.sort()
        count = bisect_left(self._stretches, (limit,))
        ready, self._stretches = self._stretches[:count], self._stretches[count:]
        self._note_releases(starts, ends)
        programmes: dict[int, Programme] = {}
        for stretch in ready:
            number = len(self.played)
            self.played.pieces.append(Piece(number, stretch.start_ps, stretch.end_ps - stretch.start_ps, (), None, NO))
            self.played.player.append(self._ops[stretch.op].player)
            self.played.op.append(stretch.op)
            self._numbers[stretch.op, stretch.part] = number
            if stretch.is_last:
                self._last[stretch.op] = number
        for stretch in ready:
            self._compose(stretch, ends, steps, programmes)
        return programmes

    def _stretch(self, starts: Ints,
                 ends: Ints, rows: Occupancy) -> None:
        """Take the operations that have ended since, each as one stretch or as several."""
        done = [op for op in self._open if ends[op] >= 0]
        self._open = [op for op in self._open if ends[op] < 0]
        if not done:
            return
        chosen = np.isin(rows.op, done)
        held: dict[int, list[tuple[int, int, int]]] = {op: [] for op in done}
        for op, lane, from_ps, to_ps in zip(*(column[chosen].tolist() for column in
                                              (rows.op, rows.lane, rows.from_ps, rows.to_ps)), strict=True):
            held[op].append((lane, from_ps, to_ps))
        for op in done:
            start_ps, end_ps = int(starts[op]), int(ends[op])
            begins = sorted({start_ps, *(from_ps for _, from_ps, _ in held[op])})
            parts = [tuple(row for row in held[op] if row[1] == begin_ps) for begin_ps in begins]
            until = [max((to_ps for _, _, to_ps in mine), default=begin_ps)
                     for begin_ps, mine in zip(begins[:-1], parts, strict=False)] + [end_ps]
            longest = max(range(len(begins)), key=lambda i: until[i] - begins[i])
            self._stretches += [Stretch(begin_ps, until[i], op, i, i == len(begins) - 1, i == longest, parts[i])
                                for i, begin_ps in enumerate(begins)]

    def _note_releases(self, starts: Ints,
                       ends: Ints) -> None:
        """When what was taken of pools came back, of those releases whose edges have all happened."""
        open_: list[tuple[int, list[Edge]]] = []
        for handle, edges in self._releases:
            when = [int(ends[edge.op] if edge.edge == END else starts[edge.op]) for edge in edges]
            if when and min(when) >= 0:
                edge = edges[when.index(max(when))]
                if starts[edge.op] < max(when):  # what begins at that instant may itself wait for who takes
                    self._released[self._pool_of_take[handle], max(when)] = edge
            elif when:
                open_.append((handle, edges))
        self._releases = open_

    def _compose(self, stretch: Stretch, ends: Ints, steps: Mapping[int, int],
                 programmes: dict[int, Programme]) -> None:
        """A piece with all that it waits for, and what its player must tell others or be told for it."""
        op, number = self._ops[stretch.op], self._numbers[stretch.op, stretch.part]
        before: list[tuple[int, int]] = []
        if stretch.part:
            before.append(self._end_of(self._numbers[stretch.op, stretch.part - 1]))
        else:
            before += [self._moment_of(edge) for edge in op.waits]
            before += [self._end_of(self._last[op.behind])] if op.behind != NO else []
            freed = [self._released.get((pool, stretch.start_ps)) for pool in op.pools]
            before += [self._moment_of(edge) for edge in freed if edge is not None and edge.op != stretch.op]
        before += self._queue(stretch, number)
        piece = Piece(number, stretch.start_ps, stretch.end_ps - stretch.start_ps,
                      tuple(dict.fromkeys(self._moment(at, op.player, programmes) for at in before)),
                      self._loads.get(stretch.op) if stretch.reads else None,
                      steps.get(stretch.op, NO) if stretch.is_last else NO)
        self.played.pieces[number] = piece
        programmes.setdefault(op.player, Programme()).pieces.append(piece)

    def _queue(self, stretch: Stretch, number: int) -> list[tuple[int, int]]:
        """Whoever left each lane before this piece took it, and when: (piece, offset); it is now the last there."""
        before = []
        for lane, from_ps, to_ps in stretch.held:
            if from_ps == to_ps:  # for no time at all, which nobody waits for
                continue
            servers = self._servers[lane]
            at = max((i for i, (free_ps, _, _) in enumerate(servers) if free_ps <= from_ps),
                     key=lambda i: servers[i][0], default=0)
            _, last, offset_ps = servers[at]
            if last != NO:
                before.append((last, offset_ps))
            servers[at] = (to_ps, number, to_ps - stretch.start_ps)
        return before

    def _moment_of(self, edge: Edge) -> tuple[int, int]:
        return self._end_of(self._last[edge.op]) if edge.edge == END else (self._numbers[edge.op, 0], 0)

    def _end_of(self, piece: int) -> tuple[int, int]:
        return piece, self.played.pieces[piece].length_ps

    def _moment(self, at: tuple[int, int], player: int, programmes: dict[int, Programme]) -> int:
        """The number of a moment; its player is told of it once, and once more for each player that waits for it."""
        number = self._moments.get(at)
        owner = self.played.player[at[0]]
        tell = (player,) if player != owner and (number is None or (number, player) not in self._told) else ()
        if number is None:
            number = self._moments[at] = len(self.played.moments)
            self.played.moments.append(at)
        elif not tell:
            return number
        if tell:
            self._told[number, player] = None
        programmes.setdefault(owner, Programme()).moments.append(Moment(number, *at, tell))
        return number
