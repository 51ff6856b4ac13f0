"""How experts are drawn: the specification, in numpy. workloads.routing.compiled_draw gives the same ids, faster.

Random words are a function of what they are for, never of what was drawn before: the word of (seed, layer, sequence,
position, number) is the SplitMix64 mix of a counter. So a token has the same experts in whatever step and beside
whatever others it runs, and any part of the routing can be made without the rest.

Place j of a token takes the first of its words whose expert no earlier place has; after TRIES of them it draws from
what is left. That is drawing without replacement: the next place follows the chances of the experts not yet taken.

Locality: a place repeats what it was at the position before with a chance, so its words are those of the last position
at which it did not. Co-activation: with a chance a place takes the partner of the expert before it, where that is free.
"""

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workloads.routing.chances import U64, Ids, Tables

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

TRIES = 16
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST = np.uint64(0xBF58476D1CE4E5B9)
SECOND = np.uint64(0x94D049BB133111EB)
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
COINS, PAIRS = 1 << 40, 1 << 41
"""The first numbers of the words that decide whether a place repeats (four a word), and whether it takes a partner."""
QUARTER = np.uint64(0xFFFF)


@dataclass(frozen=True)
class Source:
    """What routing is drawn from.

    keys [layers]: of the random words. members: size of a preferred set; share: chance (of 2**32) that a word is
    spent on the set of its token's group rather than on all experts. repeat [layers]: chance, of 2**16, that a place
    repeats. pair [layers]: chance, of 2**32, that a place takes the partner, [layers, experts], of the one before.
    """

    root: int
    keys: U64
    tables: Tables
    top_k: int
    repeat: U64
    pair: U64
    partner: Ids
    members: int = 0
    share: int = 0


def mix(value: U64) -> U64:
    """SplitMix64's finaliser: every bit of the outcome depends on every bit of the value."""
    value = (value ^ (value >> np.uint64(30))) * FIRST
    value = (value ^ (value >> np.uint64(27))) * SECOND
    return value ^ (value >> np.uint64(31))


def scaled(word: U64, count: int) -> U64:
    """A number below `count`, from a word's upper half."""
    return ((word >> HALF) * np.uint64(count)) >> HALF


def token_keys(root: int, sequence: Ints, position: Ints) -> U64:
    """The key of each token."""
    return mix(mix(np.uint64(root) + sequence.astype(np.uint64) * GOLDEN) + position.astype(np.uint64) * GOLDEN)


def words(state: U64, number: U64 | int) -> U64:
    """Word `number` of each state."""
    return mix(state + (np.asarray(number, np.uint64) + np.uint64(1)) * GOLDEN)


def shuffled(key: int, count: int) -> Ids:
    """The numbers below `count` in an order that a key determines."""
    with np.errstate(over="ignore"):
        return np.argsort(words(np.full(count, key, np.uint64), np.arange(count, dtype=np.uint64)),
                          kind="stable").astype(np.uint16)


def preferred(source: Source, layer: int, group: Ints) -> NDArray[np.int64]:
    """The set of each group in a layer, [groups, members]: the first different experts that its words name."""
    experts = source.tables.chance.shape[1]
    state = mix(mix(source.keys[layer] + group.astype(np.uint64) * GOLDEN) ^ GOLDEN)
    chosen = np.full((len(group), source.members), -1, np.int64)
    filled, number = np.zeros(len(group), np.int64), 0
    while (open_ := np.flatnonzero(filled < source.members)).size:
        expert = scaled(words(state[open_], number), experts).astype(np.int64)
        fresh = (chosen[open_] != expert[:, None]).all(axis=1)
        rows = open_[fresh]
        chosen[rows, filled[rows]] = expert[fresh]
        filled[rows] += 1
        number += 1
    return chosen


