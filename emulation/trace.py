"""Recorded routing as a value: which experts every token of a run visited, in every MoE layer."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emulation.errors import InputError
from emulation.view import DROPPED, PREFILL, Routing, Step

Array = NDArray[Any]
NO_EXPERT = 65535
"""In the columns of a trace: a place that no expert fills."""


@dataclass(frozen=True)
class Trace:
    """Routing of every token met, by step and then by sequence and position.

    experts, forecast: uint16 [tokens, moe_layers, top_k] (65535: no expert); weights: float32, same shape. step,
    sequence, position: int32 [tokens]; phase: uint8 (0 prefill, 1 decode) [tokens]; layer_ids: uint16 [moe_layers].
    forecast[:, l] is what was guessed for layer l while layer l-1 ran, so forecast[:, 0] is empty.
    tokens: int32 [tokens], the token ids, where they are known. time: int64 [tokens], when the token's request arrived,
    in picoseconds, where that is known.
    """

    model: str
    num_experts: int
    layer_ids: Array
    experts: Array
    weights: Array
    step: Array
    sequence: Array
    position: Array
    phase: Array
    forecast: Array | None = None
    tokens: Array | None = None
    time: Array | None = None

    @property
    def top_k(self) -> int:
        return int(self.experts.shape[2])

    def arrays(self) -> dict[str, Array]:
        """Its columns by name, as a file holds them."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}

    def popularity(self) -> NDArray[np.int64]:
        """How often each expert was visited, [moe_layers, num_experts]."""
        counts = np.zeros((len(self.layer_ids), self.num_experts), np.int64)
        for layer in range(len(self.layer_ids)):
            ids = self.experts[:, layer].ravel()
            counts[layer] = np.bincount(ids[ids != NO_EXPERT], minlength=self.num_experts)
        return counts

    def steps(self, homes: tuple[int, ...] = (0,), *, encoder: bool = False) -> Iterator[tuple[Step, "StepRouting"]]:
        """Each step with its routing; a sequence lies on the home of its number modulo their count.

        encoder: the trace is of a model with an encoder: its prefill steps pass that, and its decode steps the decoder.
        """
        asked = np.bincount(self.sequence[self.phase == PREFILL], minlength=int(self.sequence.max(initial=0)) + 1)
        numbers, first = np.unique(self.step, return_index=True)
        bounds = [*first.tolist(), len(self.step)]
        for i, number in enumerate(numbers.tolist()):
            rows = slice(bounds[i], bounds[i + 1])
            sequence = self.sequence[rows].astype(np.int64)
            position = self.position[rows].astype(np.int64)
            last = np.r_[sequence[1:] != sequence[:-1], True]
            phase, home = self.phase[rows].astype(np.int64), np.array(homes, np.int64)[sequence % len(homes)]
            step = Step(number, sequence, position, phase, home, last)
            if encoder:
                if (phase != phase[0]).any():
                    raise InputError(f"step {number} of the trace has tokens in prefill and in decode: a step of a "
                                     "model with an encoder passes the encoder or the decoder")
                asks = bool(phase[0] == PREFILL)
                step = replace(step, encoder=asks, source=asked[sequence], ends=last & (not asks))
            guess = None if self.forecast is None else self.forecast[rows]
            yield step, StepRouting(self.experts[rows], self.weights[rows], guess)


@dataclass(frozen=True)
class StepRouting:
    """The routing of one step: experts, weights and forecast [tokens, moe_layers, top_k].

    Generated routing lies layer by layer in memory (`experts.transpose(1, 0, 2)` is contiguous); recorded routing token
    by token. Equal weights may be one number in memory, with strides of 0.
    """

    experts: Array
    weights: Array
    forecast: Array | None = None

    def layer(self, moe: int) -> Routing:
        """The routing of one MoE layer."""
        return Routing(ids(self.experts[:, moe]), self.weights[:, moe].astype(np.float64))

    def guess(self, moe: int) -> Routing | None:
        """What was guessed for a MoE layer before it ran, where anything was."""
        if self.forecast is None or moe >= self.forecast.shape[1]:
            return None
        experts = ids(self.forecast[:, moe])
        return Routing(experts, np.full(experts.shape, 1.0 / experts.shape[1])) if (experts != DROPPED).any() else None


class ReadOnce(StepRouting):
    """Routing whose layers are made once for all who ask, in order, a layer ahead at most; nobody's to change."""

    def layer(self, moe: int) -> Routing:
        made: dict[int, Routing] = self.__dict__.setdefault("_made", {})
        if moe not in made:
            made.pop(moe - 2, None)
            made[moe] = super().layer(moe)
        return made[moe]


def ids(experts: Array) -> NDArray[np.int64]:
    """Expert ids as a policy sees them, from a column of a trace."""
    wide = experts.astype(np.int64)
    wide[wide == NO_EXPERT] = DROPPED
    return wide
