"""Forecasts that need no model: guesses of the next MoE layer's routing from what was seen, or from the truth."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from emulation.trace import StepRouting
from emulation.view import PREFILL, Routing, Step
from workloads.routing import oracle

FORECASTS = ("none", "recorded", "frequency", "prefill_frequency", "next_gate", "oracle")
"""`next_gate` needs the model's math (moe.predictors); `oracle` looks at the truth, and says so."""


@dataclass
class Forecaster:
    """Guesses, for each token of a step, the experts of a MoE layer, before that layer runs.

    frequency: the experts seen most often in this layer so far. prefill_frequency: in prefill steps only.
    oracle: the true routing, each place wrong with chance 1 - accuracy. recorded: what the trace carries.
    """

    kind: str
    layers: int
    experts: int
    top_k: int
    accuracy: float = 1.0
    seed: int = 0
    counts: NDArray[np.int64] = field(init=False)
    _keys: NDArray[np.uint64] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros((self.layers, self.experts), np.int64)
        self._keys = oracle.keys(self.seed, self.layers)

    def observe(self, step: Step, moe: int, routing: Routing) -> None:
        """Learn from a layer's true routing."""
        if self.kind == "frequency" or (self.kind == "prefill_frequency" and (step.phase == PREFILL).any()):
            self.counts[moe] += routing.counts(self.experts)

    def guess(self, step: Step, moe: int, recorded: StepRouting | None) -> Routing | None:
        """The guess for MoE layer `moe` (None: no guess)."""
        if self.kind == "none" or moe >= self.layers:
            return None
        if self.kind == "recorded":
            return recorded.guess(moe) if recorded is not None else None
        if self.kind == "oracle":
            return self._oracle(step, moe, recorded) if recorded is not None else None
        if not self.counts[moe].any():
            return None
        top = np.argsort(-self.counts[moe], kind="stable")[:self.top_k]
        experts = np.tile(top, (len(step), 1))
        return Routing(experts, np.full(experts.shape, 1.0 / self.top_k))

    def _oracle(self, step: Step, moe: int, truth: StepRouting) -> Routing:
        routing = truth.layer(moe)
        root, key = int(self._keys[0]), int(self._keys[moe + 1])
        return Routing(oracle.misled(routing.experts, step.sequence, step.position, root, key, self.accuracy,
                                     self.experts), routing.weights)
