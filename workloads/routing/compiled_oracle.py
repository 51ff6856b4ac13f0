"""The oracle of workloads.routing.oracle, compiled: the same guesses."""

from typing import Any

import numpy as np

from emulation.view import DROPPED
from workloads.routing.compiled_draw import kernel, mix
from workloads.routing.draw import GOLDEN, HALF, LOW


@kernel("void(i8[:,::1], i8[::1], i8[::1], u8, u8, u8, i8)")
def mislead(guess: Any, sequence: Any, position: Any, root: Any, key: Any, right: Any, experts: Any) -> None:
    """As workloads.routing.oracle.mislead_plainly."""
    tokens, top_k = guess.shape
    seen, count = np.full(experts, -1, np.int64), np.uint64(experts)
    for token in range(tokens):
        state = mix(mix(root + np.uint64(sequence[token]) * GOLDEN) + np.uint64(position[token]) * GOLDEN)
        state = mix(state + key)
        used = 0
        for place in range(top_k):
            if guess[token, place] != DROPPED:
                seen[guess[token, place]] = token
                used += 1
        counter = state + np.uint64(top_k) * GOLDEN
        for place in range(top_k):
            wrong = (mix(state + np.uint64(place + 1) * GOLDEN) & LOW) >= right
            while wrong and guess[token, place] != DROPPED and used < experts:
                counter += GOLDEN
                other = np.int64(((mix(counter) >> HALF) * count) >> HALF)
                if seen[other] != token:
                    seen[other] = token
                    guess[token, place] = other
                    used += 1
                    break
