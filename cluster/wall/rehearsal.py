"""Before a run at the wall clock: what playing costs this host, measured with the players themselves."""

import os
import time
from collections.abc import Callable, Mapping

from actors.programme import Begin, Collect, Load, Moment, Order, Piece, Programme, Record
from cluster.transports.contract import Transport
from cluster.wall.pace import Costs
from emulation.errors import TransportError

LENGTH_PS = 10**6
"""A rehearsed piece: one millisecond, at a thousand nanoseconds for one nanosecond."""

DILATION = 1000.0
TURNS = 50
ROUNDS = 3
READ_BYTES = 32 << 20
PATIENCE_S = 20.0
START_NS = 20_000_000


def chain(first: int, count: int, players: list[int]) -> dict[int, Programme]:
    """Pieces of one length, numbered from `first`, each behind the one before it, going round the players.

    The moment that piece i ends has the number i.
    """
    out = {player: Programme() for player in players}
    for i in range(count):
        number, player = first + i, players[i % len(players)]
        out[player].pieces.append(Piece(number, 0, LENGTH_PS, (number - 1,) if i else ()))
        after = players[(i + 1) % len(players)]
        out[player].moments.append(Moment(number, number, LENGTH_PS, (after,) if after != player else ()))
    return out


def rehearse(transport: Transport, players: list[int]) -> Costs:
    """Play chains within each player and round all of them, and read a shard; the worst of some rounds counts."""
    turns, hops, spent_s, played = [0.0], [0.0], 0.0, 0
    for _ in range(ROUNDS):
        alone = {player: chain(player * TURNS, TURNS, [player])[player] for player in players}
        records = _perform(transport, alone)
        turns.append(max(_extra_ns(record) for record in records.values()) / TURNS)
        spent_s, played = spent_s + sum(r.cpu_s for r in records.values()), played + TURNS * len(players)
        if len(players) > 1:
            records = _perform(transport, chain(0, TURNS, players))
            hops.append(_whole_ns(records) / TURNS)
            spent_s, played = spent_s + sum(r.cpu_s for r in records.values()), played + TURNS
    first = players[0]
    read = Programme([Piece(0, 0, LENGTH_PS, (), Load(-1, 0, 0, 0, READ_BYTES))])
    reading = _perform(transport, {first: read})[first]
    return Costs(max(turns), max(turns + hops), spent_s / played * 1e9,
                 reading.read_bytes / max(reading.read_ns * 1e-9, 1e-6), os.cpu_count() or 1)


def _extra_ns(record: Record) -> float:
    """By how much a chain took longer than its pieces; the first one starts when it can."""
    return float(record.end_ns.max() - record.start_ns.min()) - len(record.piece) * LENGTH_PS


def _whole_ns(records: Mapping[int, Record]) -> float:
    begin, end = min(r.start_ns.min() for r in records.values()), max(r.end_ns.max() for r in records.values())
    return float(end - begin) - sum(len(r.piece) for r in records.values()) * LENGTH_PS


def _perform(transport: Transport, programmes: Mapping[int, Programme]) -> dict[int, Record]:
    """Play programmes to their end."""
    origin_ns = time.monotonic_ns() + START_NS
    transport.perform(dict.fromkeys(programmes, Begin(origin_ns, DILATION)))
    transport.perform(programmes)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        time.sleep(0.02 if deadline - time.monotonic() < PATIENCE_S - 0.06 else 0.06)
        records = collect(transport, list(programmes))
        if all(len(records[player].piece) == len(programme.pieces) for player, programme in programmes.items()):
            return records
        if time.monotonic() > deadline:
            raise TransportError(f"the players' rehearsal did not end within {PATIENCE_S:.0f} s: this host is too busy "
                                 "for a wall clock")


def collect(transport: Transport, players: list[int]) -> dict[int, Record]:
    """Every player's record."""
    return {player: record for player, record in transport.perform(dict.fromkeys(players, Collect())).items()
            if isinstance(record, Record)}


