"""Chances of experts as whole numbers, and alias tables of them: no rounding in them differs between machines."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Context, Decimal

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
Ids = NDArray[np.uint16]

ONE = 1 << 32
"""The chance of what always happens; a chance is a whole number of 2**-32."""

_EXACT = Context(prec=30, Emin=-999_999_999_999, Emax=999_999_999_999)


def zipf(experts: int, skew: float) -> list[int]:
    """Chance of each rank, the likeliest first: rank r has the weight r**-skew. The chances add to ONE."""
    power = -Decimal(skew)
    return apportioned([_EXACT.power(Decimal(rank), power) for rank in range(1, experts + 1)])


def apportioned(weights: Sequence[Decimal]) -> list[int]:
    """Whole chances in proportion to weights, by largest remainder, ties to the first; they add to ONE."""
    total = Decimal(0)
    for weight in weights:
        total = _EXACT.add(total, weight)
    exact = [_EXACT.divide(_EXACT.multiply(weight, Decimal(ONE)), total) for weight in weights]
    chances = [int(value) for value in exact]
    by_rest = sorted(range(len(exact)), key=lambda i: (chances[i] - exact[i], i))
    for i in by_rest[:ONE - sum(chances)]:
        chances[i] += 1
    return chances


def threshold(chance: float) -> int:
    """A chance as a whole number of 2**-32, exact but for what is below one of them."""
    return int(chance * ONE)


@dataclass(frozen=True)
class Tables:
    """What experts are drawn by, in each layer; all [layers, experts].

    chance: of each expert. order: the experts, likeliest first. A draw falls into column c and at a height below ONE:
    under `height[c]` it is expert `under[c]`, and from there on `over[c]` (Walker's alias method).
    """

    chance: U64
    order: Ids
    height: U64
    under: Ids
    over: Ids


def tables(by_rank: Sequence[Sequence[int]], order: Ids) -> Tables:
    """Tables of each layer's chances by rank, where `order[layer, rank]` is the expert of that rank."""
    chance = np.zeros(order.shape, np.uint64)
    height, other = np.zeros(order.shape, np.uint64), np.zeros(order.shape, np.int64)
    known: dict[tuple[int, ...], int] = {}
    for layer, ranks in enumerate(by_rank):
        twin = known.setdefault(tuple(ranks), layer)
        if twin == layer:
            height[layer], other[layer] = _columns(ranks)
        else:
            height[layer], other[layer] = height[twin], other[twin]
        chance[layer, order[layer]] = ranks
    return Tables(chance, order, height, order.copy(), np.take_along_axis(order, other, axis=1))


def _columns(ranks: Sequence[int]) -> tuple[list[int], list[int]]:
    """Heights and the other rank of each column: columns of ONE each, so that a rank fills chance * count of them."""
    left = [chance * len(ranks) for chance in ranks]
    height, other = [ONE] * len(ranks), list(range(len(ranks)))
    small = [i for i, units in enumerate(left) if units < ONE]
    large = [i for i, units in enumerate(left) if units >= ONE]
    while small:
        poor, rich = small.pop(), large[-1]
        height[poor], other[poor] = left[poor], rich
        left[rich] -= ONE - left[poor]
        if left[rich] < ONE:
            small.append(large.pop())
    return height, other
