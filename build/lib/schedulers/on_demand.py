"""`on_demand`: each routed expert is copied to a staging slot of the home and run; a popular set may stay there."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from emulation.ledger import Start
from emulation.plan import ALL_PARTS, Plan
from emulation.view import Setting, View
from schedulers._places import at_least, only_home, rest_beside, through_slots
from schedulers._popular import FILL, global_list
from schedulers.contract import State


@dataclass(frozen=True)
class Policy:
    """Copy, compute, forget: in routing order, into `slots` staging slots a layer, used in turn.

    A copy waits until the last run in its slot has ended. A slot is given up with its layer, which costs no time: the
    next copy into it comes a step later. The first `popular` experts of the history's list over all layers stay on the
    home (-1: as many as fit), and run before the others, as in the on-demand baseline of DAOP's code.
    """

    slots: int = 2
    popular: int = 0
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, self.slots, "on_demand: slots")
        at_least(FILL, self.popular, "on_demand: popular")

    def start(self, setting: Setting) -> tuple[Start, State]:
        home = only_home(setting, "on_demand")
        fixed = global_list(setting, home, self.popular, self.slots)
        return Start(rest_beside(setting, "on_demand"), {home: fixed} if self.popular else {}), fixed

    def staged(self, setting: Setting) -> dict[int, int]:
        return {setting.machine.homes[0]: self.slots * setting.model.expert_bytes}

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        home = view.setting.machine.homes[0]
        plan = Plan(view.layer)
        active = view.routing.active
        absent = ~state[view.moe, active]
        if self.popular:
            order = np.argsort(absent, kind="stable")
            active, absent = active[order], absent[order]
        through_slots(plan, active, np.full(len(active), home), np.full(len(active), ALL_PARTS), absent, self.slots)
        return plan, state
