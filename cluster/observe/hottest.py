"""Which experts and layers are asked for most: what `Result.load` says, in a sentence."""

from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cluster.observe.result import Result

Ints = NDArray[np.int64]


class Hot(NamedTuple):
    """The fullest expert of a layer. layer: as the model numbers it. times: its tokens over the layer's mean."""

    layer: int
    expert: int
    tokens: int
    times: float


def fullest(result: Result) -> list[Hot]:
    """The fullest expert of each layer with any load, the largest over its layer's mean first."""
    load = np.array(result.load.prefill, np.int64) + np.array(result.load.decode, np.int64)
    found = [Hot(layer, int(row.argmax()), int(row.max()), float(Fraction(int(row.max()) * len(row), int(row.sum()))))
             for layer, row in zip(result.load.layers, load, strict=True) if row.sum()]
    return sorted(found, key=lambda hot: (-hot.times, hot.layer))


def half(result: Result) -> tuple[int, int]:
    """The least (layer, expert) pairs that half of all routed tokens go to, and how many pairs there are."""
    load = np.sort((np.array(result.load.prefill, np.int64) + np.array(result.load.decode, np.int64)).ravel())[::-1]
    if not load.sum():
        return 0, len(load)
    return int(np.searchsorted(load.cumsum() * 2, load.sum())) + 1, len(load)


def hottest(result: Result) -> list[str]:
    """How unevenly experts are asked for, and where most; nothing of a model without experts."""
    hot = fullest(result)
    if not hot:
        return []
    few, all_ = half(result)
    worst, mildest = hot[0], hot[-1]
    spread = "" if len(hot) == 1 else (f"; the evenest is layer {mildest.layer}, where the fullest takes "
                                       f"{mildest.times:.3g} times the mean")
    return [f"Half of all routed tokens go to {few:,} of {all_:,} experts of all layers. The hottest is expert "
            f"{worst.expert} of layer {worst.layer}, with {worst.times:.3g} times its layer's mean{spread}."]
