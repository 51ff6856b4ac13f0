"""Runs a batcher in a world where every step takes a time that is told: no engine, no model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from emulation.view import Step
from workloads.batchers import decode_first, fcfs, prefill_first
from workloads.requests import NO_PREFIX, Requests
from workloads.serving import Serving

BATCHERS: dict[str, Callable[..., Any]] = {
    "fcfs": fcfs.Batcher, "prefill_first": prefill_first.Batcher, "decode_first": decode_first.Batcher,
    "exclusive": lambda: decode_first.Batcher(exclusive=True)}
MANY = 1 << 30


def asked(*rows: tuple[int, int], arrivals: list[int] | None = None, prefix: list[int] | None = None,
          prefix_tokens: int = 0) -> Requests:
    """Requests of (prompt, output) tokens."""
    prompt, output = np.array(rows, np.int64).reshape(-1, 2).T
    count = len(rows)
    group = np.full(count, NO_PREFIX) if prefix is None else np.array(prefix)
    return Requests(np.zeros(count, np.int64) if arrivals is None else np.array(arrivals, np.int64), prompt, output,
                    group, np.where(group >= 0, prefix_tokens, 0))


def serving(requests: Requests, batcher: Any = "fcfs", *, homes: tuple[int, ...] = (0,), max_batch: int = MANY,
            budget: int = MANY, block: int = 1, blocks: int = MANY) -> Serving:
    made = BATCHERS[batcher]() if isinstance(batcher, str) else batcher
    return Serving(requests, made, homes, max_batch=max_batch, token_budget=budget, block_tokens=block,
                   capacity_blocks=np.full(len(homes), blocks, np.int64))


@dataclass(frozen=True)
class Ran:
    """A step, and when it ran."""

    step: Step
    begin_ps: int
    end_ps: int

    @property
    def work(self) -> dict[int, int]:
        """Request -> tokens."""
        numbers, counts = np.unique(self.step.sequence, return_counts=True)
        return dict(zip(numbers.tolist(), counts.tolist(), strict=True))


def run(of: Serving, step_ps: Callable[[Step], int] = lambda _: 10,
        asked_at: list[int] | None = None) -> list[Ran]:
    """All steps, each as long as it is told. asked_at: gets the times at which the clock was asked."""
    now, out = 0, []

    def clock() -> int:
        if asked_at is not None:
            asked_at.append(now)
        return now

    while (found := of.next(clock)) is not None:
        step, not_before_ps = found
        begin = max(now, not_before_ps)
        now = begin + step_ps(step)
        out.append(Ran(step, begin, now))
    return out


def first_tokens(ran: list[Ran]) -> dict[int, int]:
    """Request -> when its first token was there."""
    out: dict[int, int] = {}
    for one in ran:
        for number in one.step.sequence[one.step.ends].tolist():
            out.setdefault(number, one.end_ps)
    return dict(sorted(out.items()))
