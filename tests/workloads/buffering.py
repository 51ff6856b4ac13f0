"""Token buffering as FSE-DP has it (2603.27624): pairs of the least used experts wait for the next step."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from emulation.view import DROPPED
from workloads.batchers import fcfs
from workloads.batchers.contract import AtLayer, Batch, Queues


@dataclass(frozen=True)
class Batcher:
    """Experts in the order of (tokens, id) are left out while their pairs are at most slack_percent of the layer's
    tokens; what was held back goes on in the next step and is not held back again."""

    slack_percent: int = 25
    clock: ClassVar[bool] = False

    def batch(self, queues: Queues) -> Batch:
        back, spent = queues.parked.number, int(queues.parked.todo.sum())
        rest = replace(queues, max_batch=queues.max_batch - len(back), token_budget=queues.token_budget - spent)
        return replace(fcfs.Batcher().batch(rest), resume=back)

    def park(self, layer: AtLayer) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
        due = layer.experts[layer.experts != DROPPED]
        count = np.bincount(due) if len(due) else np.zeros(0, np.int64)
        order = np.argsort(count, kind="stable")
        order = order[count[order] > 0]
        tokens = int((layer.experts != DROPPED).any(axis=1).sum())
        cold = order[np.cumsum(count[order]) <= max(1, round(tokens * self.slack_percent / 100))]
        held: np.ndarray[tuple[int, int], np.dtype[np.bool_]] = np.isin(layer.experts, cold) & ~layer.back[:, None]
        return held & (layer.experts != DROPPED)
