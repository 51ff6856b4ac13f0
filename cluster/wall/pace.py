"""How fast a host can play: what a handover costs it, the error that follows, and the smallest dilation it manages."""

import math
from typing import NamedTuple

from cluster.wall.cutting import Played

AIM = 0.006
"""The error that a chosen dilation is to keep within: a run may cost up to three times its rehearsal."""

ALLOWED = 0.02
"""The error that a verdict allows; a dilation whose handovers alone amount to more is below what the host manages."""

BUSY = 0.2
"""The share of the host's cores that players may take, and of a step's time that its real computing may."""

_FACTOR = 1.01


class Costs(NamedTuple):
    """What playing costs this host, as it was rehearsed; nanoseconds.

    turn_ns: by how much a piece comes late behind another of its player; hop_ns: behind one of another player.
    piece_ns: processor time of a piece. cores: processors. bytes_per_s: how fast loads are read.
    """

    turn_ns: float
    hop_ns: float
    piece_ns: float
    bytes_per_s: float
    cores: int


class Pace(NamedTuple):
    """A dilation and what it follows from. smallest: what the host manages. binds: what asked for that much."""

    dilation: float
    smallest: float
    binds: str


def predicted_error(played: Played, costs: Costs, dilation: float) -> float:
    """By how much the pieces would take longer than dilated, if every handover cost what it cost in rehearsal."""
    starts: list[float] = []
    ends: list[float] = []
    for piece, player in zip(played.pieces, played.player, strict=True):
        start_ns = piece.start_ps * dilation / 1000
        for moment in piece.waits:
            of, offset_ps = played.moments[moment]
            if of >= len(starts):  # a start at the same instant
                continue
            cost_ns = costs.turn_ns if played.player[of] == player else costs.hop_ns
            start_ns = max(start_ns, starts[of] + offset_ps * dilation / 1000 + cost_ns)
        starts.append(start_ns)
        ends.append(start_ns + piece.length_ps * dilation / 1000)
    due_ns = max((piece.start_ps + piece.length_ps for piece in played.pieces), default=0) * dilation / 1000
    return max(ends, default=0.0) / due_ns - 1 if due_ns else 0.0


def pace(played: Played, costs: Costs, computing: float, given: float | None) -> Pace:
    """The dilation for pieces like these: the least that keeps to AIM, or what is given.

    computing: seconds that real computing takes the host for a second of emulated time.
    """
    span_ps = max((piece.start_ps + piece.length_ps for piece in played.pieces), default=0)
    if not span_ps:
        return Pace(given or 1.0, 0.0, "nothing to play")
    span_s = span_ps * 1e-12
    loaded = sum(piece.load.bytes for piece in played.pieces if piece.load is not None)
    shortest_ps = min((piece.length_ps for piece in played.pieces if piece.length_ps), default=span_ps)
    needs = {
        "the shortest operation": costs.turn_ns * 1e3 / shortest_ps,
        "processor time of the players": len(played) * costs.piece_ns * 1e-9 / (BUSY * costs.cores * span_s),
        "reading of shards": loaded / costs.bytes_per_s / (BUSY * costs.cores * span_s),
        "real computing": computing / (BUSY * costs.cores)}
    smallest = _least(played, costs, ALLOWED, span_s)
    chosen, binds = _least(played, costs, AIM, span_s), "handovers between operations"
    for name, needed in needs.items():
        if needed > chosen:
            chosen, binds = needed, name
    return Pace(round_up(chosen) if given is None else given, max(smallest, *(need / 2 for need in needs.values())),
                binds if given is None else "given")


def _least(played: Played, costs: Costs, error: float, span_s: float) -> float:
    """The smallest dilation at which handovers cost no more than this error, within a hundredth."""
    high = len(played) * max(costs.hop_ns, costs.turn_ns) * 1e-9 / (error * span_s) + 1e-9
    low = high * 1e-6
    while high / low > _FACTOR:
        middle = math.sqrt(high * low)
        if predicted_error(played, costs, middle) <= error:
            high = middle
        else:
            low = middle
    return high


def round_up(value: float) -> float:
    """To two digits, as a dilation is told."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit - 1e-9) * unit
