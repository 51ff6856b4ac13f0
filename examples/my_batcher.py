"""A batcher outside the repository: the shortest remaining prompt first, answers before prompts.

    workload.serving.batcher: my_batcher.py
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from workloads.batchers.contract import Batch, Queues


@dataclass(frozen=True)
class Batcher:
    """Who runs goes on; of those that wait, the shortest prompts start, at most `starts` a step while there is room."""

    clock: ClassVar[bool] = False  # it never calls queues.clock()
    starts: int = 2

    def batch(self, queues: Queues) -> Batch:
        budget, free = queues.token_budget, queues.free_blocks.copy()
        number, tokens, preempt = [], [], []
        running, waiting = queues.running, queues.waiting
        for i in range(len(running)):  # in order of arrival: where KV memory runs out, the last to come gives way
            take = min(int(running.todo[i]), budget)
            blocks = int(queues.blocks_for(running, np.minimum(running.todo, take))[i])
            if take < 1:
                break
            if blocks > free[running.home[i]]:
                preempt = [int(n) for n in running.number[max(i, 1):]]
                break
            number.append(int(running.number[i]))
            tokens.append(take)
            budget -= take
            free[running.home[i]] -= blocks
        room = queues.max_batch - len(running)
        if not preempt:
            for i in np.argsort(waiting.todo, kind="stable")[:min(room, self.starts)]:
                take = min(int(waiting.todo[i]), budget)
                blocks = int(queues.blocks_for(waiting, waiting.todo)[i])  # all of it fits, or it waits
                if take < 1 or blocks > free[waiting.home[i]]:
                    break
                number.append(int(waiting.number[i]))
                tokens.append(take)
                budget -= take
                free[waiting.home[i]] -= blocks
        return Batch(np.array(number, np.int64), np.array(tokens, np.int64), np.array(preempt, np.int64))
