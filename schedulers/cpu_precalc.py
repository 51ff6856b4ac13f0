"""`cpu_precalc`: forecast CPU experts of the next layer start early, from this layer's input (DAOP)."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from emulation.ledger import Start
from emulation.plan import Plan, Served
from emulation.view import Setting, View
from schedulers._places import at_least
from schedulers._popular import most_frequent
from schedulers.contract import State
from schedulers.cpu_static import start_fixed


@dataclass(frozen=True)
class Policy:
    """As `cpu_static`, but what of the next layer is forecast to run beside the home is started in this one.

    Where anything was, that result is final: a routed expert beside the home that was not forecast gives its tokens
    to the layer's most frequent fixed expert, and a token whose expert was forecast for other tokens only goes
    without it. What was forecast and not routed is left out. The first MoE layer, and one for which nothing was
    forecast, work as `cpu_static`. `slots` and the choice of the fixed experts as there.
    """

    slots: int = 16
    exact: ClassVar[bool] = False
    without_forecast: ClassVar[str] = "cpu_precalc works as cpu_static: the run asks for no forecast."

    def __post_init__(self) -> None:
        at_least(1, self.slots, "cpu_precalc: slots")

    def start(self, setting: Setting) -> tuple[Start, State]:
        start, where = start_fixed(setting, self.slots, "cpu_precalc")
        return start, (where, most_frequent(setting, 1)[:, 0])

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        home = view.setting.machine.homes[0]
        where, first = state
        plan = Plan(view.layer)
        if len(view.early.expert):
            plan.served = self._served(view, where[view.moe] == home, int(first[view.moe]))
        now = plan.served.expert[plan.served.input_layer == view.layer] if plan.served else view.routing.active
        active = np.array(list(dict.fromkeys(now.tolist())), np.int64)
        at = where[view.moe, active]
        for expert, device in zip(active[at != home].tolist(), at[at != home].tolist(), strict=True):
            plan.run(expert, on=device)
        if view.forecast is not None and view.next_layer is not None:
            guess = view.forecast.pairs
            for expert in guess.active.tolist():
                device = int(where[view.moe + 1, expert])
                if device != home:
                    plan.run(expert, on=device, tokens=guess.tokens_of(expert), layer=view.next_layer)
        for expert in active[at == home].tolist():
            plan.run(expert, on=home)
        return plan, state

    def _served(self, view: View, fixed: np.ndarray[tuple[int], np.dtype[np.bool_]], first: int) -> Served:
        routed, early, experts = view.routing.pairs, view.early, view.setting.model.experts
        key, ran = routed.token * experts + routed.expert, early.token * experts + early.expert
        order = np.argsort(ran)
        found = order[np.minimum(np.searchsorted(ran, key, sorter=order), len(ran) - 1)]
        is_early = ~fixed[routed.expert] & (ran[found] == key)
        started = np.isin(routed.expert, early.expert)
        kept = fixed[routed.expert] | is_early | ~started
        expert = np.where(fixed[routed.expert] | started, routed.expert, first)
        layer = np.where(is_early, early.input_layer[found], view.layer)
        return Served(routed.token[kept], expert[kept], routed.weight[kept], layer[kept], routed.expert[kept])
