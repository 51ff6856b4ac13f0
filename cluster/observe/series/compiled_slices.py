"""Stretches and transfers of a chunk added to the slices of a run, at a few nanoseconds a row."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from emulation.engine.compiled_bare import bare
from emulation.lowering.compiled_ops import kernel
from emulation.lowering.emit import CAUSES, KINDS

Ints = NDArray[Any]
Small = NDArray[Any]
Grid = NDArray[Any]

COPY, DISPATCH = KINDS.index("copy"), CAUSES.index("dispatch")
N_CAUSES = len(CAUSES)
_ONE, _GRID, _SMALL = np.zeros(1, np.int64), np.zeros((1, 1), np.int64), np.zeros(1, np.int32)


@kernel(_ONE, _ONE, _ONE, _ONE, 1, _GRID)
def add_lanes(lane_ptrs: Ints, froms: Ints, tos: Ints, rows: Ints, width: int, out: Grid) -> int:
    """Stretches, lane by lane (lane_ptrs: where each begins), to out [rows, slices]; `slices.add_stretches` is the
    specification."""
    ptr, from_ps, to_ps, row, busy_ps = bare(lane_ptrs), bare(froms), bare(tos), bare(rows), bare(out)
    for lane in range(len(row)):
        r = row[lane]
        for i in range(ptr[lane], ptr[lane + 1]):
            at_ps, until_ps = from_ps[i], to_ps[i]
            if until_ps <= at_ps:
                continue
            last = (until_ps - 1) >> width
            at = at_ps >> width
            while at < last:
                edge_ps = (at + 1) << width
                busy_ps[r, at] += edge_ps - at_ps
                at_ps = edge_ps
                at += 1
            busy_ps[r, last] += until_ps - at_ps
    return 0


@kernel(_SMALL, _SMALL, _SMALL, _ONE, _ONE, _ONE, _ONE, _GRID, _ONE, _ONE, 1, _GRID)
def add_copies(kinds: Small, causes: Small, devices: Small, moved: Ints, ends: Ints, hold_ptrs: Ints, hold_lanes: Ints,
               towards: Grid, outwards: Ints, rows: Ints, width: int, out: Grid) -> int:
    """Bytes of copies to out [rows * causes, slices], by the links that the lanes they hold tell (`Crossings`)."""
    kind, cause, device, bytes_, end_ps = bare(kinds), bare(causes), bare(devices), bare(moved), bare(ends)
    ptr, lane, toward, outward, row, total = (bare(hold_ptrs), bare(hold_lanes), bare(towards), bare(outwards),
                                              bare(rows), bare(out))
    for i in range(len(kind)):
        if kind[i] != COPY:
            continue
        at = max(end_ps[i] - 1, 0) >> width
        for k in range(ptr[i], ptr[i + 1]):
            link = outward[lane[k]] if cause[i] == DISPATCH else toward[lane[k], device[i]]
            if link >= 0:
                total[row[link] * N_CAUSES + cause[i], at] += bytes_[i]
    return 0
