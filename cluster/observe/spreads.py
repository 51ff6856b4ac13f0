"""Durations of a run that its other figures do not tell one by one, as histograms in slices of emulated time."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.scheduler import StepTimes
from cluster.observe import schema
from cluster.observe.metrics.catalogue import BUCKETS_S
from cluster.observe.requests import Times
from cluster.observe.series.slices import slice_at
from emulation.units import PS_PER_S

Ints = NDArray[np.int64]


def spreads(steps: list[StepTimes], found: Times, slice_ps: int, slices: int) -> dict[str, schema.Spread]:
    """Steps' own times, gaps between tokens, and times per output token, each in the slice in which it was known."""
    width = slice_ps.bit_length() - 1
    begin_ps, end_ps = (np.array([getattr(step, key) for step in steps], np.int64) for key in ("begin_ps", "end_ps"))
    several = found.made > 1
    last_ps = found.last_ps[several]
    tpot_ps = (last_ps - found.first_ps[several]) / (found.made[several] - 1)
    return {"step": spread(end_ps - begin_ps, end_ps, width, slices),
            "itl": spread(found.gaps_ps, found.gap_at_ps, width, slices),
            "tpot": spread(tpot_ps, last_ps, width, slices)}


def spread(durations_ps: NDArray[Any], at_ps: Ints, width: int, slices: int) -> schema.Spread:
    """Durations as a histogram, each counted at its instant."""
    seconds, where = durations_ps / PS_PER_S, slice_at(at_ps, width)
    sum_s = np.zeros(slices)
    np.add.at(sum_s, where, seconds)
    bucket = np.searchsorted(np.array(BUCKETS_S), seconds)
    counts = np.zeros((len(BUCKETS_S) + 1, slices), np.int64)
    np.add.at(counts, (bucket, where), 1)
    return schema.Spread(sum_s=tuple(sum_s.tolist()), buckets={
        str(row): tuple(counts[row].tolist()) for row in np.flatnonzero(counts.any(axis=1)).tolist()})
