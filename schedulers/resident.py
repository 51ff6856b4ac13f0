"""`resident`: every expert lies on the home GPU from the start; nothing moves."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from emulation.ledger import Start
from emulation.plan import Plan
from emulation.view import Setting, View
from schedulers.contract import State


@dataclass(frozen=True)
class Policy:
    """All experts resident: the fastest that a home can be, if they fit."""

    exact: ClassVar[bool] = True

    def start(self, setting: Setting) -> tuple[Start, State]:
        home = setting.machine.homes[0]
        shape = (len(setting.model.moe_layers), setting.model.experts, 1)
        return Start(np.full(shape, home, np.int64)), None

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        plan = Plan(view.layer)
        for expert in view.routing.active:
            plan.run(expert, on=view.setting.machine.homes[0])
        return plan, state
