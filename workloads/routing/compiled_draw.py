"""The draws of workloads.routing.draw, compiled: the same ids, without the interpreter and without its lock."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from emulation.engine.compiled_cache import drop_stale, kept_in, share
from workloads.routing.chances import Ids
from workloads.routing.draw import COINS, FIRST, GOLDEN, HALF, LOW, PAIRS, QUARTER, SECOND, TRIES, Ints, Source

F = TypeVar("F", bound=Callable[..., Any])
ZERO, NEXT = np.uint64(0), np.uint64(1)
FIRST_COIN, FIRST_PAIR, SIXTEEN = np.uint64(COINS), np.uint64(PAIRS), np.uint64(16)
S27, S30, S31 = np.uint64(27), np.uint64(30), np.uint64(31)


def draw(source: Source, out: Ids, sequence: Ints, position: Ints, group: Ints) -> None:
    """As workloads.routing.draw.draw; other threads run meanwhile."""
    table = source.tables
    _draw(out, sequence, position, group, np.uint64(source.root), source.keys, table.chance, table.order, table.height,
          table.under, table.over, source.members, np.uint64(source.share), source.repeat, source.pair, source.partner)


def kernel(signature: str) -> Callable[[F], F]:
    """Compiled for one signature when its module is first imported, and kept on disk; runs without the lock."""
    def compile_now(function: F) -> F:
        kept = kept_in(function)
        if kept is not None:
            drop_stale(kept, Path(__file__).parent, "*.py")
        compiled = numba.njit(signature, cache=kept is not None, error_model="numpy", nogil=True)(function)
        share(function, kept, compiled)
        return cast(F, compiled)
    return compile_now


@numba.njit(error_model="numpy")
def mix(value: Any) -> Any:
    """As workloads.routing.draw.mix."""
    value = (value ^ (value >> S30)) * FIRST
    value = (value ^ (value >> S27)) * SECOND
    return value ^ (value >> S31)


@numba.njit(error_model="numpy")
def _prefer(own: Any, state: Any, experts: Any) -> None:
    filled, counter = 0, state
    while filled < len(own):
        counter += GOLDEN
        expert = ((mix(counter) >> HALF) * experts) >> HALF
        fresh = True
        for i in range(filled):
            if own[i] == expert:
                fresh = False
        if fresh:
            own[filled] = expert
            filled += 1


@numba.njit(error_model="numpy")
def _go_back(states: Any, waits: Any, sequence_key: Any, position: Any, key: Any, repeat: Any) -> None:
    waiting = len(states)
    waits[:] = True
    while waiting > 0:
        state = mix(mix(sequence_key + np.uint64(position) * GOLDEN) + key)
        word = ZERO
        for place in range(len(states)):
            if place % 4 == 0:
                word = mix(state + (FIRST_COIN + np.uint64(place // 4) + NEXT) * GOLDEN)
            if waits[place] and (position == 0 or (word & QUARTER) >= repeat):
                states[place] = state
                waits[place] = False
                waiting -= 1
            word >>= SIXTEEN
        position -= 1


@numba.njit(error_model="numpy")
def _from_the_rest(word: Any, own: Any, grouped: Any, share: Any, chance: Any, order: Any, seen: Any,
                   mark: Any) -> Any:
    left = ZERO
    if grouped and (word & LOW) < share:
        for i in range(len(own)):
            if seen[own[i]] != mark:
                left += NEXT
        if left > ZERO:
            index = ((word >> HALF) * left) >> HALF
            for i in range(len(own)):
                if seen[own[i]] != mark:
                    if index == ZERO:
                        return np.int64(own[i])
                    index -= NEXT
    total, first = ZERO, np.int64(-1)
    for i in range(len(order)):
        if seen[order[i]] != mark:
            total += chance[order[i]]
            if first < 0:
                first = np.int64(order[i])
    if total == ZERO:
        return first
    index = mix(word) % total
    for i in range(len(order)):
        if seen[order[i]] != mark:
            if index < chance[order[i]]:
                return np.int64(order[i])
            index -= chance[order[i]]
    return first


@numba.njit(error_model="numpy")
def _plain(out: Any, token_key: Any, key: Any, chance: Any, order: Any, height: Any, under: Any, over: Any, own: Any,
           seen: Any, mark: Any) -> Any:
    """A layer in which nothing repeats, no set is preferred and nobody has a partner; the mark of the last token. Which
    of two experts a column names is no branch: it could not be foreseen."""
    tokens, top_k = out.shape
    experts, stride = np.uint64(len(height)), np.uint64(top_k) * GOLDEN
    for token in range(tokens):
        mark += 1
        first = mix(token_key[token] + key)
        for place in range(top_k):
            first += GOLDEN
            counter, left = first, TRIES
            while True:
                word = mix(counter)
                counter += stride
                fine = (word >> HALF) * experts
                column = fine >> HALF
                other = np.uint64(over[column])
                chosen = np.uint64((fine & LOW) < height[column])
                expert = other ^ ((np.uint64(under[column]) ^ other) & (ZERO - chosen))
                if seen[expert] != mark:
                    break
                left -= 1
                if left == 0:
                    expert = np.uint64(_from_the_rest(mix(counter), own, False, ZERO, chance, order, seen, mark))
                    break
            seen[expert] = mark
            out[token, place] = expert
    return mark


@kernel("void(u2[:,:,::1], i8[::1], i8[::1], i8[::1], u8, u8[::1], u8[:,::1], u2[:,::1], u8[:,::1], u2[:,::1], "
        "u2[:,::1], i8, u8, u8[::1], u8[::1], u2[:,::1])")
def _draw(out: NDArray[Any], sequence: Any, position: Any, group: Any, root: Any, keys: Any, chance: Any, order: Any,
          height: Any, under: Any, over: Any, members: Any, share: Any, repeat: Any, pair: Any, partner: Any) -> None:
    layers, tokens, top_k = out.shape
    experts = np.uint64(chance.shape[1])
    sequence_key, token_key = np.empty(tokens, np.uint64), np.empty(tokens, np.uint64)
    for token in range(tokens):
        sequence_key[token] = mix(root + np.uint64(sequence[token]) * GOLDEN)
        token_key[token] = mix(sequence_key[token] + np.uint64(position[token]) * GOLDEN)
    states, waits = np.empty(top_k, np.uint64), np.empty(top_k, np.bool_)
    seen = np.zeros(chance.shape[1], np.int64)
    own = np.zeros(members, np.uint16)
    mark, stride = 0, np.uint64(top_k) * GOLDEN
    grouped_any = False
    for token in range(tokens):
        grouped_any |= group[token] >= 0
    for layer in range(layers):
        if not grouped_any and repeat[layer] == ZERO and pair[layer] == ZERO:
            mark = _plain(out[layer], token_key, keys[layer], chance[layer], order[layer], height[layer], under[layer],
                          over[layer], own, seen, mark)
            continue
        whose = np.int64(-1)
        for token in range(tokens):
            mark += 1
            state = mix(token_key[token] + keys[layer])
            grouped = group[token] >= 0
            if grouped and group[token] != whose:
                whose = group[token]
                _prefer(own, mix(mix(keys[layer] + np.uint64(whose) * GOLDEN) ^ GOLDEN), experts)
            if repeat[layer] > ZERO:
                _go_back(states, waits, sequence_key[token], position[token], keys[layer], repeat[layer])
            expert = np.int64(-1)
            for place in range(top_k):
                if repeat[layer] > ZERO:
                    state = states[place]
                counter = state + np.uint64(place + 1) * GOLDEN
                former, expert = expert, np.int64(-1)
                if place > 0 and pair[layer] > ZERO:
                    guess = np.int64(partner[layer, former])
                    if (mix(counter + FIRST_PAIR * GOLDEN) & LOW) < pair[layer] and seen[guess] != mark:
                        expert = guess
                for _ in range(TRIES if expert < 0 else 0):
                    word = mix(counter)
                    counter += stride
                    if grouped and (word & LOW) < share:
                        guess = np.int64(own[((word >> HALF) * np.uint64(members)) >> HALF])
                    else:
                        fine = (word >> HALF) * experts
                        column = fine >> HALF
                        guess = np.int64(under[layer, column] if (fine & LOW) < height[layer, column]
                                         else over[layer, column])
                    if seen[guess] != mark:
                        expert = guess
                        break
                if expert < 0:
                    expert = _from_the_rest(mix(counter), own, grouped, share, chance[layer], order[layer], seen, mark)
                seen[expert] = mark
                out[layer, token, place] = expert
