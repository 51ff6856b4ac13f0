"""Hears of a run as it goes, and has its metrics at hand: for a scraper, and for Ray's agent."""

import threading
import time
from collections.abc import Callable

from cluster.observe.metrics.families import Family, Samples, joined
from cluster.observe.metrics.of_result import of_result
from cluster.observe.metrics.of_run import Live, Watched
from cluster.observe.result import Result

EVERY_S = 1.0
"""Between two looks at a run: one takes a few milliseconds of the run's own time."""

Hear = Callable[[list[Samples]], None]


class Watch:
    """Of one run: its policies in turn. `begin`, `step` and `end` belong to the run's thread; `families` may be asked
    by any. hear: told of everything after each look. every_s: real seconds between two."""

    def __init__(self, run: str, hear: Hear | None = None, every_s: float = EVERY_S) -> None:
        self._run, self._hear, self._every_s = run, hear, every_s
        self._lock = threading.Lock()
        self._told: dict[str, Samples] = {}
        self._live: Live | None = None
        self._policy = ""
        self._due_s = 0.0
        self._done = 0.0

    def begin(self, policy: str, watched: Watched) -> None:
        """A policy's run begins."""
        self._policy, self._live, self._done = policy, Live(self._run, policy, watched), 0.0
        self._due_s = 0.0

    def far(self, done: int, total: int) -> None:
        """So much is done."""
        self._done = done / total if total else 0.0

    def step(self) -> None:
        """A step was timed: time for a look, if the last is long enough ago."""
        if self._live is None or time.monotonic() < self._due_s:
            return
        self._tell(self._live.samples(min(self._done, 1.0)))
        self._due_s = time.monotonic() + self._every_s

    def end(self, policy: str, result: Result) -> None:
        """A policy's run is over: from now on its result tells."""
        self._policy, self._live = policy, None
        self._tell(of_result(result, self._run, policy))

    def take(self, told: dict[str, Samples]) -> None:
        """What another watch, where the run really is, has told by policy."""
        with self._lock:
            self._told.update(told)

    def _tell(self, samples: Samples) -> None:
        with self._lock:
            self._told[self._policy] = samples
            told = list(self._told.values())
        if self._hear is not None:
            self._hear(told)

    def told(self) -> dict[str, Samples]:
        """The last look at each policy that has begun."""
        with self._lock:
            return dict(self._told)

    def families(self) -> list[Family]:
        """The same as families, each once."""
        return joined(list(self.told().values()))


class Points:
    """How far a sweep is. Its points have no metrics of their own: there may be any number of them."""

    def __init__(self, study: str) -> None:
        self._study, self._counts = study, (0, 0, 0)

    def count(self, total: int, done: int, failed: int) -> None:
        """So many points have a row, so many of those failed."""
        self._counts = total, done, failed

    def families(self) -> list[Family]:
        """The same as a metric."""
        out = Samples(self._study, "")
        out.each("moelab_sweep_points", "state", dict(zip(("total", "done", "failed"), self._counts, strict=True)))
        return joined([out])
