"""`ep_chiplet`: whole experts on the chiplets next to their channels, tokens travel: the baseline of FSE-DP's simulator
(arXiv 2603.27624, "EP")."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from emulation.ledger import Start
from emulation.plan import ALL_PARTS, Plan
from emulation.view import Setting, View
from schedulers._places import through_slots
from schedulers._rings import array_of, laid
from schedulers.contract import State


@dataclass(frozen=True)
class Policy:
    """Each channel serves its share of the experts, by id, on the chiplet that it is attached to; all others send it
    their tokens.

    double_buffer: the next expert comes in while one runs. As published, an expert enters only where two slots of two
    are free, and so never does.
    """

    double_buffer: bool = False
    exact: ClassVar[bool] = True

    def start(self, setting: Setting) -> tuple[Start, State]:
        """State [experts]: the chiplet of each."""
        array = array_of(setting.machine, "ep_chiplet")
        rest = laid(setting.model.experts, 1, array.channels, "sequential")
        near = {channel: array.near(setting.machine, channel, array.chips) for channel in array.channels}
        chip = np.array([near[channel] for channel in rest[:, 0].tolist()], np.int64)
        return Start(np.tile(rest, (len(setting.model.moe_layers), 1, 1))), chip

    def staged(self, setting: Setting) -> dict[int, int]:
        array = array_of(setting.machine, "ep_chiplet")
        bytes_ = self._slots * setting.model.expert_bytes
        return {array.near(setting.machine, channel, array.chips): bytes_ for channel in array.channels}

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        plan, active = Plan(view.layer), np.sort(view.routing.active)
        through_slots(plan, active, state[active], np.full(len(active), ALL_PARTS), np.ones(len(active), np.bool_),
                      self._slots)
        return plan, state

    @property
    def _slots(self) -> int:
        return 2 if self.double_buffer else 1
