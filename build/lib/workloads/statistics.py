"""What is told of a trace: how skewed, how local and how alike its routing is."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from emulation.trace import NO_EXPERT, Trace
from emulation.units import PS_PER_S
from emulation.view import DECODE, PREFILL

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
LARGEST_TABLE = 1 << 24


def info(trace: Trace) -> dict[str, object]:
    """What a trace holds, and the means over its layers of what is measured below (None where there is nothing).

    max_over_mean: load of the busiest expert of a layer over the mean.
    """
    load = trace.popularity()
    ratio = load.max(axis=1) / np.maximum(load.mean(axis=1), 1e-12)
    told: dict[str, object] = {
        "model": trace.model, "tokens": len(trace.step), "steps": len(np.unique(trace.step)),
        "sequences": len(np.unique(trace.sequence)), "prefill_tokens": int((trace.phase == PREFILL).sum()),
        "decode_tokens": int((trace.phase == DECODE).sum()), "moe_layers": len(trace.layer_ids),
        "num_experts": trace.num_experts, "top_k": trace.top_k,
        "dropped": int((trace.experts == NO_EXPERT).sum()),
    }
    if trace.time is not None:
        told["last_arrival_s"] = int(trace.time.max()) / PS_PER_S
    return {
        **told, "max_over_mean": float(ratio.mean()), "max_over_mean_worst_layer": float(ratio.max()),
        "skew": _mean(skew(trace)), "shared_with_last": _mean(shared_with_last(trace)),
        "coactivation_lift": _mean(coactivation_lift(trace)),
        "prefill_decode_similarity": _mean(prefill_decode_similarity(trace)),
        "forecast_hit_rate": _rate(*forecast_hits(trace)),
    }


def by_layer(trace: Trace) -> list[dict[str, float | int | None]]:
    """The same figures of each layer."""
    load = trace.popularity()
    columns = {"max_over_mean": load.max(axis=1) / np.maximum(load.mean(axis=1), 1e-12), "skew": skew(trace),
               "shared_with_last": shared_with_last(trace), "coactivation_lift": coactivation_lift(trace),
               "prefill_decode_similarity": prefill_decode_similarity(trace),
               "forecast_hit_rate": forecast_hit_rate(trace)}
    return [{"layer": layer, **{name: _mean(column[i:i + 1]) for name, column in columns.items()}}
            for i, layer in enumerate(trace.layer_ids.tolist())]


def inclusion(trace: Trace) -> Floats:
    """Share of the tokens that visit each expert of a layer, most visited first, [layers, experts]."""
    return -np.sort(-trace.popularity(), axis=1) / len(trace.step)


def chances(included: Floats, tokens: int) -> Floats:
    """About the chances that, drawn without replacement, include experts so often; they add to one in each layer.

    The clocks argument: expert i rings at a time with rate c_i, the first top_k make the set, and their last ring comes
    at about the same time for all tokens; so the share of tokens that include i is 1 - exp(-t c_i).
    """
    rates = -np.log1p(-np.minimum(included, 1 - 0.5 / tokens))
    sums: Floats = rates.sum(axis=1, keepdims=True)
    return rates / np.where(sums > 0, sums, 1.0)


def skew(trace: Trace) -> Floats:
    """The exponent s of the weights r**-s over ranks r that fits each layer best (greatest likelihood), [layers]."""
    of = chances(inclusion(trace), len(trace.step))
    log_rank = np.log(np.arange(1, trace.num_experts + 1))
    wanted = of @ log_rank
    low, high = np.zeros(len(of)), np.full(len(of), 20.0)
    for _ in range(50):
        middle = (low + high) / 2
        weight = np.exp(-middle[:, None] * log_rank)
        steeper = (weight @ log_rank) / weight.sum(axis=1) > wanted
        low, high = np.where(steeper, middle, low), np.where(steeper, high, middle)
    return low


def shared_with_last(trace: Trace) -> Floats:
    """Share of a token's experts that its sequence's token before also visited, [layers]; top_k / experts by chance."""
    by_sequence = np.lexsort((trace.position, trace.sequence))
    owner = trace.sequence[by_sequence]
    follows = owner[1:] == owner[:-1]
    out = np.full(len(trace.layer_ids), np.nan)
    for layer in range(len(out)) if follows.any() else ():
        ids = trace.experts[by_sequence, layer]
        now, before = ids[1:][follows], ids[:-1][follows]
        met = now != NO_EXPERT
        again = (now[:, :, None] == before[:, None, :]).any(axis=2)
        out[layer] = again[met].mean() if met.any() else np.nan
    return out


def coactivation_lift(trace: Trace) -> Floats:
    """How much likelier two tokens visit one same pair of experts than if places were filled apart, [layers].

    1: no pair is preferred. Chance of a pair: the product of its loads, over all pairs of two different experts.
    """
    top_k, experts = trace.top_k, trace.num_experts
    out = np.full(len(trace.layer_ids), np.nan)
    for layer in range(len(out)) if top_k > 1 else ():
        ids = np.sort(trace.experts[:, layer].astype(np.int64), axis=1)
        codes = np.concatenate([(ids[:, a] * experts + ids[:, b])[ids[:, b] != NO_EXPERT]
                                for a in range(top_k) for b in range(a + 1, top_k)])
        seen = (np.bincount(codes) if experts * experts <= LARGEST_TABLE else
                np.unique(codes, return_counts=True)[1]).astype(np.float64)
        load = np.bincount(ids[ids != NO_EXPERT], minlength=experts).astype(np.float64)
        share = load / max(load.sum(), 1.0)
        squares = (share**2).sum()
        by_chance = 2 * (squares**2 - (share**4).sum()) / max((1 - squares)**2, 1e-300)
        pairs = seen.sum()
        if pairs > 1 and by_chance > 0:
            out[layer] = (seen * (seen - 1)).sum() / (pairs * (pairs - 1)) / by_chance
    return out


def prefill_decode_similarity(trace: Trace) -> Floats:
    """Cosine between a sequence's loads in prefill and in decode, over the sequences that have both, [layers]."""
    _, of = np.unique(trace.sequence, return_inverse=True)
    sequences, experts = int(of.max()) + 1, trace.num_experts
    out = np.full(len(trace.layer_ids), np.nan)
    tokens = np.stack([np.bincount(of[trace.phase == phase], minlength=sequences) for phase in (PREFILL, DECODE)])
    both: NDArray[np.bool_] = np.logical_and(tokens[0] > 0, tokens[1] > 0)
    for layer in range(len(out)) if both.any() else ():
        vector = []
        for phase in (PREFILL, DECODE):
            rows = (trace.phase == phase) & both[of]
            ids = trace.experts[rows, layer].astype(np.int64)
            codes = (of[rows][:, None] * experts + ids)[ids != NO_EXPERT]
            vector.append(np.bincount(codes, minlength=sequences * experts).reshape(sequences, experts)[both])
        lengths = [np.sqrt((loads.astype(np.float64)**2).sum(axis=1)) for loads in vector]
        out[layer] = ((vector[0] * vector[1]).sum(axis=1) / np.maximum(lengths[0] * lengths[1], 1e-12)).mean()
    return out


def forecast_hits(trace: Trace) -> tuple[Ints, Ints]:
    """(visited experts that the forecast named, all of those for whose tokens there was one), each [layers]."""
    hits, guessed = (np.zeros(len(trace.layer_ids), np.int64) for _ in range(2))
    for layer in range(len(trace.layer_ids)) if trace.forecast is not None else ():
        assert trace.forecast is not None
        known = (trace.forecast[:, layer] != NO_EXPERT).any(axis=1)
        now, guess = trace.experts[known, layer], trace.forecast[known, layer]
        met = now != NO_EXPERT
        hits[layer] = (now[:, :, None] == guess[:, None, :]).any(axis=2)[met].sum()
        guessed[layer] = met.sum()
    return hits, guessed


def forecast_hit_rate(trace: Trace) -> Floats:
    """Share of the visited experts that the forecast named, where there was one, [layers]."""
    hits, guessed = forecast_hits(trace)
    return np.where(guessed > 0, hits / np.maximum(guessed, 1), np.nan)


def _rate(hits: Ints, guessed: Ints) -> float | None:
    return int(hits.sum()) / int(guessed.sum()) if guessed.any() else None


def _mean(values: NDArray[Any]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None
