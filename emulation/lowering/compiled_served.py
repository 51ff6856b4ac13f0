"""The compiled reading of a served routing: `validate`'s checks and sums on arrays; early is one layer early."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from emulation.lowering.compiled_layers import as_layer, as_state
from emulation.lowering.compiled_ops import NONE, Ints, inner, kernel
from emulation.lowering.compiled_state import DROPPED, SUBSTITUTED, SUBSTITUTED_EXPERTS, State
from emulation.lowering.compiled_visits import NO_EXPERT, Layer
from emulation.lowering.tables import Grid

TOKEN, EXPERT, INPUT, ROUTED = range(4)
"""Columns of a served routing, [columns, rows]."""
PAIR_TOKEN, PAIR_EXPERT, IS_EARLY = range(3)
"""Columns of the pairs that it comes to, [columns, pairs]."""

_GRID = np.zeros((1, 1), np.int64)
_REAL = np.zeros(1)


@inner
def ran_early(y: Layer, moe: int, token: int, expert: int) -> bool:
    place, top_k = 0, y.ahead.shape[2]
    while place < top_k and y.ahead[moe, token, place] != expert:
        place += 1
    return bool(place < top_k)


@inner
def place_of(y: Layer, moe: int, token: int, expert: int) -> int:
    """Where a token is routed to an expert."""
    for place in range(y.asked.shape[2]):
        if y.asked[moe, token, place] == expert:
            return place
    return NONE


@inner
def pair_of(pairs: Grid, row_of: Grid, token: int, expert: int, early: int) -> int:
    """Where among a token's pairs this one is, or the first place that is free."""
    place = 0
    while row_of[token, place] != NONE:
        row = row_of[token, place]
        if pairs[PAIR_EXPERT, row] == expert and pairs[IS_EARLY, row] == early:
            return place
        place += 1
    return place


@inner
def run_now(y: Layer, moe: int, token: int, expert: int) -> None:
    place = 0
    while y.experts[moe, token, place] != NO_EXPERT:
        place += 1
    y.experts[moe, token, place] = expert
    y.counts[moe, expert] += 1


@inner
def forget(y: Layer, row_of: Grid, used: Grid, changed: Ints, moe: int) -> None:
    """Begin a layer in which nothing is served yet."""
    for token in range(y.asked.shape[1]):
        for place in range(y.asked.shape[2]):
            y.experts[moe, token, place] = NO_EXPERT
            row_of[token, place] = NONE
            used[token, place] = 0
    for expert in range(y.counts.shape[1]):
        y.counts[moe, expert] = 0
        changed[expert] = 0


@inner
def count_served(s: State, y: Layer, row_of: Grid, changed: Ints, moe: int, phase: int, rows: int) -> None:
    """Sums over what is served."""
    routed = experts = 0
    for expert in range(y.counts.shape[1]):
        routed += y.routed[moe, expert]
        s.phase[phase, SUBSTITUTED] += changed[expert]
        experts += changed[expert] > 0
    s.phase[phase, SUBSTITUTED_EXPERTS] += experts
    s.phase[phase, DROPPED] += routed - rows
    tokens = most = 0
    for token in range(y.asked.shape[1]):
        pairs = 0
        while pairs < y.asked.shape[2] and row_of[token, pairs] != NONE:
            pairs += 1
        most = max(most, pairs)
        tokens += y.experts[moe, token, 0] != NO_EXPERT
    y.distinct[moe, 0], y.distinct[moe, 1] = tokens, most


@kernel(_GRID, _GRID, _GRID, _REAL, _GRID, _REAL, _GRID, _GRID, np.zeros(1, np.int64), 1, 1, 1, 1)
def serve(state: Grid, at: Grid, rows: Grid, weight: NDArray[Any], pairs: Grid, weights: NDArray[Any], row_of: Grid,
          used: Grid, changed: Ints, moe: int, layer: int, before: int, phase: int) -> int:
    """Let a layer serve `rows` [4, rows] with weights [rows] in place of what is routed: pairs [3, rows] in the order
    in which they are first named, with the sums of their weights; how many, NONE where the readable path says more.

    layer, before: this model layer, and the one whose plan may have run experts of this one early. row_of, used
    [tokens, top_k], changed [experts]: scratch. Each row stands for a routed pair, none for the same, so a token has
    top_k pairs at most."""
    s, y = as_state(state), as_layer(at)
    tokens, experts, n = y.asked.shape[1], y.counts.shape[1], 0
    forget(y, row_of, used, changed, moe)
    for i in range(rows.shape[1]):
        token, expert, fed, routed = rows[TOKEN, i], rows[EXPERT, i], rows[INPUT, i], rows[ROUTED, i]
        if token < 0 or token >= tokens or expert < 0 or expert >= experts or routed < 0 or routed >= experts:
            return NONE
        early = 1 if fed != layer else 0
        if early and (fed != before or not ran_early(y, moe, token, expert)):
            return NONE
        place = place_of(y, moe, token, routed)
        if place == NONE or used[token, place]:
            return NONE
        used[token, place] = 1
        changed[routed] += expert != routed
        place = pair_of(pairs, row_of, token, expert, early)
        row = row_of[token, place]
        if row == NONE:
            row_of[token, place] = row = n
            pairs[PAIR_TOKEN, n], pairs[PAIR_EXPERT, n], pairs[IS_EARLY, n] = token, expert, early
            weights[n] = 0.0
            n += 1
            if early:
                y.early[moe, expert] += 1
            else:
                run_now(y, moe, token, expert)
        weights[row] += weight[i]
    count_served(s, y, row_of, changed, moe, phase, rows.shape[1])
    return n
