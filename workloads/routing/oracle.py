"""Forecasts that are right as often as they are told to be, with a compiled twin that gives the same guesses."""

from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from emulation.view import DROPPED
from workloads.routing import chances, draw
from workloads.routing.draw import LOW, Ints, scaled, token_keys, words

KEYS = 0x0AC1
"""Keeps these words apart from those of other drawings from the same seed."""


def keys(seed: int, layers: int) -> NDArray[np.uint64]:
    """The keys of the oracle's words: the root's, then each layer's."""
    return np.random.SeedSequence(seed, spawn_key=(KEYS,)).generate_state(layers + 1, np.uint64).astype(np.uint64)


def misled(truth: Ints, sequence: Ints, position: Ints, root: int, key: int, accuracy: float, experts: int) -> Ints:
    """True experts [tokens, top_k] with each place wrong with chance 1 - accuracy; empty places stay empty.

    A wrong place names an expert that the token does not visit and that no other place of it names; where there is
    none left, it stays right. The same for the same token, whatever stands beside it.
    """
    guess = np.ascontiguousarray(truth).copy()
    if find_spec("numba"):
        from workloads.routing.compiled_oracle import mislead
        mislead(guess, np.array(sequence, np.int64), np.array(position, np.int64), np.uint64(root), np.uint64(key),
                np.uint64(chances.threshold(accuracy)), experts)
    else:
        mislead_plainly(guess, sequence, position, root, key, chances.threshold(accuracy), experts)
    return guess


def mislead_plainly(guess: Ints, sequence: Ints, position: Ints, root: int, key: int, right: int, experts: int) -> None:
    """The specification, in place. Word j decides place j; from word top_k on, one after another names experts."""
    with np.errstate(over="ignore"):
        state = draw.mix(token_keys(root, sequence, position) + np.uint64(key))
        for row, true in enumerate(guess.tolist()):
            used = [expert for expert in true if expert != DROPPED]
            number = len(true)
            for place, expert in enumerate(true):
                wrong = int((words(state[row:row + 1], place) & LOW)[0]) >= right
                while wrong and expert != DROPPED and len(used) < experts:
                    other = int(scaled(words(state[row:row + 1], number), experts)[0])
                    number += 1
                    if other not in used:
                        used.append(other)
                        guess[row, place] = other
                        break
