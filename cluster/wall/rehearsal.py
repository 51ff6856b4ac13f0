"""Before a run at the wall clock: what playing costs this host, measured with the players themselves."""

import os
import time
from collections.abc import Mapping
from statistics import mean, median

from actors.programme import Begin, Collect, Load, Moment, Piece, Programme, Pulse, Record
from cluster.transports.contract import Transport
from cluster.wall.pace import Costs
from emulation.errors import TransportError

LENGTH_PS = 4 * 10**6
"""A rehearsed piece: four milliseconds. What has slept for long wakes slowly, so shorter ones would cost less."""

DILATION = 1000.0
"""A nanosecond of rehearsal for a picosecond."""

TURNS = 24
ROUNDS = 3
READ_BYTES = 32 << 20
PATIENCE_S = 20.0
START_NS = 20_000_000
LEAST_TURN_NS = 40_000.0
"""What a turn costs at least: in the run it is disturbed more often than in a rehearsal that went very well."""

COMPUTE_S, REST_S = 0.001, 0.009
LOOK_AFTER = 3
"""The conductor is busy for a tenth of the time, and asks after so many times whether all is played."""


def chain(first: int) -> Programme:
    """Pieces of one length of one player, numbered from `first`, each behind the one before it.

    Everywhere here the moment that piece i ends has the number i.
    """
    numbers = range(first, first + TURNS)
    return Programme([Piece(i, 0, LENGTH_PS, (i - 1,) if i > first else ()) for i in numbers],
                     [Moment(i, i, LENGTH_PS) for i in numbers])


def star(players: list[int]) -> dict[int, Programme]:
    """As the layers of a model go: a piece of the first player, behind it one of each other player, and again."""
    first, *others = players
    out = {player: Programme() for player in players}
    before: tuple[int, ...] = ()
    for i in range(0, TURNS // 2 * len(players), len(players)):
        out[first].pieces.append(Piece(i, 0, LENGTH_PS, before))
        out[first].moments.append(Moment(i, i, LENGTH_PS, tuple(others)))
        before = tuple(range(i + 1, i + len(players)))
        for number, player in zip(before, others, strict=True):
            out[player].pieces.append(Piece(number, 0, LENGTH_PS, (i,)))
            out[player].moments.append(Moment(number, number, LENGTH_PS, (first,)))
    return out


def rehearse(transport: Transport, players: list[int]) -> Costs:
    """Play chains within all players at once, and stars between them, and read a shard; the median round counts."""
    turns, hops, spent_s, played = list[float](), list[float](), 0.0, 0
    for _ in range(ROUNDS):
        rounds = [{player: chain(player * TURNS) for player in players}]
        rounds += [star(players)] if len(players) > 1 else []
        for costs, programmes in zip((turns, hops), rounds, strict=False):
            records = _perform(transport, programmes)
            costs.append(mean(_extra_ns(record) for record in records.values()) / TURNS if costs is turns else
                         _extra_ns(records[players[0]], TURNS - 1) / (TURNS - 2))
            spent_s += sum(record.cpu_s for record in records.values())
            played += sum(len(programme.pieces) for programme in programmes.values())
    first = players[0]
    read = Programme([Piece(0, 0, LENGTH_PS, (), Load(-1, 0, 0, 0, READ_BYTES))])
    reading = _perform(transport, {first: read})[first]
    turn_ns = max(median(turns), LEAST_TURN_NS)
    return Costs(turn_ns, max(turn_ns, median(hops) if hops else 0.0), spent_s / played * 1e9,
                 reading.read_bytes / max(reading.read_ns * 1e-9, 1e-6), os.cpu_count() or 1)


def _extra_ns(record: Record, lengths: int = TURNS) -> float:
    """By how much it took longer from the first start to the last end than so many pieces, one behind the other."""
    return float(record.end_ns.max() - record.start_ns.min()) - lengths * LENGTH_PS


def _perform(transport: Transport, programmes: Mapping[int, Programme]) -> dict[int, Record]:
    """Play programmes to their end, beside a conductor that computes now and then."""
    origin_ns = time.monotonic_ns() + START_NS
    transport.perform(dict.fromkeys(programmes, Begin(origin_ns, DILATION)))
    transport.perform(programmes)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        for _ in range(LOOK_AFTER):
            _compute(COMPUTE_S)
            time.sleep(REST_S)
        ended = transport.perform(dict.fromkeys(programmes, Pulse()))
        if all(ended[player] == len(programme.pieces) for player, programme in programmes.items()):
            return collect(transport, list(programmes))
        if time.monotonic() > deadline:
            raise TransportError(f"the players' rehearsal did not end within {PATIENCE_S:.0f} s: this host is too busy "
                                 "for a wall clock")


def _compute(seconds: float) -> None:
    """Keep this thread busy, as the run will: it decides and computes while the players play."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def collect(transport: Transport, players: list[int]) -> dict[int, Record]:
    """Every player's record."""
    return {player: record for player, record in transport.perform(dict.fromkeys(players, Collect())).items()
            if isinstance(record, Record)}


