"""Experts fixed on the home by how often a history names them, all layers in one list. Pure functions."""

import numpy as np
from numpy.typing import NDArray

from emulation.view import Setting
from schedulers._places import most_frequent

FILL = -1
"""As many experts as the home's memory holds beside the staging slots."""


def expert_bytes(setting: Setting) -> int:
    """One whole expert's weights."""
    return setting.model.expert_work(setting.model.d_ff).weight_bytes


def room(setting: Setting, home: int, slots: int) -> int:
    """How many whole experts a home holds beside its staging slots."""
    return max(int(setting.budget_bytes[home]) // max(expert_bytes(setting), 1) - slots, 0)


def global_list(setting: Setting, home: int, wanted: int, slots: int) -> NDArray[np.bool_]:
    """The first `wanted` of (layer, expert) by count, no quota a layer: a mask [moe_layers, experts].

    Ties go to the lower layer, then to the lower expert. FILL: what the home holds beside its staging slots. Fiddler
    takes its experts so (arXiv 2402.07033, by DAOP's port of it), and DAOP's on-demand baseline the same ones.
    """
    layers, experts = len(setting.model.moe_layers), setting.model.experts
    fits = room(setting, home, slots) if wanted == FILL else wanted
    most_frequent(setting, 0)  # refuses a history of another shape
    counts = np.zeros((layers, experts), np.int64) if setting.popularity is None else setting.popularity
    mask = np.zeros(layers * experts, np.bool_)
    mask[np.argsort(-counts.ravel(), kind="stable")[:fits]] = True
    return mask.reshape(layers, experts)
