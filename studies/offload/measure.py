"""Measuring rows of a reference: an engine under a policy, driven by a trace, step by step."""

import gc
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from studies.offload.body import Maker, Shape
from studies.offload.engine import Chosen
from studies.offload.near import Near
from studies.offload.policies import ENGINES

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Routes:
    """A trace as the engine reads it: by step, by layer, what is routed and what was guessed."""

    steps: list[list[Chosen]]
    guesses: list[list[Chosen]]
    popular: list[list[int]]
    batch: int

    @classmethod
    def of(cls, experts: Ids, forecast: Ids, step: Ids, num_experts: int, device: torch.device) -> "Routes":
        """experts, forecast [tokens, layers, top_k]; step [tokens]. popular: most frequent first, ties to lower ids."""
        count = [np.bincount(experts[:, layer].ravel(), minlength=num_experts) for layer in range(experts.shape[1])]
        popular = [np.argsort(-each, kind="stable").tolist() for each in count]
        numbers = np.unique(step).tolist()
        def steps(ids: Ids) -> list[list[Chosen]]:
            return [[Chosen.of(ids[step == n, layer], device) for layer in range(ids.shape[1])] for n in numbers]
        return cls(steps(experts), steps(forecast), popular, int((step == numbers[0]).sum()))


@dataclass(frozen=True)
class Row:
    """One measured row: the median step after the first `skip` steps, and what was counted over all steps."""

    policy: str
    batch: int
    slots: int
    steps_s: list[float]
    skip_steps: int
    hits: int
    misses: int
    copied_bytes: int
    cpu_experts: int
    substituted: int

    @property
    def step_s(self) -> float:
        """Median step, in seconds."""
        return statistics.median(self.steps_s[self.skip_steps:])


def measure(policy: str, slots: int, shape: Shape, near: Near, make: Maker, far: list[list[Tensor]], routes: Routes,
            skip_steps: int = 8) -> Row:
    """Run all steps of the trace under one policy."""
    engine = ENGINES[policy](shape, near, make, far, routes.batch, slots, routes.popular)
    try:
        gc.collect()
        gc.disable()
        with torch.inference_mode():
            took = [engine.step(chosen, guess) for chosen, guess in zip(routes.steps, routes.guesses, strict=True)]
    finally:
        gc.enable()
        engine.worker.close()
    return Row(policy, routes.batch, slots, took, skip_steps, **asdict(engine.counts))


def randomly(seed: int, device: torch.device, dtype: torch.dtype) -> Maker:
    """A maker of random weights of the size that keeps activations of order one."""
    generator = torch.Generator(device).manual_seed(seed)
    def make(name: str, size: Sequence[int]) -> Tensor:
        scale = 1.0 if name == "x" else float(size[-1]) ** -0.5
        return torch.randn(tuple(size), generator=generator, dtype=dtype, device=device) * scale
    return make


def random_experts(shape: Shape, make: Maker, pinned: bool) -> list[list[Tensor]]:
    """Random experts in host memory, [layers][experts], pinned for copies to a GPU."""
    def expert(name: str) -> Tensor:
        made = make(name, (shape.expert_elements,)) * (shape.expert_elements / shape.d_model) ** 0.5
        host = torch.empty(made.shape, dtype=made.dtype, pin_memory=pinned)
        return host.copy_(made)
    return [[expert(f"{layer}.{e}") for e in range(shape.experts)] for layer in range(shape.layers)]
