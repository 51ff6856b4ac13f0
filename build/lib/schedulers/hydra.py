"""`hydra`: whole experts go where their tokens lie, hot with cold: Hydra (DAC 2025) as FSE-DP's simulator models it
(arXiv 2603.27624)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from emulation.ledger import Start
from emulation.plan import LOAD, Plan
from emulation.streams import Ints, bound_tokens
from emulation.view import Setting, View
from schedulers._rings import array_of, laid, paired_order
from schedulers.contract import State

SLOTS = 2
"""Whole experts that a chiplet's buffer holds."""


@dataclass(frozen=True)
class Policy:
    """Experts come hot with cold. An idle channel sends its next one to the first chiplet that holds no expert and has
    tokens for it, else to the one with most such tokens and room; of equals the one at the channel. It is woken when a
    load or a run ends, since the choice depends on what is free then.

    double_buffer: one free slot is room enough. As published, it takes two of two: the next expert never comes in while
    one runs.
    """

    double_buffer: bool = False
    exact: ClassVar[bool] = True
    plain: ClassVar[bool] = False

    def start(self, setting: Setting) -> tuple[Start, State]:
        """State: queue [rows, 2]: experts still to come and their channels; busy [devices]: channels that send; held
        [devices]: experts on a chiplet or on their way; near [devices]: the chiplet of each channel."""
        machine = setting.machine
        array = array_of(machine, "hydra")
        rest = laid(setting.model.experts, 1, array.channels, "even")
        near = np.full(len(machine.devices), -1, np.int64)
        for channel in array.channels:
            near[channel] = array.near(machine, channel, array.chips)
        none = np.zeros(len(machine.devices), np.int64)
        state = {"queue": np.zeros((0, 2), np.int64), "busy": none, "held": none.copy(), "near": near}
        return Start(np.tile(rest, (len(setting.model.moe_layers), 1, 1))), state

    def staged(self, setting: Setting) -> dict[int, int]:
        bytes_ = (SLOTS if self.double_buffer else 1) * setting.model.expert_bytes
        return dict.fromkeys(array_of(setting.machine, "hydra").chips, bytes_)

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        order = paired_order(view.routing.active, view.routing.counts(view.setting.model.experts))
        queue = np.stack([order, view.ledger.start.rest[view.moe, order, 0]], axis=1)
        return self._send(view, {**state, "queue": queue}, Plan(view.layer))

    def wake(self, view: View, state: State) -> tuple[Plan, State]:
        """Channels whose load has ended are idle; chiplets whose run has ended drop the expert."""
        plan, busy, held = Plan(view.layer), state["busy"].copy(), state["held"].copy()
        for row in view.ended:
            if row.verb == LOAD:
                busy[view.ledger.start.rest[view.moe, row.expert, 0]] = 0
            else:
                plan.evict(row.expert, row.device)
                held[row.device] -= 1
        return self._send(view, {**state, "busy": busy, "held": held}, plan)

    def _send(self, view: View, state: State, plan: Plan) -> tuple[Plan, State]:
        pairs, machine = view.routing.pairs, view.setting.machine
        home = view.step.home[pairs.token]
        bound = bound_tokens(pairs.expert, home, view.setting.model.experts, len(machine.devices))
        queue, busy, held = state["queue"], state["busy"].copy(), state["held"].copy()
        sent: list[int] = []
        for channel in np.unique(queue[:, 1]).tolist():
            at = int(np.flatnonzero(queue[:, 1] == channel)[0])
            expert = int(queue[at, 0])
            chip = self._chip(machine.homes, bound[expert], held, int(state["near"][channel]))
            if busy[channel] or chip < 0:
                continue
            plan.load(expert, chip, wake=True)
            plan.run(expert, chip, wake=True)
            busy[channel], sent = 1, [*sent, at]
            held[chip] += 1
        return plan, {**state, "queue": np.delete(queue, sent, axis=0), "busy": busy, "held": held}

    def _chip(self, chips: tuple[int, ...], bound: Ints, held: Ints, near: int) -> int:
        """Where an expert goes now, -1 for nowhere."""
        for chip in chips:
            if not held[chip] and bound[chip]:
                return chip
        most = SLOTS - 1 if self.double_buffer else 0
        room = [chip for chip in chips if held[chip] <= most]
        return max(room, key=lambda chip: (bound[chip], chip == near), default=-1)
