"""What a served machine has counted so far, in memory that does not grow with what it has served."""

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.scheduler import Scheduler
from cluster.observe.requests import ranked
from emulation.engine.play import Program
from emulation.lowering.emit import CAUSES, Labels
from emulation.ops import Ops
from emulation.units import PS_PER_S

Ints = NDArray[np.int64]
WINDOW = 4096
"""Of the last so many values percentiles are told."""
BOUNDS_S = tuple(float(f"{digit}e{power}") for power in range(-6, 3) for digit in (1, 2, 5))
"""Upper bounds of the buckets of every histogram, in seconds; what lies above is in one more."""


class Spread:
    """Durations: percentiles of the last ones, and a histogram of all."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=WINDOW)
        self._buckets = [0] * (len(BOUNDS_S) + 1)
        self._sum_s, self._most_s = 0.0, 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self._last.append(seconds)
        self._buckets[bisect_left(BOUNDS_S, seconds)] += 1
        self._sum_s += seconds
        self._most_s = max(self._most_s, seconds)

    def told(self) -> dict[str, Any]:
        """count, sum and max of all; mean, P50, P90 and P99 of the last ones; buckets: counts by BOUNDS_S, not summed
        up, and one for what lies above."""
        found: dict[str, Any] = {"count": sum(self._buckets), "sum_s": self._sum_s, "max_s": self._most_s,
                                 "buckets": list(self._buckets)}
        if self._last:
            last = np.sort(np.array(self._last))
            p50, p90, p99 = ranked(last)
            found |= {"mean_s": float(last.mean()), "p50_s": p50, "p90_s": p90, "p99_s": p99}
        return found


class Meter:
    """Takes what a scheduler submits and lets the engine forget it: how long lanes were busy, which prefetch came late.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler, self._engine = scheduler, scheduler.engine
        self.busy_ps = np.zeros(len(scheduler.engine.lanes), np.int64)
        self.useful = self.late = self.ops = 0
        self._first_uses: list[tuple[int, int]] = []

    def batch(self, ops: Ops, labels: Labels, at_ps: int, after: int) -> None:
        """Operations that were submitted: counted, not kept."""
        del labels, at_ps, after
        self.ops += len(ops)

    def batches(self, program: Program, labels: Labels, at_ps: Ints, after: Ints) -> None:
        """Several batches at once."""
        del labels, at_ps, after
        self.ops += len(program.columns)

    def step(self, begin_ps: int, end_op: int) -> None:
        """A step is over."""

    def flush(self) -> None:
        """Let go of what has ended."""
        self._scheduler.emit.take_crossed()
        first, spans, occupancy = self._engine.retire()
        lane, _, from_ps, to_ps = occupancy
        np.add.at(self.busy_ps, lane, to_ps - from_ps)
        uses = self._scheduler.counts.first_uses
        self.useful += len(uses)
        self._first_uses += uses
        uses.clear()
        coming: list[tuple[int, int]] = []
        for op, used_ps in self._first_uses:
            if op >= first + len(spans.end_ps):
                coming.append((op, used_ps))
            elif op >= first:  # what was let go before had ended before it was used
                self.late += int(spans.end_ps[op - first]) > used_ps
        self._first_uses = coming
        self._scheduler.steps.clear()

    def told(self) -> dict[str, Any]:
        """Hits and misses, loads, prefetches, bytes by link and cause, busy time by lane; all since the beginning."""
        scheduler, counts = self._scheduler, self._scheduler.counts
        machine, moved = scheduler.setting.machine, scheduler.emit.moved_bytes
        phases = {name: {key: int(getattr(tally, key)) for key in (
            "hits", "misses", "loads", "loaded_bytes", "substituted", "dropped")} | {"runs": {
                device.name: int(runs) for device, runs in zip(machine.devices, tally.runs, strict=True) if runs}}
            for name, tally in counts.phases.items()}
        return {"phases": phases,
                "prefetch": {"issued": counts.prefetch_issued, "useful": self.useful, "late": self.late},
                "links": {link.name: {cause: int(bytes_) for cause, bytes_ in zip(CAUSES, row, strict=True) if bytes_}
                          for link, row in zip(machine.links, moved, strict=True)},
                "busy_s": {lane.name: int(busy) / PS_PER_S
                           for lane, busy in zip(self._engine.lanes, self.busy_ps, strict=True)},
                "operations": self.ops}


class Tally:
    """Counts of a served machine: requests, tokens and times, in emulated seconds."""

    def __init__(self) -> None:
        self.requests = dict.fromkeys(("asked", "refused", "stop", "length", "cancelled"), 0)
        self.tokens = dict.fromkeys(("prompt", "output", "prefill", "decode"), 0)
        self.spreads = {name: Spread() for name in ("ttft", "tpot", "itl", "end_to_end", "queueing", "step")}
        self.late = Spread()
        """Real seconds that tokens came behind their time, at the wall clock."""

    def add(self, name: str, picoseconds: float) -> None:
        """A duration, by name."""
        self.spreads[name].add(picoseconds / PS_PER_S)

    def told(self) -> Mapping[str, object]:
        """All of it, as plain numbers."""
        return {"requests": dict(self.requests), "tokens": dict(self.tokens), "bounds_s": list(BOUNDS_S),
                **{name: spread.told() for name, spread in self.spreads.items()}, "late": self.late.told()}
