"""What the layers of a step are about, on arrays, and which tokens each visit of a device needs."""

from typing import Any, NamedTuple

from numpy.typing import NDArray

from emulation.lowering.compiled_ops import NONE, Ints, inner
from emulation.lowering.compiled_state import Scratch, State
from emulation.lowering.tables import Grid

NO_EXPERT = 65535
BITS = 62
"""Visits that fit into a mask."""


class Layer(NamedTuple):
    """What the layers of a step are about. asked uint16 [layers, tokens, top_k]: what is routed; home [tokens]: the
    place of a token's home among the homes; routed [layers, experts]: tokens of each expert.

    experts, counts: what runs in its layer, as `asked` and `routed`; other arrays than those where a policy may serve
    otherwise. ahead, coming: what ran one layer early, as those. early [layers, experts]: of what ran early, the tokens
    that are served. distinct [layers, 2]: tokens for which anything runs in its layer, and the most experts that serve
    one.
    """

    asked: NDArray[Any]
    experts: NDArray[Any]
    home: Ints
    routed: Grid
    counts: Grid
    ahead: NDArray[Any]
    coming: Grid
    early: Grid
    distinct: Grid


@inner
def count_rows(s: State, w: Scratch, y: Layer, of: NDArray[Any], visits: int, moe: int, homes: int,
               served: int) -> None:
    """The distinct tokens of each home that each visit needs (`rows`), and that leave each home at all (`sent`), by the
    experts `of` tokens [layers, tokens, top_k]. served: tokens for which anything runs here; NONE where nobody counted.
    """
    tokens, top_k, experts = of.shape[1], of.shape[2], y.counts.shape[1]
    for h in range(homes):
        w.sent[h] = 0
        for v in range(visits):
            w.rows[v, h] = 0
    if visits > BITS:
        stamp_rows(s, w, y, of, moe)
        return
    for expert in range(experts):
        mask, on = 0, w.first_on[expert]
        while on != NONE:
            mask |= 1 << w.visit_of[w.on[on]]
            on = w.next_on[on]
        w.ran[expert] = mask
    for h in range(homes):
        w.back[0, h] = 0
        w.here[h] = 0 if w.visit_of[s.homes[h]] == NONE else 1 << w.visit_of[s.homes[h]]
    everywhere = (1 << visits) - 1
    if homes == 1 and served != NONE and all_alike(w, y, moe, everywhere):
        for v in range(visits):
            w.rows[v, 0] = served
        w.sent[0] = 0 if everywhere == w.here[0] else served
        return
    for token in range(tokens):
        h, mask = y.home[token], 0
        for place in range(top_k):
            expert = of[moe, token, place]
            if expert != NO_EXPERT:
                mask |= w.ran[expert]
        if mask == everywhere:
            w.back[0, h] += 1
        else:
            for v in range(visits):
                w.rows[v, h] += mask >> v & 1
        w.sent[h] += (mask & ~w.here[h]) != 0
    for h in range(homes):
        for v in range(visits):
            w.rows[v, h] += w.back[0, h]


@inner
def all_alike(w: Scratch, y: Layer, moe: int, everywhere: int) -> bool:
    """Whether each active expert runs at all visits: every token that visits any is then needed at each."""
    for expert in range(y.counts.shape[1]):  # noqa: SIM110 (kernels have no generators)
        if y.counts[moe, expert] > 0 and w.ran[expert] != everywhere:
            return False
    return True


@inner
def stamp_rows(s: State, w: Scratch, y: Layer, of: NDArray[Any], moe: int) -> None:
    """The same for more visits than a number has bits."""
    for device in range(len(w.stamp)):
        w.stamp[device] = NONE
    for token in range(of.shape[1]):
        h, leaves = y.home[token], False
        for place in range(of.shape[2]):
            expert = of[moe, token, place]
            on = NONE if expert == NO_EXPERT else w.first_on[expert]
            while on != NONE:
                device = w.on[on]
                if w.stamp[device] != token:
                    w.stamp[device] = token
                    w.rows[w.visit_of[device], h] += 1
                    leaves |= device != s.homes[h]
                on = w.next_on[on]
        w.sent[h] += leaves