def draw(source: Source, out: Ids, sequence: Ints, position: Ints, group: Ints) -> None:
    """Fill `out` [layers, tokens, top_k]; group [tokens]: whose preferred set a token has, -1 for none."""
    with np.errstate(over="ignore"):
        token = token_keys(source.root, sequence, position)
        for layer in range(len(out)):
            state = np.repeat(mix(token + source.keys[layer])[:, None], source.top_k, axis=1)
            if source.repeat[layer]:
                _go_back(source, layer, state, sequence, position)
            _layer(source, layer, out[layer], state, group)


def _go_back(source: Source, layer: int, state: U64, sequence: Ints, position: Ints) -> None:
    """Give each place, [tokens, top_k], the state of the last position at which it did not repeat."""
    place = np.arange(source.top_k)
    waits, at = np.ones(state.shape, np.bool_), position.copy()
    while waits.any():
        here = mix(token_keys(source.root, sequence, at) + source.keys[layer])[:, None]
        coin = words(here, COINS + (place // 4).astype(np.uint64)) >> (16 * (place % 4)).astype(np.uint64)
        ends = waits & (((coin & QUARTER) >= source.repeat[layer]) | (at == 0)[:, None])
        state[ends] = np.broadcast_to(here, state.shape)[ends]
        waits &= ~ends
        at = np.maximum(at - 1, 0)


def _layer(source: Source, layer: int, out: Ids, state: U64, group: Ints) -> None:
    tokens, top_k = out.shape
    named, of = np.unique(group, return_inverse=True)
    sets = preferred(source, layer, named)[of]
    taken: Bools = np.zeros((tokens, source.tables.chance.shape[1]), np.bool_)
    every = np.arange(tokens)
    for place in range(top_k):
        expert = np.full(tokens, -1, np.int64)
        if place:
            partner = source.partner[layer, out[:, place - 1]]
            taking = ((words(state[:, place], PAIRS + place) & LOW) < source.pair[layer]) & ~taken[every, partner]
            expert[taking] = partner[taking]
        for attempt in range(TRIES):
            open_ = every[expert < 0]
            word = words(state[open_, place], attempt * top_k + place)
            guess = _looked_up(source, layer, word, sets[open_], group[open_] >= 0)
            free = ~taken[open_, guess]
            expert[open_[free]] = guess[free]
        for row in every[expert < 0]:
            word = words(state[row:row + 1, place], TRIES * top_k + place)
            expert[row] = _from_the_rest(source, layer, word, sets[row] if group[row] >= 0 else sets[row, :0],
                                         taken[row])
        taken[every, expert] = True
        out[:, place] = expert


def _looked_up(source: Source, layer: int, word: U64, sets: Ints, grouped: Bools) -> Ints:
    """The expert that each word names: one of the group's set, or one by the layer's chances."""
    table = source.tables
    fine = (word >> HALF) * np.uint64(table.chance.shape[1])
    column = (fine >> HALF).astype(np.int64)
    expert: Ints = np.where((fine & LOW) < table.height[layer, column], table.under[layer, column],
                            table.over[layer, column]).astype(np.int64)
    if source.members:
        own = np.take_along_axis(sets, scaled(word, source.members).astype(np.int64)[:, None], axis=1)[:, 0]
        return np.where(grouped & ((word & LOW) < np.uint64(source.share)), own, expert)
    return expert


def _from_the_rest(source: Source, layer: int, word: U64, own: Ints, taken: Bools) -> int:
    """An expert that is not taken: of the set with chance `share`, while it has one; else by chances, else by rank.

    The remainder of a 64-bit word stands for a number below the rest's chance: off by less than 2**-31 of it.
    """
    own = own[~taken[own]]
    if len(own) and int(word[0] & LOW) < source.share:
        return int(own[int(scaled(word, len(own))[0])])
    ranked = source.tables.order[layer].astype(np.int64)
    rest = ranked[~taken[ranked]]
    ends = np.cumsum(source.tables.chance[layer, rest]).tolist()
    return int(rest[bisect_right(ends, int(mix(word)[0]) % ends[-1])]) if ends[-1] else int(rest[0])
