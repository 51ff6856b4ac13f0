"""Columns of a chunk put in order and summed, at a few nanoseconds a row."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from emulation.engine.compiled_bare import bare
from emulation.engine.compiled_table import inner
from emulation.lowering.compiled_ops import kernel

Ints = NDArray[Any]
Small = NDArray[Any]

_ONE, _SMALL = np.zeros(1, np.int64), np.zeros(1, np.int32)


@inner
def mixed(x: int, field: int) -> int:
    """One round of a mixer after splitmix64, in whole numbers that wrap."""
    x = (x ^ field) * -7046029254386353131
    return x ^ ((x >> 29) & 0x7FFFFFFFF)


_ONE = np.zeros(1, np.int64)
_GRID = np.zeros((1, 1), np.int64)
_SMALL, _TINY = np.zeros(1, np.int32), np.zeros(1, np.int8)
@kernel(_ONE, _ONE, _ONE, _ONE, _ONE, _ONE, _ONE, _ONE, _ONE)
def group_by_lane(of_lane: Ints, ops: Ints, froms: Ints, tos: Ints, lane_ptrs: Ints, to_op: Ints,
                  to_from: Ints, to_to: Ints, cursor: Ints) -> int:
    """Stretches, in the order of time, lane by lane. Returns how many there are."""
    lanes, ptr, at = bare(of_lane), bare(lane_ptrs), bare(cursor)
    op, from_ps, to_ps = bare(ops), bare(froms), bare(tos)
    out_op, out_from, out_to = bare(to_op), bare(to_from), bare(to_to)
    for i in range(len(ptr)):
        ptr[i] = 0
    for i in range(len(lanes)):
        ptr[lanes[i] + 1] += 1
    for i in range(1, len(ptr)):
        ptr[i] += ptr[i - 1]
        at[i - 1] = ptr[i - 1]
    for i in range(len(lanes)):
        k = at[lanes[i]]
        out_op[k], out_from[k], out_to[k] = op[i], from_ps[i], to_ps[i]
        at[lanes[i]] = k + 1
    return ptr[len(ptr) - 1]


@kernel(_ONE, 1, _SMALL, _SMALL, _SMALL, _SMALL, _SMALL, _SMALL, _ONE, _ONE, _ONE)
def add_mix(sums: Ints, first: int, kinds: Small, causes: Small, devices: Small, steps: Small, layers: Small,
            experts: Small, bytes_: Ints, starts: Ints, ends: Ints) -> int:
    """Add to two sums a mix of what each operation is and when it ran."""
    total = bare(sums)
    kind, cause, device, step = bare(kinds), bare(causes), bare(devices), bare(steps)
    layer, expert, moved, start_ps, end_ps = bare(layers), bare(experts), bare(bytes_), bare(starts), bare(ends)
    one = two = 0
    for i in range(len(start_ps)):
        x = mixed(first + i, kind[i] << 40 | cause[i] << 32 | (device[i] & 0xFFFFFFFF))
        x = mixed(x, step[i] << 32 | (layer[i] & 0xFFFFFFFF))
        x = mixed(x, expert[i])
        x = mixed(x, moved[i])
        x = mixed(x, start_ps[i])
        x = mixed(x, end_ps[i])
        one += x
        two += mixed(x, first + i)
    total[0] += one
    total[1] += two
    return 0
