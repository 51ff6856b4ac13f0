"""What several batchers ask: who gets how many tokens of a budget, and whose cache fits. Pure, without loops."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workloads.batchers.contract import Batch, Queues

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


def granted(wanted: Ints, budget: int) -> Ints:
    """Tokens for each in order, until the budget is used up; the last may get a part."""
    before = np.cumsum(wanted) - wanted
    got: Ints = np.clip(budget - before, 0, wanted)
    return got


def along(home: Ints, amount: Ints, homes: int) -> Ints:
    """Running sums of an amount over those of the same home, in order."""
    if homes == 1:
        sums: Ints = np.cumsum(amount)
        return sums
    table = np.zeros((homes, len(home)), np.int64)
    rows = np.arange(len(home))
    table[home, rows] = amount
    of_home: Ints = np.cumsum(table, axis=1)[home, rows]
    return of_home


class Kept(NamedTuple):
    """Which running requests stay and which are pre-empted (masks), and the blocks that are then free [homes]."""

    stay: Mask
    lost: Mask
    free: Ints


def keep(queues: Queues, tokens: Ints) -> Kept:
    """The running requests, first come first, whose caches fit with so many tokens more; the last to come are lost.

    Only a home that runs out of blocks loses any. Where all fit, nobody is lost.
    """
    running, free = queues.running, queues.free_blocks
    more = queues.blocks_for(running, tokens)
    homes = len(free)
    wanted = np.bincount(running.home, more, homes).astype(np.int64)
    if (wanted <= free).all():
        return Kept(np.ones(len(running), np.bool_), np.zeros(len(running), np.bool_), free - wanted)
    room = free + np.bincount(running.home, running.blocks, homes).astype(np.int64)
    taken = along(running.home, running.blocks + more, homes)
    stay = (taken <= room[running.home]) | (wanted <= free)[running.home]
    left = room - np.bincount(running.home[stay], (running.blocks + more)[stay], homes).astype(np.int64)
    return Kept(stay, ~stay, left)


def admitted(queues: Queues, free: Ints, running: int) -> Ints:
    """How many of the waiting may start: places of those for whom all that they have to compute fits, [n].

    First come, first served on each home: nobody passes one who waits for room on the same home. free [homes]: blocks
    beside this step's. A prompt under way has used up the budget, so that nobody starts in the room that it needs.
    """
    waiting = queues.waiting
    most = max(queues.max_batch - running, 0)
    if not most or not len(waiting):
        return np.zeros(0, np.int64)
    need = along(waiting.home, queues.blocks_for(waiting, waiting.todo), len(free))
    places: Ints = np.flatnonzero(need <= free[waiting.home])[:most]
    return places


def steps_of(queues: Queues, *turns: Mask) -> Batch:
    """Running requests turn by turn, each turn in order of arrival, then waiting ones, until the budget is used up.

    turns [running]: disjoint; who is in none gets nothing. Where KV runs out, the last to come are pre-empted, and
    nobody starts.
    """
    running, waiting, budget = queues.running, queues.waiting, queues.token_budget
    tokens = np.zeros(len(running), np.int64)
    for turn in turns:
        tokens[turn] = granted(running.todo[turn], budget - int(tokens.sum()))
    stay, lost, free = keep(queues, tokens)
    places = started = waiting.number[:0]
    if not lost.any():
        places = admitted(queues, free, len(running))
        started = granted(waiting.todo[places], budget - int(tokens.sum()))
    return batch_of(queues, stay, tokens, places, started)


def answers(queues: Queues) -> Batch:
    """A step of decodes only; nobody starts."""
    tokens = np.zeros(len(queues.running), np.int64)
    decoding = queues.running.decoding
    tokens[decoding] = granted(queues.running.todo[decoding], queues.token_budget)
    none = queues.waiting.number[:0]
    return batch_of(queues, keep(queues, tokens).stay, tokens, none, none)


def batch_of(queues: Queues, stay: Mask, tokens: Ints, places: Ints, started: Ints) -> Batch:
    """The running requests that stay, with their tokens, and the waiting ones at these places; who gets none is left
    out."""
    number = np.concatenate([queues.running.number[stay], queues.waiting.number[places]])
    both = np.concatenate([tokens[stay], started])
    return Batch(number[both > 0], both[both > 0], queues.running.number[~stay])
