"""`dynamic_gating`: experts get exactly what is routed to them, sizes first (arXiv 2303.06182, section 4.1)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from emulation.ledger import Start
from emulation.plan import RUN, Gating, Plan
from emulation.view import Setting, View
from schedulers._gating import at_rest
from schedulers._placement import Placement
from schedulers.contract import State


@dataclass(frozen=True)
class Policy:
    """Expert parallelism without padding and without drops.

    Each home sorts the ids of its tokens' experts, counts them, tells every device the counts in an all-to-all of
    sizes, and sends the rows, put in order by index, in a second, uneven one. Active experts run over what they got;
    results return the same way and are put back by index. overlap: the sizes travel while the rows are put in order.
    placement: the original order (contiguous), or one by the history that the workload names.
    """

    overlap: bool = True
    placement: Placement = "contiguous"
    exact: ClassVar[bool] = True
    plain: ClassVar[bool] = False

    def start(self, setting: Setting) -> tuple[Start, State]:
        return at_rest(setting, "dynamic_gating", self.placement)

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        plan = Plan(view.layer, gating=Gating(overlap=self.overlap))
        active = np.sort(view.routing.active)
        plan.extend(RUN, active, state[view.moe, active])
        return plan, state
