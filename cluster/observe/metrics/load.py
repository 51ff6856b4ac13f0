"""Tokens by expert as metrics: by group of MoE layers, and of the fullest experts by name."""

from collections.abc import Sequence
from itertools import pairwise

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


def tell_load(out: Samples, layers: Sequence[int], load: Sequence[Sequence[int]],
              named: Sequence[tuple[int, int]] | None = None) -> None:
    """Tokens routed, load [layers, experts], by group of layers, and of the fullest experts. named: (row, expert) of
    those, where they were chosen before."""
    groups = group_of(layers)
    sizes = {group: groups.count(group) for group in groups}
    for group, row in zip(groups, load, strict=True):
        out.add("moelab_expert_load_tokens_total", sum(row), group=group)
        if sum(row):
            out.add("moelab_load_skew_ratio", max(row) * len(row) / sum(row) / sizes[group], group=group)
    for at, expert in fullest(load) if named is None else named:
        out.add("moelab_top_expert_tokens_total", load[at][expert], layer=str(layers[at]), expert=str(expert))


def fullest(load: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """The TOP (row, expert) with the most tokens, the fullest first."""
    found = [(tokens, row, expert) for row, experts in enumerate(load) for expert, tokens in enumerate(experts)
             if tokens]
    return [(row, expert) for _, row, expert in sorted(found, key=lambda at: (-at[0], *at[1:]))[:TOP]]
