"""`tensor_parallel`: every expert is cut over all units; each runs its slice, and the sums are added at home."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from emulation.errors import ConfigError
from emulation.ledger import Start
from emulation.plan import RUN, Plan, StepPlan, plain_rows
from emulation.view import Setting, StepView, View
from schedulers._places import at_least, places, staged, through_slots
from schedulers.contract import State


@dataclass(frozen=True)
class Policy:
    """Part p of every expert lies on unit p (P1, arXiv 2601.03992; remainder rule: emulation.shards).

    exchange: tokens go out as one message that all units receive, or as one for each. The units are those of
    `expert_parallel`; where they must copy their slices, these pass through `slots` slots a layer, used in turn.
    """

    exchange: Literal["broadcast", "unicast"] = "broadcast"
    slots: int = 2
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, self.slots, "tensor_parallel: slots")

    def start(self, setting: Setting) -> tuple[Start, State]:
        model, shared = setting.model, places(setting.machine, "tensor_parallel")
        units = len(shared.devices)
        if model.d_ff < units:
            raise ConfigError(f"tensor_parallel cuts an expert into {units} slices, one a unit of machine "
                              f"{setting.machine.name!r}, and an expert of {model.name!r} has {model.d_ff} columns")
        rest = np.empty((len(model.moe_layers), model.experts, units), np.int64)
        for part, stores in enumerate(shared.stores):
            rest[:, :, part] = np.resize(stores, model.experts)
        return Start(rest), np.array(shared.devices)

    def staged(self, setting: Setting) -> dict[int, int]:
        shared = places(setting.machine, "tensor_parallel")
        return staged(setting, shared, len(shared.devices), self.slots)

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        plan = Plan(view.layer, exchange=self.exchange)
        active, units = view.routing.active, len(state)
        elsewhere = view.ledger.start.rest[view.moe, active] != state
        every = (len(active), units)
        through_slots(plan, np.repeat(active, units), np.broadcast_to(state, every).ravel(),
                      np.broadcast_to(np.arange(units), every).ravel(), elsewhere.ravel(), self.slots)
        return plan, state

    def plan_step(self, view: StepView, state: State) -> tuple[StepPlan, State] | None:
        """None where anything must be loaded."""
        moe, expert, ptr = view.listed()
        units, every = len(state), (len(expert), len(state))
        if (view.ledger.start.rest[moe, expert] != state).any():
            return None
        rows = plain_rows(RUN, np.repeat(view.layers[moe], units), np.repeat(expert, units),
                          np.broadcast_to(state, every).ravel(), part=np.broadcast_to(np.arange(units), every).ravel())
        return StepPlan(rows, units * ptr, self.exchange), state
