"""Continuous batching of requests that come and go while it runs: a table that stays small however long it does."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from emulation.errors import ConfigError, PlanError
from emulation.view import Step
from workloads.batchers.contract import Batcher
from workloads.requests import NO_PREFIX, Requests
from workloads.serving import DONE, WAITING, Clock, Serving

Ints = NDArray[np.int64]


class LiveServing(Serving):
    """Requests are added and cancelled between steps; numbers count them, from 0 on, and steps name them so.

    Each open request has a row of the table. Rows of those that are done are given up when the table is full, so that
    it holds twice as many rows as requests may be open (max_open). Prefixes are not shared, and nobody parks.
    """

    def __init__(self, batcher: Batcher, homes: tuple[int, ...], *, max_open: int, max_batch: int, token_budget: int,
                 block_tokens: int, capacity_blocks: Ints) -> None:
        rows = 2 * max_open
        arrival, prompt, output, prefix_tokens = (np.zeros(rows, np.int64) for _ in range(4))
        table = Requests(arrival, prompt, output, np.full(rows, NO_PREFIX, np.int64), prefix_tokens)
        super().__init__(table, batcher, homes, max_batch=max_batch, token_budget=token_budget,
                         block_tokens=block_tokens, capacity_blocks=capacity_blocks)
        if self.parking is not None:
            raise ConfigError("the batcher parks sequences within a step, which live requests cannot be: choose "
                              "another for workload.serving.batcher")
        self.max_open = max_open
        self._state[:] = DONE
        self._name = np.zeros(rows, np.int64)
        self._used = self.added = self.preempted = 0

    @property
    def open(self) -> int:
        """Requests that are waiting or running."""
        return len(self._waiting) + len(self._running)

    @property
    def running(self) -> int:
        """Requests that hold a cache."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests that hold none: new, or pre-empted."""
        return len(self._waiting)

    @property
    def used_blocks(self) -> int:
        """KV blocks that are held, on all homes together."""
        return int(self.cache.private.sum())

    def most_tokens(self) -> int:
        """Positions that one request can have in the cache of any home."""
        return int(self.cache.capacity.min()) * self.block_tokens

    def add(self, arrival_ps: int, prompt_tokens: int, output_tokens: int) -> int:
        """A request that has come; its number."""
        if self.open >= self.max_open:
            raise ValueError(f"{self.max_open} requests are open already")
        if prompt_tokens + output_tokens - 1 > self.most_tokens():
            raise ConfigError(f"a request of {prompt_tokens} tokens in and {output_tokens} out needs more than the "
                              f"{self.most_tokens()} positions that the KV cache of a home holds")
        if self._used == len(self._name):
            self._forget()
        row, number = self._used, self.added
        self._used, self.added = row + 1, number + 1
        of = self.requests
        of.arrival_ps[row], of.prompt_tokens[row], of.output_tokens[row] = arrival_ps, prompt_tokens, output_tokens
        self._redo[row], self._name[row], self._home[row] = prompt_tokens, number, number % len(self._device)
        for column in (self.cached, self.emitted, self.preemptions):
            column[row] = 0
        self._state[row] = WAITING
        self._waiting = np.append(self._waiting, row)
        return number

    def cancel(self, number: int) -> bool:
        """Give up a request and what it holds, at once; False if it is not open any more."""
        row = int(np.searchsorted(self._name[:self._used], number))
        if row == self._used or self._name[row] != number or self._state[row] == DONE:
            return False
        rows = np.array([row])
        self.cache.leave(rows, done=True)
        self._move(rows, DONE)
        self.done += 1
        return True

    def next(self, clock: Clock) -> tuple[Step, int] | None:
        """The next step, and an instant before which it cannot start; None while nobody is there."""
        if not self.open:
            return None
        batch = self._ask(clock)
        if not len(batch.number):
            raise PlanError(f"the batcher runs nothing in step {self.steps}, while {self.running} requests run and "
                            f"{self.waiting} wait")
        return self._carry_out(batch)

    def _preempt(self, number: Ints) -> None:
        self.preempted += len(number)
        super()._preempt(number)

    def _step(self, number: Ints, tokens: Ints, first: Ints) -> Step:
        step = super()._step(number, tokens, first)
        return replace(step, sequence=self._name[step.sequence])

    def _forget(self) -> None:
        """Give up the rows of requests that are done; the others keep their order."""
        kept = np.flatnonzero(self._state[:self._used] != DONE)
        of = self.requests
        for column in (of.arrival_ps, of.prompt_tokens, of.output_tokens, self.cached, self.emitted, self.preemptions,
                       self._redo, self._state, self._name, self._home, self._after, self._ended, self.cache.blocks):
            column[:len(kept)] = column[kept]
            column[len(kept):] = 0
        self._state[len(kept):] = DONE
        self._waiting, self._running = (np.searchsorted(kept, rows) for rows in (self._waiting, self._running))
        self._used = len(kept)
