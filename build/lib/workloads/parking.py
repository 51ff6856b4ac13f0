"""Sequences that wait within a step that is over: which of their (token, expert) pairs were held back, and where."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.errors import PlanError
from emulation.view import DROPPED, FROM_START, Routing, Step
from workloads.batchers.contract import AtLayer

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Held(NamedTuple):
    """A sequence that is parked: at which MoE layer, its rows, and the pairs that are due there, [rows, top_k]."""

    moe: int
    position: Ints
    phase: Ints
    ends: Mask
    due: Mask


class Parking:
    """Asks a batcher at each layer whom to hold back, and keeps what it holds until it lets it go on."""

    def __init__(self, park: Callable[[AtLayer], Mask]) -> None:
        self._park = park
        self.held: dict[int, Held] = {}
        self._now: dict[int, Held] = {}
        self._due: dict[int, Mask] = {}

    def tokens(self, number: Ints) -> Ints:
        """Rows of each parked sequence."""
        return np.array([len(self.held[n].position) for n in number.tolist()], np.int64)

    def layers(self, number: Ints) -> Ints:
        """Where each is parked."""
        return np.array([self.held[n].moe for n in number.tolist()], np.int64)

    def begin(self, step: Step, resume: Ints, device: Ints) -> Step:
        """The step with the rows of sequences that go on before its own; device [resume]: where they lie."""
        back = [self.held.pop(n) for n in resume.tolist()]
        self._due = {n: held.due for n, held in zip(resume.tolist(), back, strict=True)}
        self._now, self._gone = {}, np.zeros(len(step) + sum(len(held.position) for held in back), np.bool_)
        if back:
            rows = [len(held.position) for held in back]
            position, phase, ends = (np.concatenate([*(getattr(held, name) for held in back), getattr(step, name)])
                                     for name in ("position", "phase", "ends"))
            joins = np.repeat([*(held.moe for held in back), FROM_START], [*rows, len(step)])
            step = replace(step, sequence=np.concatenate([np.repeat(resume, rows), step.sequence]),
                           position=position, phase=phase, home=np.concatenate([np.repeat(device, rows), step.home]),
                           ends=ends, joins=joins)
        self._step = step
        return step

    def at_layer(self, moe: int, routing: Routing) -> tuple[Routing, Mask | None]:
        """The routing that is due in a layer, and the tokens that go no further."""
        step, experts = self._step, routing.experts.copy()
        absent, back = self._gone.copy(), np.zeros(len(step), np.bool_)
        if step.joins is not None:
            absent |= step.joins > moe
            back = step.joins == moe
            for number in dict.fromkeys(step.sequence[back].tolist()):
                rows = np.flatnonzero(back & (step.sequence == number))
                experts[rows] = np.where(self._due[number], experts[rows], DROPPED)
        experts[absent] = DROPPED
        for column in (experts, back):
            column.flags.writeable = False
        held = self._checked(self._park(AtLayer(moe, step.sequence, step.position, experts, back)), experts, moe)
        stay = np.unique(step.sequence[held.any(axis=1)])
        parked = np.isin(step.sequence, stay) & ~absent
        for number in stay.tolist():
            rows = np.flatnonzero(step.sequence == number)
            self._now[number] = Held(moe, step.position[rows], step.phase[rows], step.ends[rows], held[rows])
        self._gone |= parked
        due = Routing(np.where(held, DROPPED, experts), routing.weights)
        return due, parked if parked.any() else None

    def ahead(self, moe: int, guess: Routing) -> Routing:
        """What was guessed for a later layer, of tokens that will be there."""
        joins = self._step.joins
        absent = self._gone if joins is None else self._gone | (joins > moe)
        return Routing(np.where(absent[:, None], DROPPED, guess.experts), guess.weights)

    def _checked(self, held: Any, experts: Ints, moe: int) -> Mask:
        where = f"in step {self._step.number}, MoE layer {moe}, the batcher's park()"
        if not isinstance(held, np.ndarray) or held.dtype != np.bool_ or held.shape != experts.shape:
            told = f"{held.dtype} {list(held.shape)}" if isinstance(held, np.ndarray) else type(held).__name__
            raise PlanError(f"{where} returned {told}: it is a mask of pairs, bool {list(experts.shape)}")
        if (held & (experts == DROPPED)).any():
            token = int(np.argmax((held & (experts == DROPPED)).any(axis=1)))
            raise PlanError(f"{where} holds back a pair of token {token} that is not due there")
        return held

    def end(self) -> Ints:
        """The step is over: who is parked now."""
        self.held |= self._now
        return np.array(sorted(self._now), np.int64)

    def ends(self) -> Mask:
        """Rows of the step whose logits were wanted and that came to its end."""
        return self._step.ends & ~self._gone

    def drop(self, number: Ints) -> None:
        """Forget pre-empted sequences."""
        for n in number.tolist():
            self.held.pop(n, None)
