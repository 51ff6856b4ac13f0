"""How often a history names each expert, and whom that puts on the home: by layer, or in one list. Pure functions."""

import numpy as np
from numpy.typing import NDArray

from emulation.errors import ConfigError
from emulation.view import Setting

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

FILL = -1
"""As many experts as the home's memory holds beside the staging slots."""


def visited(setting: Setting) -> Ints:
    """How often the workload's history visits each expert, [moe_layers, experts]; zeros without a history."""
    shape = (len(setting.model.moe_layers), setting.model.experts)
    counts = np.zeros(shape, np.int64) if setting.popularity is None else setting.popularity
    if counts.shape != shape:
        raise ConfigError(f"the history counts {counts.shape} (layers, experts), but the model has {shape}")
    return counts


def most_frequent(setting: Setting, slots: int) -> Ints:
    """The experts of each layer that its history names most often, most frequent first: [moe_layers, slots].

    Ties go to the lower id. Without a history all counts are zero, and every tie is one.
    """
    return np.argsort(-visited(setting), axis=1, kind="stable")[:, :slots]


def copies_of(setting: Setting, chosen: Ints) -> Mask:
    """The chosen experts of each layer as a mask, [moe_layers, experts]."""
    mask = np.zeros((len(setting.model.moe_layers), setting.model.experts), np.bool_)
    np.put_along_axis(mask, chosen, True, axis=1)
    return mask


def room(setting: Setting, home: int, slots: int) -> int:
    """How many whole experts a home holds beside its staging slots."""
    return max(int(setting.budget_bytes[home]) // max(setting.model.expert_bytes, 1) - slots, 0)


def global_list(setting: Setting, home: int, wanted: int, slots: int) -> Mask:
    """The first `wanted` of (layer, expert) by count, no quota a layer: a mask [moe_layers, experts].

    Ties go to the lower layer, then to the lower expert. FILL: what the home holds beside its staging slots. Fiddler
    takes its experts so (arXiv 2402.07033, by DAOP's port of it), and DAOP's on-demand baseline the same ones.
    """
    return first_listed(visited(setting), room(setting, home, slots) if wanted == FILL else wanted)


def first_listed(counts: Ints, most: int, *, without: Mask | None = None) -> Mask:
    """The first so many of (layer, expert) by count, as a mask of counts' shape; those `without` are not listed."""
    mask = np.zeros(counts.shape, np.bool_)
    order = np.argsort(-counts.ravel(), kind="stable")
    if without is not None:
        order = order[~without.ravel()[order]]
    mask.ravel()[order[:most]] = True
    return mask
