"""An engine whose parts are timed while it runs: what an operation costs among the others, as an engine issues them."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from studies.offload.body import Dense
from studies.offload.engine import Chosen, Engine, Layer
from studies.offload.near import Job, Slot

SEEN_LEAST = 3
"""Fewer samples than this tell nothing: the first ones of a run are cold."""


@dataclass
class Samples:
    """Seconds by what was done, in the order in which it was done."""

    by: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    spent_s: float = 0.0

    def note(self, what: str, seconds: float) -> None:
        """One sample of what the issuing thread did. Summed up, since looking through all would empty the caches."""
        self.by[what].append(seconds)
        self.spent_s += seconds

    def timed(self, what: str, run: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, each call noted."""
        def timed(*arguments: Any) -> Any:
            begin = time.perf_counter()
            result = run(*arguments)
            self.note(what, time.perf_counter() - begin)
            return result
        return timed

    def forget(self) -> None:
        """Begin anew: what was noted so far was cold."""
        for seen in self.by.values():
            seen.clear()

    def median(self, what: str) -> float | None:
        """Median seconds, or None where it was hardly seen."""
        seen = self.by.get(what, ())
        return statistics.median(seen) if len(seen) >= SEEN_LEAST else None


class Watched:
    """Mixed into an engine: notes what each part of a step takes on the thread that runs it."""

    samples: Samples
    queued_s = 0.0
    bring: Callable[[Slot, Tensor], None]
    hosted: Callable[[Tensor], Tensor]

    def watch(self, samples: Samples) -> None:
        """Note from here on."""
        self.samples = samples
        for layer in self.layers:  # type: ignore[attr-defined]
            dense: Dense = layer.dense
            for name in ("attention", "route", "normed"):
                setattr(dense, name, samples.timed(name, getattr(dense, name)))
        self.bring = samples.timed("fetch", self.bring)
        self.hosted = samples.timed("to_host", self.hosted)

    def compute(self, slot: Slot, expert: int, chosen: Chosen, x: Tensor, out: Tensor) -> None:
        """One expert near; by its tokens, and whether they were gathered."""
        begin = time.perf_counter()
        super().compute(slot, expert, chosen, x, out)  # type: ignore[misc]
        took, how = time.perf_counter() - begin, "whole" if expert in chosen.whole else "gathered"
        self.samples.note(f"near {how} {len(chosen.tokens[expert])}", took)

    def compute_far(self, layer: Layer, expert: int, chosen: Chosen, x: Tensor, out: Tensor) -> None:
        """One expert on the worker; by its tokens."""
        begin = time.perf_counter()
        super().compute_far(layer, expert, chosen, x, out)  # type: ignore[misc]
        self.samples.by[f"far {len(chosen.tokens[expert])}"].append(time.perf_counter() - begin)

    def step(self, chosen: list[Chosen], forecast: list[Chosen]) -> float:
        """One step; what it took beside the parts that are noted goes to its layers."""
        before_s = self.samples.spent_s
        took: float = super().step(chosen, forecast)  # type: ignore[misc]
        self.samples.by["step"].append(took)
        self.samples.by["between"].append((took - (self.samples.spent_s - before_s)) / len(chosen))
        return took

    def job(self, layer: Layer, experts: list[int], chosen: Chosen, x: Tensor) -> Job:
        """A job is queued."""
        self.queued_s = time.perf_counter()
        return super().job(layer, experts, chosen, x)  # type: ignore[misc, no-any-return]

    def sum_far(self, layer: Layer, experts: list[int], chosen: Chosen, x: Tensor) -> Tensor:
        """A job begins: how long after it was queued."""
        self.samples.by["far start"].append(time.perf_counter() - self.queued_s)
        return super().sum_far(layer, experts, chosen, x)  # type: ignore[misc, no-any-return]


def watched(kind: type[Engine]) -> type[Engine]:
    """The engine of a policy, with its parts timed."""
    return type(f"Watched{kind.__name__}", (Watched, kind), {})
