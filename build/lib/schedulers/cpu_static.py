"""`cpu_static`: the most frequent experts are fixed on the home; the others run where they rest, on the CPU."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from emulation.ledger import Start
from emulation.plan import Plan
from emulation.view import Setting, View
from schedulers._places import at_least, only_home, rest_beside
from schedulers._popular import copies_of, most_frequent
from schedulers.contract import State


def start_fixed(setting: Setting, slots: int, policy: str) -> tuple[Start, State]:
    """The fixed experts of each layer, and where each expert runs: [moe_layers, experts] devices."""
    home = only_home(setting, policy)
    rest = rest_beside(setting, policy, computing=True)
    fixed = copies_of(setting, most_frequent(setting, slots))
    return Start(rest, {home: fixed}), np.where(fixed, home, rest[:, :, 0])


@dataclass(frozen=True)
class Policy:
    """`slots` experts a layer on the home for good; the layer's others as one job beside it, issued first.

    The fixed ones are the most frequent of the history that the workload names (the reference engine took the whole
    trace, steps to come included); a run without a history fixes the lowest ids.
    """

    slots: int = 16
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(0, self.slots, "cpu_static: slots")

    def start(self, setting: Setting) -> tuple[Start, State]:
        return start_fixed(setting, self.slots, "cpu_static")

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        home = view.setting.machine.homes[0]
        plan = Plan(view.layer)
        active = view.routing.active
        where = state[view.moe, active]
        for expert, device in zip(active[where != home].tolist(), where[where != home].tolist(), strict=True):
            plan.run(expert, on=device)
        for expert in active[where == home].tolist():
            plan.run(expert, on=home)
        return plan, state
