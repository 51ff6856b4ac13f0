"""Routing, recorded while a model answers: what `replay` and `compare` run on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from emulation.errors import InputError
from emulation.trace import NO_EXPERT, Trace
from moe.generate import Generation, Sampling, generate
from moe.hook import ExpertHook, ExpertRunner
from moe.predictors import next_gate

Array = np.ndarray[Any, np.dtype[Any]]


class Recorder:
    """A runner that notes each layer's routing and the forecast for the next, and lets another runner compute."""

    def __init__(self, hook: ExpertHook, runner: ExpertRunner, *, forecast: bool = True) -> None:
        self.hook, self.runner, self.forecast = hook, runner, forecast
        self._routing: dict[int, list[tuple[Array, Array]]] = {layer: [] for layer in hook.layers}
        self._guesses: dict[int, list[Array]] = {layer: [] for layer in hook.layers}
        self._tokens: list[tuple[int, int, int, int]] = []

    def on_step(self, step: int, phase: int, rows: list[tuple[int, int]]) -> None:
        """Note which tokens the coming forward pass holds."""
        self._tokens += [(step, sequence, position, phase) for sequence, position in rows]

    def __call__(self, layer: int, hidden: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        self._routing[layer].append((_ids(experts), weights.to(torch.float32).numpy().copy()))
        guess = next_gate(self.hook, layer, hidden) if self.forecast else None
        if guess is not None:
            later = self.hook.layers[self.hook.layers.index(layer) + 1]
            self._guesses[later].append(_ids(guess))
        return self.runner(layer, hidden, experts, weights)

    def trace(self, model: str, num_experts: int) -> Trace:
        """Everything noted so far."""
        count = len(self._tokens)
        experts = [np.concatenate([ids for ids, _ in calls] or [_nothing()]) for calls in self._routing.values()]
        if count == 0 or any(len(layer) != count for layer in experts):
            seen = [len(layer) for layer in experts]
            raise InputError(f"the recorder saw {count} tokens but the routing of {seen}, layer by layer")
        weights = [np.concatenate([values for _, values in calls]) for calls in self._routing.values()]
        none = np.full_like(experts[0], NO_EXPERT)
        guesses = [np.concatenate(calls) if calls else none for calls in self._guesses.values()]
        step, sequence, position, phase = np.array(self._tokens, dtype=np.int32).T
        return Trace(
            model,
            num_experts,
            np.array(self.hook.layers, dtype=np.uint16),
            np.stack(experts, axis=1),
            np.stack(weights, axis=1),
            step,
            sequence,
            position,
            phase.astype(np.uint8),
            np.stack(guesses, axis=1),
        )


def record(
    hook: ExpertHook,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int | Sequence[int],
    *,
    model: str,
    num_experts: int,
    eos: Sequence[int] = (),
    sampling: Sampling | None = None,
    forecast: bool = True,
) -> tuple[Generation, Trace]:
    """Answer the prompts with an attached hook and its runner, and give the text together with its routing."""
    recorder = Recorder(hook, hook.runner, forecast=forecast)
    hook.runner = recorder
    try:
        answer = generate(
            hook.model, prompts, max_new_tokens, hook=hook, eos=eos, sampling=sampling, on_step=recorder.on_step
        )
    finally:
        hook.runner = recorder.runner
    return answer, recorder.trace(model, num_experts)


def _ids(experts: torch.Tensor) -> Array:
    return experts.numpy().astype(np.uint16)


def _nothing() -> Array:
    return np.empty((0, 0), dtype=np.uint16)
