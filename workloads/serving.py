"""Continuous batching: requests through a batcher, step by step. What it returns is checked and kept account of.

Every request has tokens that are known (its prompt, then what was answered) and positions in the cache. A step
computes some of the tokens that are known and not cached; where none is left, the request gets its next token. So a
prompt in chunks, a decode, and the return of a pre-empted request, which computes its prompt and answer anew, are one.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emulation.errors import ConfigError, PlanError
from emulation.view import DECODE, PREFILL, Step
from workloads.batchers.contract import Batch, Batcher, Queues, Sequences
from workloads.cache import Cache
from workloads.requests import Requests

Ints = NDArray[np.int64]
Clock = Callable[[], int]

WAITING, RUNNING, DONE = 0, 1, 2


class Serving:
    """The state of all requests. A request lies on the home of its number modulo their count."""

    def __init__(self, requests: Requests, batcher: Batcher, homes: tuple[int, ...], *, max_batch: int,
                 token_budget: int, block_tokens: int, capacity_blocks: Ints) -> None:
        self.requests, self.batcher = requests, batcher
        self.max_batch, self.token_budget, self.block_tokens = max_batch, token_budget, block_tokens
        count = len(requests)
        self._home = np.arange(count) % len(homes)
        self._device = np.array(homes, np.int64)
        self.cache = Cache(requests, self._home, capacity_blocks, block_tokens)
        _check_fits(requests, self._home, self.cache)
        self.cached, self.emitted, self.preemptions = (np.zeros(count, np.int64) for _ in range(3))
        self._redo = requests.prompt_tokens.copy()
        self._state = np.full(count, WAITING, np.int8)
        self._waiting = self._running = np.zeros(0, np.int64)
        self._came = 0
        self._now_ps = self._idle_ps = 0
        self.steps = self.done = self.recomputed_tokens = 0

    def next(self, clock: Clock) -> tuple[Step, int] | None:
        """The next step, and an instant before which it cannot start: its last arrival. None behind the last step.

        clock: when the step would start. It is called only while requests are still to come, or by the batcher.
        """
        while self.done < len(self.requests):
            self._arrive(clock)
            batch = self._ask(lambda: max(clock(), self._now_ps))
            if len(batch.number):
                return self._carry_out(batch)
            if self._came == len(self.requests):
                raise PlanError(f"the batcher runs nothing in step {self.steps}, while {len(self._running)} requests "
                                f"run, {len(self._waiting)} wait and none is still to come")
            self._now_ps = self._idle_ps = int(self.requests.arrival_ps[self._came])
        return None

    def _arrive(self, clock: Clock) -> None:
        """Let in who has come by the time of the next step; with nobody there, that is when the next one comes."""
        arrival_ps, first = self.requests.arrival_ps, self._came
        self._came = int(np.searchsorted(arrival_ps, self._now_ps, side="right"))
        if self._came < len(arrival_ps):
            self._now_ps = max(self._now_ps, clock())
            if not len(self._running) and not len(self._waiting) and self._came == first:
                self._now_ps = max(self._now_ps, int(arrival_ps[first]))
            self._came = int(np.searchsorted(arrival_ps, self._now_ps, side="right"))
        if self._came > first:
            self._waiting = np.concatenate([self._waiting, np.arange(first, self._came)])

    def _ask(self, clock: Clock) -> Batch:
        waiting = self._waiting[self.cache.eligible(self._waiting)] if self.cache.any_shared else self._waiting
        queues = Queues(self._sequences(waiting, waits=True), self._sequences(self._running, waits=False),
                        self.max_batch, self.token_budget, self.block_tokens, self.cache.free, clock)
        return self._checked(queues, self.batcher.batch(queues))

    def _sequences(self, number: Ints, *, waits: bool) -> Sequences:
        cache, cached = self.cache, self.cached[number]
        if waits:
            cached = np.where(cache.there(number), cache.prefix_blocks(number) * self.block_tokens, 0)
            spared = cache.spared(number)
        else:
            spared = np.where(cache.attached[number], cache.prefix_blocks(number), 0)
        emitted = self.emitted[number]
        todo = self.requests.prompt_tokens[number] + emitted - cached
        columns = (number, self._home[number], self.requests.arrival_ps[number], cached, todo,
                   cached >= self._redo[number], emitted, cache.blocks[number], spared)
        for column in columns:
            column.flags.writeable = False
        return Sequences(*columns)

    def _checked(self, queues: Queues, batch: Any) -> Batch:
        """The batch, if it is one that can be carried out; one sentence if it is not."""
        if not isinstance(batch, Batch):
            raise PlanError(f"the batcher returned {type(batch).__name__}: batch() returns a Batch")
        for name in ("number", "tokens", "preempt"):
            column: Any = getattr(batch, name)
            if not isinstance(column, np.ndarray) or column.dtype.kind not in "ui" or column.ndim != 1:
                told = f"{column.dtype} {list(column.shape)}" if isinstance(column, np.ndarray) else \
                    type(column).__name__
                raise PlanError(f"the batcher's {name} is {told}: it is an array of whole numbers, one a request")
        number, tokens, preempt = (np.asarray(c, np.int64) for c in (batch.number, batch.tokens, batch.preempt))
        where = f"in step {self.steps} the batcher"
        if len(number) != len(tokens):
            raise PlanError(f"{where} names {len(number)} requests and {len(tokens)} counts of tokens")
        both = np.concatenate([number, preempt])
        ordered = np.sort(both)
        if len(both) and not (ordered[0] >= 0 and ordered[-1] < len(self.requests)):
            stray = ordered[0] if ordered[0] < 0 else ordered[-1]
            raise PlanError(f"{where} names request {stray}; there are {len(self.requests)}, numbered from 0")
        if (twice := ordered[1:][ordered[1:] == ordered[:-1]]).size:
            raise PlanError(f"{where} names request {twice[0]} twice")
        shown = np.concatenate([queues.running.number, queues.waiting.number])
        if (stray := number[~np.isin(number, shown)]).size:
            raise PlanError(f"{where} runs request {stray[0]}, which is neither running nor waiting")
        if (stray := preempt[self._state[preempt] != RUNNING]).size:
            raise PlanError(f"{where} pre-empts request {stray[0]}, which is not running")
        todo = np.concatenate([queues.running.todo, queues.waiting.todo])
        order = np.argsort(shown, kind="stable")
        have = todo[order[np.searchsorted(shown, number, sorter=order)]]
        if (wrong := np.flatnonzero((tokens < 1) | (tokens > have))).size:
            raise PlanError(f"{where} gives request {number[wrong[0]]} {tokens[wrong[0]]} tokens; it has "
                            f"{have[wrong[0]]} to compute, and gets at least one")
        if (total := int(tokens.sum())) > self.token_budget:
            raise PlanError(f"{where} spends {total} tokens; the budget is {self.token_budget}")
        running = len(self._running) - len(preempt) + int((self._state[number] == WAITING).sum())
        if running > self.max_batch:
            raise PlanError(f"{where} lets {running} requests run at once; at most {self.max_batch} may")
        return Batch(number, tokens, preempt)

    def _carry_out(self, batch: Batch) -> tuple[Step, int]:
        number, tokens, preempt = batch.number, batch.tokens, batch.preempt
        if len(preempt):
            self._preempt(preempt)
        new = number[self._state[number] == WAITING]
        if len(new):
            self.cached[new] = self.cache.start(new)
            self._state[new] = RUNNING
            self._waiting = self._waiting[self._state[self._waiting] == WAITING]
            self._running = np.sort(np.concatenate([self._running, new]))
        first = self.cached[number]
        after = first + tokens
        self.cache.grow(number, after)
        if (over := self.cache.settle()).any():
            home = int(np.argmax(over))
            have = self.cache.capacity[home]
            raise PlanError(f"in step {self.steps} the batcher needs more than the {have} KV blocks of home {home}: it "
                            "must pre-empt, or start fewer requests")
        known = self.requests.prompt_tokens[number] + self.emitted[number]
        ended = after == known
        step = self._step(number, tokens, first, ended)
        self.cached[number] = after
        self.cache.publish(number, after)
        self.emitted[number] += ended
        finished = number[ended & (self.emitted[number] == self.requests.output_tokens[number])]
        if len(finished):
            self._state[finished] = DONE
            self.cache.leave(finished, done=True)
            self._running = self._running[self._state[self._running] == RUNNING]
            self.done += len(finished)
        self.steps += 1
        return step, max(self._idle_ps, int(self.requests.arrival_ps[number].max()))

    def _preempt(self, number: Ints) -> None:
        self.recomputed_tokens += int(self.cached[number].sum())
        self.cache.leave(number, done=False)
        self.cached[number] = 0
        self._redo[number] = self.requests.prompt_tokens[number] + self.emitted[number]
        self.preemptions[number] += 1
        self._state[number] = WAITING
        self._running = self._running[self._state[self._running] == RUNNING]
        self._waiting = np.sort(np.concatenate([self._waiting, number]))

    def _step(self, number: Ints, tokens: Ints, first: Ints, ended: NDArray[np.bool_]) -> Step:
        """Rows in the batch's order, those of a request together and ascending."""
        last = np.cumsum(tokens)
        sequence = np.repeat(number, tokens)
        position = np.arange(len(sequence)) - np.repeat(last - tokens - first, tokens)
        phase = np.where(position < np.repeat(self._redo[number], tokens), PREFILL, DECODE)
        ends = np.zeros(len(sequence), np.bool_)
        ends[last - 1] = ended
        return Step(self.steps, sequence, position, phase, self._device[self._home[sequence]], ends)


def _check_fits(requests: Requests, home: Ints, cache: Cache) -> None:
    """Refuse requests of which one alone needs more than the cache of its home holds."""
    need = cache.blocks_of(requests.prompt_tokens + requests.output_tokens - 1)
    if (wrong := np.flatnonzero(need > cache.capacity[home])).size:
        i = int(wrong[0])
        raise ConfigError(f"the KV cache holds {cache.capacity[home[i]]} blocks of {cache.block_tokens} tokens, and "
                          f"request {i} ({requests.prompt_tokens[i]} tokens in, {requests.output_tokens[i]} out) needs "
                          f"{need[i]}: give workload.serving.kv more memory, or ask for less")
