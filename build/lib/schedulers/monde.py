"""`monde`: the hottest experts of each layer are copied to the home, the others run whole where they rest."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from emulation.ledger import Start
from emulation.plan import ALL_PARTS, Plan
from emulation.view import Setting, View
from schedulers._balance import fewest, left_beside
from schedulers._beside import Beside, beside_home
from schedulers._places import at_least, owners, spread, through_slots
from schedulers.contract import State


@dataclass(frozen=True)
class Policy:
    """MoNDE (arXiv 2405.18832): activations go to the memory device, but the H hottest experts come to the home.

    Its rule for H is not found. Ours: by tokens descending (ties: lower id), H loads one after the other and the last
    one's run on one side, the runs of the others on the other, each unit's in turn; the H with the earliest end, ties
    to the smaller. Anew in each layer, nothing stays: what was copied passes through `slots` staging slots.
    """

    placement: Literal["contiguous", "round_robin"] = "contiguous"
    slots: int = 2
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, self.slots, "monde: slots")

    def start(self, setting: Setting) -> tuple[Start, State]:
        beside = beside_home(setting, "monde", cut=False)
        owner = owners(setting.model.experts, len(beside.units), self.placement)
        return Start(spread(setting, owner, beside.units)), {
            "units": np.array(beside.units), "owner": owner, **beside.tables("unicast")}

    def adapt(self, setting: Setting, state: State) -> State:
        return {**state, **beside_home(setting, "monde", cut=False).tables("unicast")}

    def staged(self, setting: Setting) -> dict[int, int]:
        return {setting.machine.homes[0]: self.slots * setting.model.expert_bytes}

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        home, units = view.setting.machine.homes[0], state["units"]
        active = np.sort(view.routing.active)
        tokens = view.routing.counts(view.setting.model.experts)[active]
        order = np.argsort(-tokens, kind="stable")
        active, tokens = active[order], tokens[order]
        owner = state["owner"][active]
        beside = Beside(view.setting, home, tuple(units.tolist()), 1)
        gpu_ps, ndp_ps = beside.on_home_ps(state, tokens), beside.on_units_ps(state, owner, tokens)
        taken_ps, later_ps = state["load_ps"][:, owner]
        came_ps = (np.cumsum(taken_ps) + later_ps).tolist()
        home_ps = [0, *(came + run for came, run in zip(came_ps, gpu_ps, strict=True))]
        moved = fewest(home_ps, left_beside(ndp_ps, owner.tolist(), len(units)))
        plan = Plan(view.layer)
        beside.run(plan, active[moved:], owner[moved:])
        through_slots(plan, active[:moved], np.full(moved, home), np.full(moved, ALL_PARTS),
                      np.ones(moved, np.bool_), self.slots)
        return plan, state

