"""Whether a run was really played as the engine timed it: judged afterwards, from what was recorded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actors.programme import Ints, Record
from cluster.observe.schema import Wall
from cluster.wall.cutting import Played
from cluster.wall.pace import ALLOWED, Costs, Pace

LATE_SHARE = 0.01
"""The share of operations that may be late."""

LATE_AFTER_S = 0.002
"""An operation is late from here on, or from ALLOWED of the median step's time, where that is more."""

STANDSTILL_S = 0.05
"""The longest time in which a player may not come to look at the clock."""

OTHERS_SHARE = 0.35
"""The share of the host's cores that other programs may keep busy."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Steps:
    """When steps began and ended: emulated picoseconds, and the real end on the host's clock."""

    begin_ps: Ints
    end_ps: Ints
    end_ns: Ints


@dataclass(frozen=True)
class Host:
    """What the host did meanwhile: cores that other programs kept busy, of how many."""

    others_cores: float
    cores: int


@dataclass(frozen=True)
class Lateness:
    """Of each piece, nanoseconds: lag behind its deadline; own: what of it neither its deadline nor its inputs explain.

    early: whether it started before something that it waits for had happened.
    """

    lag_ns: Floats
    own_ns: Floats
    early: NDArray[np.bool_]


def lateness(played: Played, origin_ns: int, dilation: float, start_ns: Ints, end_ns: Ints) -> Lateness:
    """Real starts and ends, by number of piece, beside what emulated time and the real inputs asked for."""
    ns_per_ps = dilation / 1000
    due_ps = np.array([p.start_ps for p in played.pieces], np.int64)
    length_ps = np.array([p.length_ps for p in played.pieces], np.int64)
    due_ns = origin_ns + np.rint(due_ps * ns_per_ps)
    of = np.array([piece for piece, _ in played.moments], np.int64)
    offset_ps = np.array([offset for _, offset in played.moments], np.int64)
    moments_ns = np.where(offset_ps == 0, start_ns[of], np.where(
        offset_ps == length_ps[of], end_ns[of], start_ns[of] + np.rint(offset_ps * ns_per_ps)))
    inputs_ns = due_ns.copy()
    early = np.zeros(len(due_ns), np.bool_)
    for number, piece in enumerate(played.pieces):
        if piece.waits:
            last_ns = moments_ns[list(piece.waits)].max()
            early[number] = start_ns[number] < last_ns
            inputs_ns[number] = max(inputs_ns[number], last_ns)
    allowed_ns = inputs_ns + np.rint(length_ps * ns_per_ps)
    return Lateness(end_ns - (due_ns + np.rint(length_ps * ns_per_ps)), end_ns - allowed_ns, early)


def step_errors(steps: Steps, origin_ns: int, dilation: float) -> tuple[float, float]:
    """(of all steps together, of the one that is off most): real time over dilated emulated time, less one.

    A step really begins when the one before has really ended, or at its emulated begin, where that is later.
    """
    begin_ns = origin_ns + np.rint(steps.begin_ps * dilation / 1000)
    begin_ns[1:] = np.maximum(begin_ns[1:], steps.end_ns[:-1])
    real_ns = steps.end_ns - begin_ns
    dilated_ns = (steps.end_ps - steps.begin_ps) * dilation / 1000
    each = real_ns[dilated_ns > 0] / dilated_ns[dilated_ns > 0] - 1
    if not len(each):
        return 0.0, 0.0
    return float(real_ns.sum() / dilated_ns.sum() - 1), float(each[np.abs(each).argmax()])


def judge(played: Played, records: Mapping[int, Record], steps: Steps, origin_ns: int, pace: Pace, costs: Costs,
          host: Host) -> Wall:
    """The verdict of a run that was played to its end."""
    start_ns, end_ns = (np.zeros(len(played), np.int64) for _ in range(2))
    for record in records.values():
        start_ns[record.piece], end_ns[record.piece] = record.start_ns, record.end_ns
    late = lateness(played, origin_ns, pace.dilation, start_ns, end_ns)
    error, worst = step_errors(steps, origin_ns, pace.dilation)
    dilated_s = np.median(steps.end_ps - steps.begin_ps) * 1e-12 * pace.dilation if len(steps.end_ps) else 0.0
    late_after_s = max(LATE_AFTER_S, ALLOWED * float(dilated_s))
    lag_ns = np.sort(np.maximum(late.lag_ns, 0)) if len(played) else np.zeros(1)
    real_s = float(max(steps.end_ns.max(initial=origin_ns), end_ns.max(initial=origin_ns)) - origin_ns) * 1e-9
    read_bytes = sum(record.read_bytes for record in records.values())
    figures = Wall(
        verdict="OK", reason="", dilation=float(pace.dilation), smallest_dilation=float(pace.smallest),
        chosen_by=pace.binds, error=error, worst_step_error=worst, real_s=real_s, steps=len(steps.end_ps),
        ops=len(played), causality_violations=int(late.early.sum()),
        late_ops=int((late.own_ns > late_after_s * 1e9).sum()), late_after_s=late_after_s,
        lag_p50_s=float(lag_ns[(len(lag_ns) - 1) // 2]) * 1e-9,
        lag_p99_s=float(lag_ns[(99 * len(lag_ns) + 99) // 100 - 1]) * 1e-9,
        read_bytes=read_bytes, bytes_per_s=read_bytes / real_s if real_s else 0.0, players=len(records),
        turn_s=costs.turn_ns * 1e-9, hop_s=costs.hop_ns * 1e-9,
        standstill_s=max((record.standstill_ns for record in records.values()), default=0) * 1e-9,
        others_cores=host.others_cores)
    found = reasons(figures, host.cores)
    return figures.model_copy(update={"verdict": "VOID", "reason": found[0]}) if found else figures


def reasons(wall: Wall, cores: int) -> Sequence[str]:
    """Why a run at the wall clock is void; nothing where it is not."""
    out = []
    if wall.causality_violations:
        out.append(f"{wall.causality_violations} operations started before what they wait for had happened")
    if wall.dilation < wall.smallest_dilation:
        out.append(f"the dilation is {wall.dilation:.4g}, and the least that this host was measured to manage is "
                   f"{wall.smallest_dilation:.4g}")
    if wall.standstill_s > STANDSTILL_S:
        out.append(f"a player stood still for {wall.standstill_s * 1e3:.0f} ms, and {STANDSTILL_S * 1e3:.0f} ms are "
                   "allowed")
    if wall.others_cores > OTHERS_SHARE * cores:
        out.append(f"other programs kept {wall.others_cores:.2f} of {cores} cores busy, and {OTHERS_SHARE * cores:.2f} "
                   "are allowed")
    if abs(wall.error) > ALLOWED:
        out.append(f"the steps took {100 * wall.error:+.1f} % more than their dilated time, and {100 * ALLOWED:.0f} % "
                   "either way are allowed")
    if wall.late_ops > LATE_SHARE * wall.ops:
        out.append(f"{wall.late_ops} of {wall.ops} operations ended more than {wall.late_after_s * 1e3:.1f} ms late, "
                   f"and {100 * LATE_SHARE:.0f} % may")
    return out
