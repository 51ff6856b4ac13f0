"""`expert_parallel`: whole experts, divided among the units; each runs those of its own that are active."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from emulation.ledger import Start
from emulation.plan import ALL_PARTS, ALL_TO_ALL, RUN, UNICAST, Plan, StepPlan, plain_rows
from emulation.view import Setting, StepView, View
from schedulers._placement import Placement, placed, resting
from schedulers._places import at_least, places, staged, through_slots
from schedulers.contract import State


def exchange(setting: Setting) -> str:
    """How tokens travel: in one all-to-all where experts rest on several homes."""
    machine = setting.machine
    at_home = len(machine.homes) > 1 and all(machine.devices[home].rests for home in machine.homes)
    return ALL_TO_ALL if at_home else UNICAST


@dataclass(frozen=True)
class Policy:
    """Expert e belongs to unit floor(e U / E) (contiguous) or e mod U (round_robin) and runs there; or the history that
    the workload names places it (schedulers/_placement.py).

    The units are those on which experts rest: units beside a home, or several homes, which then exchange tokens in
    one all-to-all. Where experts rest on devices that compute nothing, the homes are the units: each copies an expert
    of its own from a nearest store when it is active, into `slots` slots a layer, used in turn.
    """

    placement: Placement = "contiguous"
    slots: int = 2
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, self.slots, "expert_parallel: slots")

    def start(self, setting: Setting) -> tuple[Start, State]:
        shared = places(setting.machine, "expert_parallel")
        owner = placed(setting, len(shared.devices), self.placement)
        return Start(resting(owner, shared.stores)), np.asarray(shared.devices)[owner]

    def staged(self, setting: Setting) -> dict[int, int]:
        shared = places(setting.machine, "expert_parallel")
        return staged(setting, shared, 1, self.slots)

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        runs_here = view.ledger.start.rest[view.moe, :, 0] == state[view.moe]
        plan = Plan(view.layer, exchange=exchange(view.setting))
        active = view.routing.active
        where = state[view.moe, active]
        through_slots(plan, active, where, np.full(len(active), ALL_PARTS), ~runs_here[active], self.slots)
        return plan, state

    def plan_step(self, view: StepView, state: State) -> tuple[StepPlan, State] | None:
        """None where anything must be loaded."""
        moe, expert, ptr = view.listed()
        where = state[moe, expert]
        if (view.ledger.start.rest[moe, expert, 0] != where).any():
            return None
        return StepPlan(plain_rows(RUN, view.layers[moe], expert, where), ptr, exchange(view.setting)), state
