"""`on_demand`: nothing stays; each routed expert is copied to a staging slot of the home and run."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from emulation.ledger import Start
from emulation.plan import ALL_PARTS, Plan
from emulation.view import Setting, View
from schedulers._places import at_least, only_home, rest_beside, through_slots
from schedulers.contract import State


@dataclass(frozen=True)
class Policy:
    """Copy, compute, forget: in routing order, into `slots` staging slots a layer, used in turn.

    A copy waits until the last run in its slot has ended. A slot is given up with its layer, which costs no time: the
    next copy into it comes a step later.
    """

    slots: int = 2
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, self.slots, "on_demand: slots")

    def start(self, setting: Setting) -> tuple[Start, State]:
        only_home(setting, "on_demand")
        return Start(rest_beside(setting, "on_demand")), None

    def staged(self, setting: Setting) -> dict[int, int]:
        return {setting.machine.homes[0]: self.slots * setting.model.expert_work(setting.model.d_ff).weight_bytes}

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        home = view.setting.machine.homes[0]
        plan = Plan(view.layer)
        active = view.routing.active
        everywhere = np.ones(len(active), np.bool_)
        through_slots(plan, active, np.full(len(active), home), np.full(len(active), ALL_PARTS), everywhere, self.slots)
        return plan, state
