"""Tokens by expert as metrics: by group of MoE layers, and of the fullest experts by name."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from cluster.observe.metrics.families import Samples

TOP = 16
"""Experts that are told of by name."""

GROUPS = 8
"""Groups of MoE layers that the load is told by."""


def group_of(layers: Sequence[int]) -> list[str]:
    """The group of each MoE layer, as the first and last layer in it: at most GROUPS of nearly equal size."""
    count = min(GROUPS, len(layers))
    cuts = [len(layers) * i // count for i in range(count + 1)] if count else []
    return [name for low, high in pairwise(cuts) for name in [
        str(layers[low]) if high == low + 1 else f"{layers[low]}-{layers[high - 1]}"] * (high - low)]


def tell_load(out: Samples, layers: Sequence[int], load: ArrayLike,
              named: Sequence[tuple[int, int]] | None = None) -> None:
    """Tokens routed, load [layers, experts], by group of layers, and of the fullest experts. named: (row, expert) of
    those, where they were chosen before."""
    tokens = np.asarray(load, np.int64).reshape(len(layers), -1)
    groups = group_of(layers)
    sizes = {group: groups.count(group) for group in groups}
    for group, row in zip(groups, tokens, strict=True):
        whole = int(row.sum())
        out.add("moelab_expert_load_tokens_total", whole, group=group)
        if whole:
            out.add("moelab_load_skew_ratio", int(row.max()) * len(row) / whole / sizes[group], group=group)
    for at, expert in fullest(tokens) if named is None else named:
        out.add("moelab_top_expert_tokens_total", int(tokens[at, expert]), layer=str(layers[at]), expert=str(expert))


def fullest(load: ArrayLike) -> list[tuple[int, int]]:
    """The TOP (row, expert) with the most tokens, the fullest first; of equals the first."""
    tokens = np.asarray(load, np.int64)
    flat = tokens.ravel()
    least = np.partition(flat, -TOP)[-TOP] if len(flat) > TOP else 0
    found = np.flatnonzero(flat >= max(least, 1))
    found = found[np.argsort(-flat[found], kind="stable")][:TOP]
    return [divmod(place, tokens.shape[1]) for place in found.tolist()]
