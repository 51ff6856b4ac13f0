"""Which experts the prompts in hand visit most: counts, and the choice that follows from them. Pure functions."""

import numpy as np
from numpy.typing import NDArray

from emulation.plan import NOBODY
from emulation.view import PREFILL, View

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
NONE: Ints = np.empty(0, np.int64)
NONE.flags.writeable = False


def counted(view: View, counts: Ints, decoded: bool, *, running: bool) -> tuple[Ints, bool]:
    """A layer's new counts [experts], and whether a decode has been seen since its last prefill.

    Only prompt tokens count, or, running, all. Counts begin anew with a prefill behind a decode.
    """
    prefill = view.step.phase == PREFILL
    asked = bool(prefill.any())
    if not asked and not running:
        return counts, True
    experts = len(counts)
    if running or prefill.all():
        new = view.routing.counts(experts)
    else:
        seen = view.routing.experts[prefill]
        new = np.bincount(seen[seen >= 0], minlength=experts).astype(np.int64)
    return (new if asked and decoded else counts + new), not asked


def most_visited(counts: Ints, cap: int, held: Mask | None = None) -> Mask:
    """The `cap` highest counts that are not zero, as a mask [experts]; ties: what is held, then the lower id."""
    mask = np.zeros(len(counts), np.bool_)
    order = np.argsort(-counts, kind="stable") if held is None else np.lexsort((~held, -counts))
    mask[order[:cap]] = True
    return mask & (counts > 0)


def caps(layers: int, experts: int, fits: int, wanted: int) -> Ints:
    """How many experts each layer keeps, [layers]: `wanted` (below 0: all that fit), but together what fits."""
    each = fits // layers + (np.arange(layers) < fits % layers)
    kept: Ints = np.minimum(each, experts if wanted < 0 else wanted)
    return kept


def exchanged(counts: Ints, held: Mask, target: Mask, cap: int) -> tuple[Ints, Ints]:
    """(experts that come, most visited first; what each goes over, NOBODY into room that is left, [experts])."""
    coming, leaving = np.flatnonzero(target & ~held), np.flatnonzero(held & ~target)
    coming = coming[np.argsort(-counts[coming], kind="stable")]
    leaving = leaving[np.argsort(counts[leaving], kind="stable")]
    free = cap - int(held.sum())
    over = np.concatenate([np.full(max(free, 0), NOBODY), leaving])
    return coming, over[:len(coming)]
