"""Generated workloads: a fixed batch of requests and seeded routing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emulation.errors import ConfigError, unknown
from emulation.model import Model
from emulation.trace import StepRouting, Trace
from emulation.view import DECODE, PREFILL, Step

Ints = NDArray[np.int64]

POPULARITIES = ("balanced", "zipf")


@dataclass(frozen=True)
class Request:
    """One request: tokens in, tokens out, and when it arrives."""

    prompt_tokens: int
    output_tokens: int
    arrival_ps: int = 0


def static_steps(requests: Sequence[Request], homes: Sequence[int] = (0,)) -> Iterator[Step]:
    """All requests as one batch: one prefill step, then a decode step for each further token of the longest."""
    if not requests or any(r.prompt_tokens < 1 or r.output_tokens < 1 for r in requests):
        raise ConfigError("a batch needs at least one request, and each at least one token in and one token out")
    sequence = np.concatenate([np.full(r.prompt_tokens, i) for i, r in enumerate(requests)]).astype(np.int64)
    position = np.concatenate([np.arange(r.prompt_tokens) for r in requests]).astype(np.int64)
    last = np.r_[sequence[1:] != sequence[:-1], True]
    home = np.array(homes, np.int64)
    yield Step(0, sequence, position, np.full(len(sequence), PREFILL, np.int64), home[sequence % len(home)], last)
    for number in range(1, max(r.output_tokens for r in requests)):
        live = np.array([i for i, r in enumerate(requests) if r.output_tokens > number], np.int64)
        at = np.array([requests[i].prompt_tokens + number - 1 for i in live], np.int64)
        yield Step(number, live, at, np.full(len(live), DECODE, np.int64), home[live % len(home)],
                   np.ones(len(live), np.bool_))


def popularities(kind: str, layers: int, experts: int, seed: np.random.SeedSequence,
                 skew: float) -> NDArray[np.float64]:
    """Chance of each expert, [layers, experts]; `zipf` gives rank r the weight r**-skew, ranks drawn by layer."""
    if kind not in POPULARITIES:
        raise ConfigError(unknown("popularity", kind, POPULARITIES))
    if kind == "balanced":
        return np.full((layers, experts), 1.0 / experts)
    weight = np.arange(1, experts + 1, dtype=np.float64) ** -skew
    weight /= weight.sum()
    return np.stack([weight[np.random.default_rng(child).permutation(experts)] for child in seed.spawn(layers)])


class Router:
    """Seeded routing for any step: top_k different experts a token, drawn by popularity (Gumbel top-k)."""

    def __init__(self, model: Model, kind: str, seed: int, skew: float = 1.0) -> None:
        root = np.random.SeedSequence(seed)
        ranks, self._draws = root.spawn(2)
        self._model = model
        chance = popularities(kind, len(model.moe_layers), model.experts, ranks, skew)
        with np.errstate(divide="ignore"):  # a steep skew leaves the last ranks no chance that a float can hold
            self._log_chance = np.log(chance)

    def route(self, step: Step) -> StepRouting:
        """The routing of a step; the same for the same step number, whatever came before."""
        model, tokens = self._model, len(step)
        key = np.random.SeedSequence(self._draws.entropy, spawn_key=(*self._draws.spawn_key, step.number))
        rng = np.random.default_rng(key)
        experts = np.empty((tokens, len(model.moe_layers), model.top_k), np.uint16)
        for moe in range(len(model.moe_layers)):
            score = self._log_chance[moe] + rng.gumbel(size=(tokens, model.experts))
            experts[:, moe] = np.argsort(-score, axis=1, kind="stable")[:, :model.top_k]
        weights = np.full(experts.shape, 1.0 / model.top_k, np.float32)
        return StepRouting(experts, weights)


def synthetic_trace(model: Model, router: Router, steps: Sequence[Step]) -> Trace:
    """Generated routing of steps as a trace."""
    routed = [router.route(step) for step in steps]
    column = {name: np.concatenate([getattr(step, name) for step in steps]).astype(np.int32)
              for name in ("sequence", "position")}
    return Trace(model.name, model.experts, np.array(model.moe_layers, np.uint16),
                 np.concatenate([r.experts for r in routed]), np.concatenate([r.weights for r in routed]),
                 np.concatenate([np.full(len(step), step.number) for step in steps]).astype(np.int32),
                 column["sequence"], column["position"],
                 np.concatenate([step.phase for step in steps]).astype(np.uint8))
