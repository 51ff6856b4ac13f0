"""Which unit each expert of each layer belongs to: as numbered, or placed by a recorded history (arXiv 2303.06182, G3).

All that is compared is whole numbers, so that a tie is one on every machine.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from emulation.errors import ConfigError
from emulation.view import Setting, Visits
from schedulers._places import owners
from schedulers._popular import visited

Ints = NDArray[np.int64]

Placement = Literal["contiguous", "round_robin", "greedy", "anticorrelation", "anticorrelation_scaled"]
"""contiguous is the original order. greedy: the expert with the largest mean share goes to the unit with the least sum
of shares. anticorrelation: the sum counts, beside a_m, 0.5 S_qm: the candidate's correlation with what is there, as
published, where a share meets a correlation; scaled: 0.5 S_qm sqrt(a_q a_m), which is a share, too."""

PLACEMENTS: tuple[str, ...] = get_args(Placement)

SHARE = 1 << 32
"""Shares of a batch's tokens are counted in units of 1 / SHARE."""

_COARSE = 1 << 16
_MOST_BATCHES = 1 << 14


def placed(setting: Setting, units: int, how: Placement) -> Ints:
    """The unit of each expert by what a policy is told, [moe_layers, experts]."""
    return owners_by(by_batch(setting), units, how)


def owners_by(counts: Ints, units: int, how: str) -> Ints:
    """The unit of each expert, [moe_layers, experts], by counts [batches, moe_layers, experts]; every unit gets as many
    experts as in the original order.

    Without a history nothing is known of any expert, and greedy gives the original order; without one that is step by
    step, no correlation is known, and what remains is greedy.
    """
    _, layers, experts = counts.shape
    if how in ("contiguous", "round_robin"):
        return np.tile(owners(experts, units, how), (layers, 1))
    room = np.bincount(owners(experts, units, "contiguous"), minlength=units)
    return np.stack([_placed(counts[:_MOST_BATCHES, layer], room, how) for layer in range(layers)])


def resting(owner: Ints, stores: Sequence[tuple[int, ...]]) -> Ints:
    """Whole experts rest with their owners, on the stores of each in turn: [moe_layers, experts, 1]."""
    rest = np.empty((*owner.shape, 1), np.int64)
    for layer, of in enumerate(owner):
        for unit, where in enumerate(stores):
            own = np.flatnonzero(of == unit)
            rest[layer, own, 0] = np.resize(where, len(own))
    return rest


def by_batch(setting: Setting) -> Ints:
    """Counts by batch, [batches, moe_layers, experts]; a history that is only counted is one batch, and so is none."""
    if setting.history is None:
        return visited(setting)[None]
    counts, shape = setting.history.counts, (len(setting.model.moe_layers), setting.model.experts)
    if counts.shape[1:] != shape:
        raise ConfigError(f"the history counts {counts.shape[1:]} (layers, experts), but the model has {shape}")
    return counts


def shares(counts: Ints, unit: int = SHARE) -> Ints:
    """Each expert's share of the tokens of each batch that has any, [batches, experts], in units of 1 / unit."""
    total = counts.sum(axis=-1, keepdims=True)
    counts, total = counts[total[:, 0] > 0], total[total[:, 0] > 0]
    found: Ints = (2 * counts * unit + total) // (2 * total)
    return found


def correlations(share: Ints) -> NDArray[np.float64]:
    """Pearson's correlation of the series of each two experts, [experts, experts]; 0 where one never changes."""
    batches, sums = len(share), share.sum(axis=0)
    product = batches * (share.T @ share) - np.outer(sums, sums)
    spread = np.sqrt(product.diagonal().astype(np.float64))
    scale = np.outer(spread, spread)
    found: NDArray[np.float64] = np.divide(product.astype(np.float64), scale, out=np.zeros_like(scale), where=scale > 0)
    return found


def _placed(counts: Ints, room: Ints, how: str) -> Ints:
    """One layer: experts by falling share, each to the unit with room and the least load; ties to the lower id."""
    load_of = shares(counts).sum(axis=0)
    extra = np.zeros((len(load_of), len(load_of)), np.int64)
    if how != "greedy":
        known = correlations(shares(counts, _COARSE))
        weight = float(SHARE * len(counts))
        if how == "anticorrelation_scaled":
            root = np.sqrt(load_of.astype(np.float64))
            extra = np.rint(0.5 * known * np.outer(root, root)).astype(np.int64)
        else:
            extra = np.rint(0.5 * known * weight).astype(np.int64)
    owner = np.full(len(load_of), -1, np.int64)
    load, left = np.zeros(len(room), np.int64), room.copy()
    for expert in np.argsort(-load_of, kind="stable").tolist():
        there = np.flatnonzero(owner >= 0)
        felt = load.copy()
        np.add.at(felt, owner[there], extra[expert, there])
        able = np.flatnonzero(left)
        unit = able[np.argmin(felt[able])]
        owner[expert] = unit
        load[unit] += load_of[expert]
        left[unit] -= 1
    return owner


def device_shares(visits: Visits, owner: Ints, units: int) -> NDArray[np.float64]:
    """Share of a layer's tokens that each unit gets, step by step: [steps, moe_layers, units]; nan where a layer idles.

    The largest over units is a step's load; the largest of those the Max Load of arXiv 2303.06182, Fig. 14.
    """
    steps, layers, _ = visits.counts.shape
    by_unit = np.zeros((steps, layers, units), np.int64)
    for layer in range(layers):
        for unit in range(units):
            by_unit[:, layer, unit] = visits.counts[:, layer, owner[layer] == unit].sum(axis=1)
    total = by_unit.sum(axis=2, keepdims=True)
    shares: NDArray[np.float64] = np.divide(by_unit, total, out=np.full(by_unit.shape, np.nan), where=total > 0)
    return shares
