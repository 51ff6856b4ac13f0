"""`fcfs`: first come, first served, whatever a request computes: prefill and decode share a step."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from workloads.batchers._fill import steps_of
from workloads.batchers.contract import Batch, Queues


@dataclass(frozen=True)
class Batcher:
    """Running requests get tokens in order of arrival, then waiting ones; the last to get any may get a chunk.

    Where KV runs out, the last to come is pre-empted, and nobody starts in that step.
    """

    clock: ClassVar[bool] = False

    def batch(self, queues: Queues) -> Batch:
        return steps_of(queues, np.ones(len(queues.running), np.bool_))
