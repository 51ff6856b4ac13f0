"""`tutel_gating`: the largest count of the batch is every expert's capacity (arXiv 2303.06182, its second baseline)."""

from dataclasses import dataclass
from typing import ClassVar

from emulation.ledger import Start
from emulation.plan import Gating, Plan
from emulation.view import Setting, View
from schedulers._gating import at_rest, largest_count, run_all
from schedulers.contract import State


@dataclass(frozen=True)
class Policy:
    """Expert parallelism with a capacity that follows the routing, as Tutel (arXiv 2206.03382) chooses it.

    All homes agree on the most rows that one of them has for one expert, and each sends every expert as many, filled
    up with zeros. Nothing is dropped, and no mask is made: rows are picked out by index.
    """

    exact: ClassVar[bool] = True
    plain: ClassVar[bool] = False

    def start(self, setting: Setting) -> tuple[Start, State]:
        return at_rest(setting, "tutel_gating")

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        plan = Plan(view.layer, gating=Gating(largest_count(view), overlap=False))
        run_all(plan, state[view.moe])
        return plan, state
