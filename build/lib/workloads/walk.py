"""Recorded routing for requests that were never recorded: each walks along a sequence of a trace."""

import numpy as np
from numpy.typing import NDArray

from emulation.trace import StepRouting, Trace
from emulation.view import Step

Ints = NDArray[np.int64]
WALK = 0x3A1C
"""Keeps this stream apart from those of other drawings from the same seed."""


class Walk:
    """Routing of a trace by sequence and position.

    Each request is given a sequence of the trace, drawn with replacement. Its position p is routed as that sequence's
    p-th token was, in the order of steps, from the start again behind the last. So a request's routing does not depend
    on how it is batched, and computing a position again routes it alike. Requests beyond `requests` are given the
    same sequences again.
    """

    def __init__(self, trace: Trace, requests: int, seed: int) -> None:
        self._trace = trace
        _, of = np.unique(trace.sequence, return_inverse=True)
        self._row = np.argsort(of, kind="stable")
        length = np.bincount(of)
        start = np.cumsum(length) - length
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(WALK,)))
        chosen = rng.integers(0, len(length), requests)
        self._start, self._length = start[chosen], length[chosen]

    def route(self, step: Step) -> StepRouting:
        """The routing of a step."""
        walks = step.sequence % len(self._start)
        at = self._start[walks] + step.position % self._length[walks]
        rows, trace = self._row[at], self._trace
        return StepRouting(trace.experts[rows], trace.weights[rows],
                           None if trace.forecast is None else trace.forecast[rows])
