"""`token_buffering`: experts with few tokens are not worth a load; their tokens wait for the next step (FSE-DP)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from emulation.errors import ConfigError
from emulation.view import DROPPED
from workloads.batchers import fcfs
from workloads.batchers._fill import Mask
from workloads.batchers.contract import AtLayer, Batch, Queues


@dataclass(frozen=True)
class Batcher:
    """Token buffering with slackness (arXiv 2603.27624): in each layer experts are taken in the order of (tokens, id)
    while their tokens together are at most `slackness` percent of the layer's, one at least; the first that would
    exceed it ends the search. Their pairs are held back and join those of the next step.

    A sequence that is held back waits in that layer with all its tokens, so that what comes out is exact, and its wait
    is part of its latency. A pair is held back once. 0: nothing is held back. new_tokens: of those that were not held
    back a step computes so many at most (0: what the budget leaves), as the simulator adds its pool to a whole pass.
    """

    slackness: int = 10
    new_tokens: int = 0
    clock: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.slackness <= 100:
            raise ConfigError(f"token_buffering: slackness is {self.slackness}; it is 0 to 100 (percent)")

    def batch(self, queues: Queues) -> Batch:
        back, spent = queues.parked.number, int(queues.parked.todo.sum())
        budget = queues.token_budget - spent
        budget = min(budget, self.new_tokens) if self.new_tokens else budget
        rest = replace(queues, max_batch=queues.max_batch - len(back), token_budget=budget)
        return replace(fcfs.Batcher().batch(rest), resume=back)

    def park(self, layer: AtLayer) -> Mask:
        due = layer.experts != DROPPED
        tokens = int(due.any(axis=1).sum())
        if not self.slackness or not tokens:
            return np.zeros_like(due)
        count = np.bincount(layer.experts[due])
        order = np.argsort(count, kind="stable")
        order = order[count[order] > 0]
        cold = order[np.cumsum(count[order]) <= max(1, round(tokens * self.slackness / 100))]
        held: Mask = np.isin(layer.experts, cold) & ~layer.back[:, None] & due
        return held
