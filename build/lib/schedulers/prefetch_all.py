"""`prefetch_all`: while a block computes, all experts of the next one are copied."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from emulation.ledger import Start
from emulation.ops import PREFETCH
from emulation.plan import EVICT, LOAD, RUN, Plan
from emulation.view import Setting, View
from schedulers._places import only_home, rest_beside
from schedulers.contract import State


@dataclass(frozen=True)
class Policy:
    """SE-MoE, as Pre-gated MoE (ISCA 2024) runs it for MoE-Prefetch. No forecast is asked.

    A block's experts go behind it, so that two blocks lie on the home at most. The first block of a step has what is
    routed copied on demand.
    """

    exact: ClassVar[bool] = True

    def start(self, setting: Setting) -> tuple[Start, State]:
        only_home(setting, "prefetch_all")
        return Start(rest_beside(setting, "prefetch_all")), None

    def staged(self, setting: Setting) -> dict[int, int]:
        return {setting.machine.homes[0]: 2 * setting.model.experts * setting.model.expert_bytes}

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        plan, home = Plan(view.layer), view.setting.machine.homes[0]
        active, held = view.routing.active, view.held(home)
        missing = active[~held[active]]
        plan.extend(LOAD, missing, home)
        if view.next_layer is not None:
            absent = np.flatnonzero(~view.held_next(home))
            plan.extend(LOAD, absent, home, layer=view.next_layer, priority=PREFETCH)
        plan.extend(RUN, active, home)
        here = held.copy()
        here[missing] = True
        plan.extend(EVICT, np.flatnonzero(here), home)
        return plan, state
