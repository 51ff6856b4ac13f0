"""A generator fitted to recorded routing: its parameters are moved until what it generates has the trace's statistics.

The generator draws the same steps as the trace has, so that what chance adds to a statistic is in both. In turn, until
they hold together: the chances of the ranks (against the loads, sorted), the share of a sequence's own experts, one set
for both phases or one for each (against the similarity of prefill and decode), the chance to repeat (against what
consecutive tokens share), the chance to take a partner (against how often pairs come together).
"""

import dataclasses
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emulation.errors import InputError
from emulation.trace import NO_EXPERT, Trace
from emulation.view import Step
from workloads.routing.chances import apportioned
from workloads.routing.kinds import LONGEST_MEMORY, Fitted, FittedLayer
from workloads.routing.router import source, working_draw
from workloads.statistics import chances, coactivation_lift, inclusion, prefill_decode_similarity, shared_with_last

Floats = NDArray[np.float64]
Measure = Callable[[Trace], Floats]

MOST_TOKENS = 8192
"""Tokens of the trace that are fitted to: enough that chance moves its statistics by less than a hundredth or so."""
ROUNDS, HALVINGS = 2, 6
DRAWS = 4
"""Traces that a similarity is the mean of: it varies with the sequences, of which there may be few."""
OWN_PART = 8
"""A sequence's own set is an eighth of the experts, or as many as a token visits where that is more."""


@dataclasses.dataclass
class _Parameters:
    """What is moved: chances [layers, experts], repeat and pair [layers], share, and whose the preferred sets are."""

    chances: Floats
    repeat: Floats
    pair: Floats
    share: float
    experts: int
    by_phase: bool = False

    def kind(self) -> Fitted:
        rows = zip(self.chances.tolist(), self.repeat.tolist(), self.pair.tolist(), strict=True)
        return Fitted(experts=self.experts, share=round(self.share, 6), by_phase=self.by_phase, layers=tuple(
            FittedLayer(ranks=tuple(apportioned([Decimal(chance) for chance in ranks])), repeat=round(repeat, 6),
                        pair=round(pair, 6)) for ranks, repeat, pair in rows))


def fit(trace: Trace, seed: int = 0) -> Fitted:
    """The generator that is like a trace; the same for the same trace and seed, on one machine."""
    trace = head(trace)
    layers, experts = len(trace.layer_ids), trace.num_experts
    wanted = inclusion(trace)
    if (wanted.sum(axis=1) == 0).any():
        layer = int(trace.layer_ids[int(np.argmin(wanted.sum(axis=1)))])
        raise InputError(f"no token of the trace visits an expert of layer {layer}: there is nothing to be fitted to")
    own = min(experts, max(trace.top_k, experts // OWN_PART))
    at = _Parameters(chances(wanted, len(trace.step)), np.zeros(layers), np.zeros(layers), 0.0, own)
    for _ in range(ROUNDS):
        _fit_chances(trace, at, wanted, seed)
        _fit_share(trace, at, seed)
        _fit_chances(trace, at, wanted, seed)
        _halve(trace, at, seed, "repeat", shared_with_last, LONGEST_MEMORY)
        _halve(trace, at, seed, "pair", coactivation_lift, 1.0)
    _fit_chances(trace, at, wanted, seed)
    return at.kind()


def head(trace: Trace, tokens: int = MOST_TOKENS) -> Trace:
    """What is fitted to: the first steps of a trace, until they hold so many tokens; a longer first step is cut."""
    if len(trace.step) <= tokens:
        return trace
    rows = slice(0, int(np.searchsorted(trace.step, trace.step[tokens])) or tokens)
    kept: dict[str, Any] = {name: column[rows] for name, column in trace.arrays().items() if name != "layer_ids"}
    return dataclasses.replace(trace, **kept)


def generated(trace: Trace, of: Fitted, seed: int) -> Trace:
    """The trace's steps with generated routing; places that no expert filled stay empty."""
    from_ = source(of, len(trace.layer_ids), trace.num_experts, trace.top_k, seed)
    out = np.empty((len(trace.layer_ids), len(trace.step), trace.top_k), np.uint16)
    sequence, position = trace.sequence.astype(np.int64), trace.position.astype(np.int64)
    nothing = np.zeros(len(sequence), np.int64)
    step = Step(0, sequence, position, trace.phase.astype(np.int64), nothing, nothing.astype(np.bool_))
    working_draw()(from_, out, sequence, position, of.groups(from_.root, step))
    experts = np.ascontiguousarray(out.transpose(1, 0, 2))
    experts[trace.experts == NO_EXPERT] = NO_EXPERT
    weights = np.broadcast_to(np.float32(1.0 / trace.top_k), experts.shape)
    return dataclasses.replace(trace, experts=experts, weights=weights, forecast=None, tokens=None)


def _fit_chances(trace: Trace, at: _Parameters, wanted: Floats, seed: int) -> None:
    order = source(at.kind(), len(trace.layer_ids), trace.num_experts, trace.top_k, seed).tables.order.astype(np.int64)
    few = 1.0 / len(trace.step)
    for _ in range(3):
        loads = generated(trace, at.kind(), seed).popularity()
        got = np.take_along_axis(loads, order, axis=1) / len(trace.step)
        at.chances *= ((wanted + few) / (got + few)) ** 0.8
        at.chances /= at.chances.sum(axis=1, keepdims=True)


def _fit_share(trace: Trace, at: _Parameters, seed: int) -> None:
    """One set for both phases of a sequence makes them more alike; one for each makes them less."""
    wanted = prefill_decode_similarity(trace)
    if np.isnan(wanted).all():
        return

    def excess(share: float) -> float:
        at.share = share
        drawn = [prefill_decode_similarity(generated(trace, at.kind(), seed + i)) for i in range(DRAWS)]
        return float(np.nanmean(np.stack(drawn) - wanted))

    at.by_phase = excess(0.0) > 0
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        too_far = (excess(middle) < 0) == at.by_phase
        low, high = (low, middle) if too_far else (middle, high)
    at.share = (low + high) / 2


def _halve(trace: Trace, at: _Parameters, seed: int, name: str, measure: Measure, most: float) -> None:
    """Find one parameter of each layer by halving: what is measured rises with it. Where nothing is, it is 0."""
    wanted = measure(trace)
    low, high = np.zeros(len(wanted)), np.full(len(wanted), most)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        setattr(at, name, middle)
        over = ~(measure(generated(trace, at.kind(), seed)) <= wanted)
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    setattr(at, name, np.where(np.isnan(wanted), 0.0, (low + high) / 2 if name == "repeat" else low))
