"""What `daop` works out from counts and forecasts: its first cache, swaps, what runs beside, who stands in. Pure."""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from emulation.plan import Served
from emulation.view import DROPPED, Routing, View
from schedulers._popular import first_listed

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def seeded(counts: Ints, budget: int, quota: bool) -> Mask:
    """The first cache of so many experts, [moe_layers, experts]; D1.

    quota: floor(budget / layers) of each layer's most frequent, what is left down the list of all layers; without it,
    the first of that list. Ties go to the lower layer, then to the lower id.
    """
    cached = np.zeros(counts.shape, np.bool_)
    if quota:
        most = np.argsort(-counts, axis=1, kind="stable")[:, :budget // len(counts)]
        np.put_along_axis(cached, most, True, axis=1)
    return cached | first_listed(counts, budget - int(cached.sum()), without=cached)


def swaps(counts: Ints, held: Mask, above: Fraction) -> list[tuple[int, int]]:
    """(hot, cold) experts of a layer to be swapped, [experts] counts and who is held; D2.2 and D2.3.

    The hottest that is not held with the coldest that is, the next with the next, for half the experts of a layer at
    most, while the hot one has more than `above` times the tokens of the cold one. Ties go to the lower id.
    """
    experts = np.arange(len(counts))
    most = len(counts) // 2
    hot = experts[~held][np.argsort(-counts[~held], kind="stable")][:most].tolist()
    cold = experts[held][np.argsort(counts[held], kind="stable")][:most].tolist()
    return [(h, c) for h, c in zip(hot, cold, strict=False) if int(counts[h]) > above * int(counts[c])]


def beside(view: View, home: int, experts: Ints, counts: Ints) -> Mask:
    """Which absent experts run where they rest, [experts given]: those for whose tokens, one by one, that takes less
    than one copy (D2.5)."""
    rest, costs = view.ledger.start.rest[view.moe, experts, 0].tolist(), view.costs
    return np.array([int(counts[e]) * costs.run_ps(d, 1) < costs.load_ps(d, home)
                     for e, d in zip(experts.tolist(), rest, strict=True)], np.bool_)


def degraded(guess: Routing, held: Mask, seen: Ints) -> tuple[Ints, Floats]:
    """The guess as it will be served, experts and weights [tokens, top_k]; held, seen [experts]; D3.3.

    Where none of several guessed experts is held and any other is, the weakest gives way (of equals the last) to the
    held expert with the highest probability, and the weights are the raw probabilities, scaled to what they added to.
    A guess without probabilities puts the held expert there that was `seen` most often, with the weight of the other.
    """
    experts = guess.experts.copy()
    weights = guess.weights if guess.probabilities is None else guess.weights.copy()
    here, strength, often = [*held.tolist(), False], weights.tolist(), None  # DROPPED is the last
    for token, named in enumerate(experts.tolist()) if any(here) else ():
        if any(map(here.__getitem__, named)):
            continue
        places = [place for place, expert in enumerate(named) if expert != DROPPED]
        if len(places) < 2:
            continue
        weakest = min(reversed(places), key=strength[token].__getitem__)
        if guess.probabilities is None:
            often = int(((seen + 1) * held).argmax()) if often is None else often
            experts[token, weakest] = often
            continue
        chances = guess.probabilities[token]
        experts[token, weakest] = np.argmax(np.where(held, chances, -1))
        raw = chances[experts[token, places]]
        weights[token, places] = raw / raw.sum() * weights[token, places].sum()
    return experts, weights


def absent(experts: Ints, held: Mask) -> dict[int, list[int]]:
    """The tokens of each expert that is not held, first come first listed; experts [tokens, top_k], held [experts]."""
    here, tokens = [*held.tolist(), True], dict[int, list[int]]()  # DROPPED is the last
    for token, named in enumerate(experts.tolist()):
        for expert in named:
            if not here[expert] and (mine := tokens.setdefault(expert, []))[-1:] != [token]:
                mine.append(token)
    return tokens


def serving(view: View, experts: Ints, weights: Floats) -> Served:
    """What was guessed for this layer, [tokens, top_k], in the place of what is routed; D3.5.

    A guessed expert that is routed stands for itself, the others for the routed ones that were not guessed, in order;
    what is left of the guess is not served, what is left of the routing is dropped.
    """
    routed, early = view.routing.experts, view.early
    stands_for, kept = experts.copy(), experts != DROPPED
    wrong = np.flatnonzero((experts != routed).any(axis=1))
    for token, guessed, true in zip(wrong.tolist(), experts[wrong].tolist(), routed[wrong].tolist(), strict=True):
        free = [r for r in true if r not in guessed and r != DROPPED]
        for place, expert in enumerate(guessed):
            if expert not in true and free and expert != DROPPED:
                stands_for[token, place] = free.pop(0)
            elif expert not in true:
                kept[token, place] = False
    token_, served = kept.nonzero()[0], experts[kept]
    fed = np.empty((len(experts), view.setting.model.experts), np.int64)
    fed.fill(view.layer)
    fed[early.token, early.expert] = early.input_layer
    return Served(token_, served, weights[kept], fed[token_, served], stands_for[kept])
