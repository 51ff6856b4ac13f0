"""What a run was asked and what it met, step by step, beside what the scheduler keeps."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.observe.digest import array_bytes, sha256
from emulation.trace import StepRouting
from emulation.validate import Decision
from emulation.view import Pairs, Routing, Step

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

    Call `begin` beside `Scheduler.begin`, and `decide` with what `Scheduler.decide` was given and returned; or `whole`,
    step by step behind `begin`, with `served_otherwise` for the layers that were not served as they were routed.
    """

    def __init__(self) -> None:
        self.activities: list[Activity] = []
        self._hashes = {name: hashlib.sha256() for name in ("steps", "experts", "weights", "forecasts", "served")}

    def begin(self, step: Step) -> None:
        self.activities.append(Activity(step))
        self._add("steps", np.array([step.number]), step.sequence, step.position, step.phase, step.home, step.ends)
        if step.source is not None:
            self._add("steps", np.array([step.encoder]), step.source)

    def decide(self, routing: Routing, forecast: Routing | None, decision: Decision) -> None:
        """Note a layer's routing as routed, as forecast and as served."""
        activity, served = self.activities[-1], decision.served
        activity.shards += len(np.unique(served.expert))
        activity.pairs += len(served.expert)
        self._hashes["experts"].update(_ids(routing.experts).tobytes())
        self._weigh(routing.weights)
        if forecast is not None:
            self._add("forecasts", np.array([len(self.activities)]), forecast.experts)
        if served is not routing.pairs or decision.early.any():
            self._served(len(self.activities), served, decision.early)

    def whole(self, activity: Activity, routed: StepRouting, counts: NDArray[np.int64]) -> None:
        """Note all layers of a step at once; counts [moe_layers, experts]: tokens that each expert serves."""
        activity.shards, activity.pairs = int(np.count_nonzero(counts)), int(counts.sum())
        self._hashes["experts"].update(np.ascontiguousarray(routed.experts.swapaxes(0, 1), np.uint16).data)
        weights = routed.weights
        if weights.size and not any(weights.strides):  # one number for all of them: layers are noted alike
            self._hashes["weights"].update(_alike(weights[:, 0]) * weights.shape[1])
            return
        for moe in range(weights.shape[1]):
            self._weigh(weights[:, moe])

    def _served(self, number: int, pairs: Pairs, early: NDArray[np.bool_]) -> None:
        """Note what a layer of that step serves in place of what is routed; early [pairs]: what ran before."""
        self._add("served", np.array([number]), pairs.token, pairs.expert, pairs.weight, early)

    def served_otherwise(self, number: int, layers: Iterable[tuple[Pairs, NDArray[np.bool_]]]) -> None:
        """Note all layers that are not served as they are routed, in order, of the step that was noted as so many."""
        for pairs, early in layers:
            self._served(number, pairs, early)

    def forecast(self, forecast: Routing) -> None:
        """Note a forecast of the step."""
        self._add("forecasts", np.array([len(self.activities)]), forecast.experts)

    def _weigh(self, weights: NDArray[Any]) -> None:
        """Note weights; those that are all alike as their shape and the one."""
        if weights.strides == (0, 0) or bool((weights == weights.flat[:1]).all()):
            self._hashes["weights"].update(_alike(weights))
        else:
            self._hashes["weights"].update(np.ascontiguousarray(weights, np.float64).tobytes())

    def _add(self, name: str, *arrays: np.ndarray) -> None:
        for array in arrays:
            self._hashes[name].update(array_bytes(array))

    @property
    def digest(self) -> str:
        """SHA-256 of all tokens, routings, forecasts and served pairs so far."""
        return sha256("".join(part.hexdigest() for part in self._hashes.values()).encode())


def _alike(weights: NDArray[Any]) -> bytes:
    """Weights that are all the same: their shape and the one."""
    first = np.float64(weights.flat[0]) if weights.size else np.float64(0)
    return f"{weights.shape}{first.hex()};".encode()


def _ids(experts: NDArray[Any]) -> NDArray[np.uint16]:
    """Expert ids as a trace holds them: 65535 for none."""
    return np.ascontiguousarray(experts).astype(np.uint16)
