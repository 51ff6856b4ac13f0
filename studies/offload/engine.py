"""The engine: one Python thread that issues a decode step layer by layer, driven by a routing trace."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from studies.offload.body import Dense, Maker, Shape, ffn
from studies.offload.near import Job, Near, Slot, Worker

Ids = NDArray[np.int64]


@dataclass
class Counts:
    """What happened, summed over all steps and layers."""

    hits: int = 0
    misses: int = 0
    copied_bytes: int = 0
    cpu_experts: int = 0
    substituted: int = 0


@dataclass
class Layer:
    """One layer's dense part, its experts far (flat buffers, host memory) and its slots near."""

    dense: Dense
    far: list[Tensor]
    slots: list[Slot]
    place: dict[int, Slot] = field(default_factory=dict)  # resident expert -> slot, least recently used first


@dataclass(frozen=True)
class Chosen:
    """One layer's routing in one step: expert -> its tokens, in routing order."""

    tokens: dict[int, Tensor]
    near: dict[int, Tensor]
    whole: frozenset[int]

    @classmethod
    def of(cls, experts: Ids, device: torch.device) -> "Chosen":
        """From the trace [tokens, top_k]; the id tensors are made beforehand, on the host and near."""
        lists: dict[int, list[int]] = {}
        for token, row in enumerate(experts.tolist()):
            for expert in row:
                lists.setdefault(expert, []).append(token)
        tokens = {expert: torch.tensor(rows) for expert, rows in lists.items()}
        return cls(tokens, {e: ids.to(device) for e, ids in tokens.items()},
                   frozenset(e for e, rows in lists.items() if len(rows) == len(experts)))


class Engine(ABC):
    """An offloading engine under one policy; `step` runs one decode step for real.

    staged: slots are shared by all layers and empty at the start; else each layer has its own, filled with the most
    popular experts.
    """

    staged: ClassVar[bool] = False

    def __init__(self, shape: Shape, near: Near, make: Maker, far: list[list[Tensor]], batch: int, slots: int,
                 popular: list[list[int]]) -> None:
        """far: [layers][experts] flat buffers. popular: by layer, the most frequent first."""
        self.shape, self.near, self.batch, self.counts = shape, near, batch, Counts()
        dtype, elements = far[0][0].dtype, shape.expert_elements
        self.staging = near.slots(slots, elements, dtype) if self.staged else []
        self.layers = []
        for number in range(shape.layers):
            own = [] if self.staged else near.slots(slots, elements, dtype)
            layer = Layer(Dense(shape, number, batch, make, near.device), far[number], own)
            for slot, expert in zip(own, popular[number][len(own) - 1::-1] if own else [], strict=True):
                slot.flat.copy_(far[number][expert])
                layer.place[expert] = slot  # the least frequent is the first to go
            self.layers.append(layer)
        self.bring: Callable[[Slot, Tensor], None] = near.fetch
        self.hosted: Callable[[Tensor], Tensor] = near.to_host
        self.x0 = make("x", (batch, shape.d_model)).to(near.device)
        self.last = self.x0
        self.worker = Worker()

    def step(self, chosen: list[Chosen], forecast: list[Chosen]) -> float:
        """One decode step. forecast: by layer, what was guessed for it. Seconds that it took."""
        begin = time.perf_counter()
        x = self.x0
        self.forget()
        for number, layer in enumerate(self.layers):
            x = x + layer.dense.attention(x)
            layer.dense.route(x)
            out = torch.zeros_like(x)
            ahead = forecast[number + 1] if number + 1 < len(self.layers) else None
            out = self.experts(number, layer, chosen[number], ahead, x, out)
            x = layer.dense.normed(x + out)
        self.near.finish()
        self.last = x
        return time.perf_counter() - begin

    def forget(self) -> None:
        """What one layer left for the next does not outlive a step."""
        self.early: Job | None = None
        self.guessed: frozenset[int] = frozenset()

    @abstractmethod
    def experts(self, number: int, layer: Layer, chosen: Chosen, ahead: Chosen | None, x: Tensor,
                out: Tensor) -> Tensor:
        """The layer's experts by the policy; ahead: the next layer's forecast. Returns the sum."""

    def compute(self, slot: Slot, expert: int, chosen: Chosen, x: Tensor, out: Tensor) -> None:
        """One expert near: its tokens picked, computed, added; the slot's use noted."""
        self.near.take(slot)
        if expert in chosen.whole:
            out.add_(ffn(slot.flat, self.shape, x), alpha=1 / self.shape.top_k)
        else:
            ids = chosen.near[expert]
            out.index_add_(0, ids, ffn(slot.flat, self.shape, x.index_select(0, ids)), alpha=1 / self.shape.top_k)
        self.near.used(slot)

    def fetch(self, slot: Slot, layer: Layer, expert: int) -> None:
        """Copy one expert into a slot."""
        self.bring(slot, layer.far[expert])
        self.counts.copied_bytes += self.shape.expert_elements * layer.far[expert].element_size()

    def job(self, layer: Layer, experts: list[int], chosen: Chosen, x: Tensor) -> Job:
        """Experts on the worker thread, one after another; x in host memory."""
        self.counts.cpu_experts += len(experts)
        return self.worker.start(lambda: self.sum_far(layer, experts, chosen, x))

    def sum_far(self, layer: Layer, experts: list[int], chosen: Chosen, x: Tensor) -> Tensor:
        """A job: experts where they rest, one after another, on the worker thread."""
        out = torch.zeros_like(x)
        for expert in experts:
            self.compute_far(layer, expert, chosen, x, out)
        return out

    def compute_far(self, layer: Layer, expert: int, chosen: Chosen, x: Tensor, out: Tensor) -> None:
        """One expert where it rests, on the worker thread."""
        ids = chosen.tokens[expert]
        out.index_add_(0, ids, ffn(layer.far[expert], self.shape, x.index_select(0, ids)), alpha=1 / self.shape.top_k)
