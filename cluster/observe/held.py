"""Positions that are cached on each device, step by step."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cluster.observe.journal import Journal
from emulation.model import Model
from emulation.view import Step

Ints = NDArray[np.int64]
Puts = tuple[int, Step, Ints]
"""A step's place among all, the step, and the last position that each of its tokens puts into a cache."""


def puts(journal: Journal) -> tuple[list[Puts], list[Puts]]:
    """What the steps of static batches put into caches: of the decoder's own positions, and of an encoder's output."""
    steps = list(enumerate(activity.step for activity in journal.activities))
    return ([(i, step, step.position) for i, step in steps if not step.encoder],
            [(i, step, step.source - 1) for i, step in steps if step.source is not None])


def kv_held(put: Sequence[Puts], devices: int, steps: int) -> Ints:
    """Positions cached on each device in each step, [devices, steps]; a sequence keeps its own until its last step."""
    held = np.zeros((devices, steps + 1), np.int64)
    if put:
        number = np.repeat([i for i, *_ in put], [len(step) for _, step, _ in put])
        sequence, home = (np.concatenate([getattr(step, key) for _, step, _ in put]) for key in ("sequence", "home"))
        position = np.concatenate([positions for *_, positions in put])
        order = np.lexsort((number, sequence))
        number, sequence, position, home = (column[order] for column in (number, sequence, position, home))
        names, first = np.unique(sequence, return_index=True)
        # kept so far: the running maximum within a sequence, by lifting each sequence above the one before
        lift = np.repeat(np.arange(len(names)) * (int(position.max()) + 1), np.diff(np.r_[first, len(sequence)]))
        kept = np.maximum.accumulate(position + lift) - lift + 1
        grown = np.diff(kept, prepend=0)
        grown[first] = kept[first]
        np.add.at(held, (home, number), grown)
        last = np.r_[first[1:], len(sequence)] - 1
        np.subtract.at(held, (home[last], number[last] + 1), kept[last])
    out: Ints = held.cumsum(axis=1)[:, :steps]
    return out


def caches(journal: Journal, model: Model, devices: int) -> Ints:
    """Bytes of the caches on each device in each step of static batches, [devices, steps]."""
    decoded, sources = puts(journal)
    steps = len(journal.activities)
    return (kv_held(decoded, devices, steps) * model.kv_bytes_per_token
            + kv_held(sources, devices, steps) * model.source_bytes_per_token)


def kv_peaks(put: Sequence[Puts], devices: int, steps: int) -> Ints:
    """Most positions cached at once on each device."""
    peaks: Ints = kv_held(put, devices, steps).max(axis=1, initial=0)
    return peaks
