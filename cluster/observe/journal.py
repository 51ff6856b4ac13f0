"""What a run was asked and what it met, step by step, beside what the scheduler keeps."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.observe.digest import array_bytes
from emulation.validate import Decision
from emulation.view import Routing, Step

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Asked:
    """What a run is asked to serve, [requests], ascending in `sequence`: when each request came, its prompt's tokens
    and the tokens asked for."""

    sequence: Ints
    arrival_ps: Ints
    prompt_tokens: Ints
    output_tokens: Ints


@dataclass
class Activity:
    """One step: its tokens, and what of the routed experts it activated.

    shards: (layer, expert) pairs with at least one token. pairs: (layer, token, expert) triples.
    """

    step: Step
    shards: int = 0
    pairs: int = 0


class Journal:
    """Notes every step and every decision of a run, in order; `digest` covers all of them.

    Call `begin` beside `Scheduler.begin`, and `decide` with what `Scheduler.decide` was given and returned.
    """

    def __init__(self) -> None:
        self.activities: list[Activity] = []
        self._hash = hashlib.sha256()

    def begin(self, step: Step) -> None:
        self.activities.append(Activity(step))
        self._add(np.array([step.number]), step.sequence, step.position, step.phase, step.home, step.ends)

    def decide(self, routing: Routing, forecast: Routing | None, decision: Decision) -> None:
        """Note a layer's routing as routed, as forecast and as served."""
        activity, served = self.activities[-1], decision.served
        activity.shards += len(np.unique(served.expert))
        activity.pairs += len(served.expert)
        self._add(routing.experts, routing.weights)
        if forecast is None:
            self._hash.update(b"no forecast;")
        else:
            self._add(forecast.experts, forecast.weights)
        self._add(served.token, served.expert, served.weight, decision.early)

    def _add(self, *arrays: np.ndarray) -> None:
        for array in arrays:
            self._hash.update(array_bytes(array))

    @property
    def digest(self) -> str:
        """SHA-256 of all tokens, routings, forecasts and served pairs so far."""
        return self._hash.hexdigest()
