"""`resident`: every expert lies on the home from the start; nothing moves."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from emulation.ledger import Start
from emulation.plan import RUN, Plan, StepPlan, plain_rows
from emulation.view import Setting, StepView, View
from schedulers._places import only_home, rest_beside
from schedulers.contract import State


@dataclass(frozen=True)
class Policy:
    """All experts resident: the fastest that a home can be, if they fit."""

    exact: ClassVar[bool] = True

    def start(self, setting: Setting) -> tuple[Start, State]:
        home = only_home(setting, "resident")
        everything = np.ones((len(setting.model.moe_layers), setting.model.experts), np.bool_)
        if setting.machine.devices[home].rests:
            return Start(np.full((*everything.shape, 1), home, np.int64)), None
        return Start(rest_beside(setting, "resident"), {home: everything}), None

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        plan = Plan(view.layer)
        plan.extend(RUN, view.routing.active, view.setting.machine.homes[0])
        return plan, state

    def plan_step(self, view: StepView, state: State) -> tuple[StepPlan, State]:
        moe, expert, ptr = view.listed()
        return StepPlan(plain_rows(RUN, view.layers[moe], expert, view.setting.machine.homes[0]), ptr), state
