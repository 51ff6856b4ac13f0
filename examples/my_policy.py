"""A policy outside the repository: a fixed set of experts on the home, the others where they rest.

    moelab compare my-run.yaml --policies 'my_policy.py(fixed=2),expert_parallel'
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from moelab import Plan, Setting, Start, View


@dataclass(frozen=True)
class Policy:
    """Expert e rests whole on unit e modulo units. The first `fixed` experts of each layer are copied to the home
    before the run and stay there; another runs on its unit."""

    exact: ClassVar[bool] = True
    fixed: int = 2

    def start(self, setting: Setting) -> tuple[Start, Any]:
        units, home = np.array(setting.machine.units), setting.machine.homes[0]
        layers, experts = len(setting.model.moe_layers), setting.model.experts
        owner = units[np.arange(experts) % len(units)]
        copies = np.zeros((layers, experts), np.bool_)
        copies[:, :self.fixed] = True
        return Start(np.tile(owner[:, None], (layers, 1, 1)), {home: copies}), owner

    def plan(self, view: View, owner: Any) -> tuple[Plan, Any]:
        home, plan = view.setting.machine.homes[0], Plan(view.layer)
        for expert in view.routing.active:
            plan.run(expert, on=home if expert < self.fixed else owner[expert])
        return plan, owner
