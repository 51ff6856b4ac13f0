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
from workloads.batchers.contract import NOWHERE, Batch, Batcher, Queues, Sequences
from workloads.cache import Cache
from workloads.parking import Parking
from workloads.requests import Requests

Ints = NDArray[np.int64]
Clock = Callable[[], int]

WAITING, RUNNING, PARKED, DONE = 0, 1, 2, 3


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
        self._waiting = self._running = self._parked = self._open = np.zeros(0, np.int64)
        self._after, self._ended = np.zeros(count, np.int64), np.zeros(count, np.bool_)
        self.parking = Parking(batcher.park) if hasattr(batcher, "park") else None
        self._came = 0
        self._now_ps = self._idle_ps = 0
        self.steps = self.done = self.recomputed_tokens = 0

    def next(self, clock: Clock) -> tuple[Step, int] | None:
        """The next step, and an instant before which it cannot start: its last arrival. None behind the last step.

        clock: when the step would start. It is called only while requests are still to come, or by the batcher.
        """
        if self.parking is not None and len(self._open):
            self._close(self._open, self.parking.end())
        while self.done < len(self.requests):
            self._arrive(clock)
            batch = self._ask(lambda: max(clock(), self._now_ps))
            if len(batch.number) or len(batch.resume):
                return self._carry_out(batch)
            if self._came == len(self.requests):
                parked = f", {len(self._parked)} are parked" if len(self._parked) else ""
                raise PlanError(f"the batcher runs nothing in step {self.steps}, while {len(self._running)} requests "
                                f"run{parked}, {len(self._waiting)} wait and none is still to come")
            self._now_ps = self._idle_ps = int(self.requests.arrival_ps[self._came])
        return None

    def _arrive(self, clock: Clock) -> None:
        """Let in who has come by the time of the next step; with nobody there, that is when the next one comes."""
        arrival_ps, first = self.requests.arrival_ps, self._came
        self._came = int(np.searchsorted(arrival_ps, self._now_ps, side="right"))
        if self._came < len(arrival_ps):
            self._now_ps = max(self._now_ps, clock())
            if not len(self._running) + len(self._waiting) + len(self._parked) and self._came == first:
                self._now_ps = max(self._now_ps, int(arrival_ps[first]))
            self._came = int(np.searchsorted(arrival_ps, self._now_ps, side="right"))
        if self._came > first:
            self._waiting = np.concatenate([self._waiting, np.arange(first, self._came)])

    def _ask(self, clock: Clock) -> Batch:
        waiting = self._waiting[self.cache.eligible(self._waiting)] if self.cache.any_shared else self._waiting
        queues = Queues(self._sequences(waiting, WAITING), self._sequences(self._running, RUNNING),
                        self._sequences(self._parked, PARKED), self.max_batch, self.token_budget, self.block_tokens,
                        self.cache.free, clock)
        return self._checked(queues, self.batcher.batch(queues))

    def _sequences(self, number: Ints, state: int) -> Sequences:
        cache, cached = self.cache, self.cached[number]
        if state == WAITING:
            cached = np.where(cache.there(number), cache.prefix_blocks(number) * self.block_tokens, 0)
            spared = cache.spared(number)
        else:
            spared = np.where(cache.attached[number], cache.prefix_blocks(number), 0)
        emitted = self.emitted[number]
        todo = self.requests.prompt_tokens[number] + emitted - cached
        layer = np.full(len(number), NOWHERE)
        if state == PARKED and self.parking is not None:
            todo, layer = self.parking.tokens(number), self.parking.layers(number)
        columns = (number, self._home[number], self.requests.arrival_ps[number], cached, todo,
                   cached >= self._redo[number], emitted, cache.blocks[number], spared, layer)
        for column in columns:
            column.flags.writeable = False
        return Sequences(*columns)

    def _checked(self, queues: Queues, batch: Any) -> Batch:
        """The batch, if it is one that can be carried out; one sentence if it is not."""
        if not isinstance(batch, Batch):
            raise PlanError(f"the batcher returned {type(batch).__name__}: batch() returns a Batch")
        for name in ("number", "tokens", "preempt", "resume"):
            column: Any = getattr(batch, name)
            if not isinstance(column, np.ndarray) or column.dtype.kind not in "ui" or column.ndim != 1:
                told = f"{column.dtype} {list(column.shape)}" if isinstance(column, np.ndarray) else \
                    type(column).__name__
                raise PlanError(f"the batcher's {name} is {told}: it is an array of whole numbers, one a request")
        number, tokens, preempt, resume = (np.asarray(column, np.int64) for column in (
            batch.number, batch.tokens, batch.preempt, batch.resume))
        where = f"in step {self.steps} the batcher"
        if len(number) != len(tokens):
            raise PlanError(f"{where} names {len(number)} requests and {len(tokens)} counts of tokens")
        ordered = np.sort(np.concatenate([number, preempt, resume]))
        if len(ordered) and not (ordered[0] >= 0 and ordered[-1] < len(self.requests)):
            stray = ordered[0] if ordered[0] < 0 else ordered[-1]
            raise PlanError(f"{where} names request {stray}; there are {len(self.requests)}, numbered from 0")
        if (twice := ordered[1:][ordered[1:] == ordered[:-1]]).size:
            raise PlanError(f"{where} names request {twice[0]} twice")
        shown = np.concatenate([queues.running.number, queues.waiting.number])
        if (stray := number[~np.isin(number, shown)]).size:
            raise PlanError(f"{where} runs request {stray[0]}, which is neither running nor waiting")
        if (stray := preempt[(self._state[preempt] != RUNNING) & (self._state[preempt] != PARKED)]).size:
            raise PlanError(f"{where} pre-empts request {stray[0]}, which is not running")
        if (stray := resume[self._state[resume] != PARKED]).size:
            raise PlanError(f"{where} resumes request {stray[0]}, which is not parked")
        todo = np.concatenate([queues.running.todo, queues.waiting.todo])
        order = np.argsort(shown, kind="stable")
        have = todo[order[np.searchsorted(shown, number, sorter=order)]]
        if (wrong := np.flatnonzero((tokens < 1) | (tokens > have))).size:
            raise PlanError(f"{where} gives request {number[wrong[0]]} {tokens[wrong[0]]} tokens; it has "
                            f"{have[wrong[0]]} to compute, and gets at least one")
        total = int(tokens.sum())
        if self.parking is not None:
            total += int(self.parking.tokens(resume).sum())
        if total > self.token_budget:
            raise PlanError(f"{where} spends {total} tokens; the budget is {self.token_budget}")
        running = len(self._running) + len(self._parked) - len(preempt) + int((self._state[number] == WAITING).sum())
        if running > self.max_batch:
            raise PlanError(f"{where} lets {running} requests run at once; at most {self.max_batch} may")
        return Batch(number, tokens, preempt, resume)

    def _carry_out(self, batch: Batch) -> tuple[Step, int]:
        number, tokens, preempt = batch.number, batch.tokens, batch.preempt
        if len(preempt):
            self._preempt(preempt)
        new = number[self._state[number] == WAITING]
        if len(new):
            self.cached[new] = self.cache.start(new)
            self._move(new, RUNNING)
        first = self.cached[number]
        after = first + tokens
        self.cache.grow(number, after)
        if (over := self.cache.settle()).any():
            home = int(np.argmax(over))
            have = self.cache.capacity[home]
            raise PlanError(f"in step {self.steps} the batcher needs more than the {have} KV blocks of home {home}: it "
                            "must pre-empt, or start fewer requests")
        self._after[number] = after
        self._ended[number] = after == self.requests.prompt_tokens[number] + self.emitted[number]
        step, resume = self._step(number, tokens, first), batch.resume
        self.steps += 1
        if self.parking is None:
            self._close(number, resume)
        else:
            step = self.parking.begin(step, resume, self._device[self._home[resume]])
            self._move(resume, RUNNING)
            self._open = np.concatenate([resume, number])
        return step, max(self._idle_ps, int(self.requests.arrival_ps[np.concatenate([resume, number])].max()))

    def _close(self, number: Ints, parked: Ints) -> None:
        """The step of these requests is over: what they computed is there, but for those that were parked in it."""
        if len(parked):
            self._move(parked, PARKED)
            number = number[~np.isin(number, parked)]
        after, ended = self._after[number], self._ended[number]
        self.cached[number] = after
        self.cache.publish(number, after)
        self.emitted[number] += ended
        finished = number[ended & (self.emitted[number] == self.requests.output_tokens[number])]
        if len(finished):
            self._move(finished, DONE)
            self.cache.leave(finished, done=True)
            self.done += len(finished)

    def _move(self, number: Ints, state: int) -> None:
        """Put requests into another state, and sort them into its queue."""
        self._state[number] = state
        if not len(number):
            return
        every = np.sort(np.concatenate([self._waiting, self._running, self._parked]), kind="stable")  # merges
        now = self._state[every]
        self._waiting, self._running, self._parked = (every[now == kind] for kind in (WAITING, RUNNING, PARKED))

    def _preempt(self, number: Ints) -> None:
        self.recomputed_tokens += int(self.cached[number].sum())
        self.cache.leave(number, done=False)
        self.cached[number] = 0
        self._redo[number] = self.requests.prompt_tokens[number] + self.emitted[number]
        self.preemptions[number] += 1
        if self.parking is not None:
            self.parking.drop(number)
        self._move(number, WAITING)

    def _step(self, number: Ints, tokens: Ints, first: Ints) -> Step:
        """Rows in the batch's order, those of a request together and ascending."""
        last = np.cumsum(tokens)
        sequence = np.repeat(number, tokens)
        position = np.arange(len(sequence)) - np.repeat(last - tokens - first, tokens)
        phase = np.where(position < np.repeat(self._redo[number], tokens), PREFILL, DECODE)
        ends = np.zeros(len(sequence), np.bool_)
        ends[last - 1] = self._ended[number]
        return Step(self.steps, sequence, position, phase, self._device[self._home[sequence]], ends)


def _check_fits(requests: Requests, home: Ints, cache: Cache) -> None:
    """Refuse requests of which one alone needs more than the cache of its home holds."""
    need = cache.blocks_of(requests.prompt_tokens + requests.output_tokens - 1)
    if (wrong := np.flatnonzero(need > cache.capacity[home])).size:
        i = int(wrong[0])
        raise ConfigError(f"the KV cache holds {cache.capacity[home[i]]} blocks of {cache.block_tokens} tokens, and "
                          f"request {i} ({requests.prompt_tokens[i]} tokens in, {requests.output_tokens[i]} out) needs "
                          f"{need[i]}: give workload.serving.kv more memory, or ask for less")
