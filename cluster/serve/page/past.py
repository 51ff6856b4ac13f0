"""What a machine did while somebody looked: samples of a few figures, a bounded number of them."""

from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

SAMPLES = 120
"""Kept: two minutes, where somebody looks every second."""
SLICES = 60
LATELY = 10
"""Samples that `lately` looks back."""


class Sample(NamedTuple):
    """Figures at an emulated instant, counted since the machine was switched on."""

    emulated_s: float
    output: int
    prefill: int
    busy_s: Mapping[str, float]


class Past:
    """The last samples; one at which no emulated time has passed takes the place of the one before."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)

    def note(self, figures: Mapping[str, Any]) -> None:
        """One more look."""
        sample = Sample(figures["emulated_s"], figures["tokens"]["output"], figures["tokens"]["prefill"],
                        figures.get("busy_s") or {})
        if self._samples and sample.emulated_s <= self._samples[-1].emulated_s:
            self._samples.pop()
        self._samples.append(sample)

    def _lately(self) -> tuple[Sample, Sample] | None:
        return None if len(self._samples) < 2 else (self._samples[max(-1 - LATELY, -len(self._samples))],
                                                    self._samples[-1])

    def rate(self, what: str) -> float | None:
        """Tokens a second of emulated time, lately."""
        pair = self._lately()
        if pair is None:
            return None
        first, last = pair
        counted: float = getattr(last, what) - getattr(first, what)
        return counted / (last.emulated_s - first.emulated_s)

    def busy(self) -> dict[str, float]:
        """How busy each lane was lately, in seconds a second; empty where that is not known yet."""
        pair = self._lately()
        if pair is None:
            return {}
        first, last = pair
        passed_s = last.emulated_s - first.emulated_s
        return {lane: (busy - first.busy_s.get(lane, 0.0)) / passed_s for lane, busy in last.busy_s.items()}

    def slices(self) -> tuple[dict[str, list[float]], float]:
        """Rates by name in equal slices of the emulated time that was looked at, and a slice's length in seconds."""
        if len(self._samples) < 2:
            return {}, 0.0
        at_s = np.array([sample.emulated_s for sample in self._samples])
        edges = np.linspace(at_s[0], at_s[-1], SLICES + 1)
        slice_s = float(edges[1] - edges[0])
        return {what: (np.diff(np.interp(edges, at_s, [getattr(sample, what) for sample in self._samples]))
                       / slice_s).tolist() for what in ("output", "prefill")}, slice_s
