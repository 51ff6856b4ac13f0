"""What a new placement of experts needs that the devices do not hold yet, and who can give it."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.ledger import Ledger
from emulation.shards import slice_bounds

NOBODY = -1


class Missing(NamedTuple):
    """sent: (source, target) -> bytes that a device has which another needs. stored_bytes: what no device has, or none
    from which links lead."""

    sent: dict[tuple[int, int], int]
    stored_bytes: int


def missing(old: Ledger, new: Ledger, alive: NDArray[np.bool_]) -> Missing:
    """What `new` places where `old` has nothing of it. alive [devices]: whose memory there still is.

    Columns of an expert are counted, so that parts may be cut anew. Where one rests sends it, else the first device
    that holds a copy.
    """
    extent = new.model.d_ff
    bounds = [slice_bounds(extent, ledger.start.parts) for ledger in (old, new)]
    cuts = sorted(dict.fromkeys([*(lo for each in bounds for lo, _ in each), extent]))
    pieces = list(pairwise(cuts))
    bytes_ = np.array([new.model.expert_work(hi - lo).weight_bytes for lo, hi in pieces], np.int64)
    of_old, of_new = ([next(p for p, (low, high) in enumerate(each) if low <= lo < high) for lo, _ in pieces]
                      for each in bounds)
    devices = [d for d in range(len(alive)) if alive[d]]
    held = {d: old.parts_on(d)[:, :, of_old] for d in devices}
    rest = old.start.rest[:, :, of_old]
    source = np.full(rest.shape, NOBODY, np.int64)
    for d in reversed(devices):
        source[held[d]] = d
    source = np.where(alive[rest], rest, source)
    sent: dict[tuple[int, int], int] = {}
    stored = 0
    for target in devices:
        lack = new.parts_on(target)[:, :, of_new] & ~held[target]
        for giver in np.unique(source[lack]).tolist():
            amount = int(((lack & (source == giver)) * bytes_).sum())
            if giver == NOBODY or (giver, target) not in new.machine.routes:
                stored += amount
            else:
                sent[giver, target] = amount
    return Missing(sent, stored)
