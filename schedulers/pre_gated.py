"""`pre_gated`: the gate of a block picks the next block's experts, and only those are copied while it computes."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from emulation.ledger import Start
from emulation.ops import PREFETCH
from emulation.plan import EVICT, LOAD, RUN, Plan
from emulation.view import Setting, View
from schedulers._places import at_least, only_home, rest_beside
from schedulers._popular import copies_of, most_frequent
from schedulers.contract import State

LIFO, LFU, LRU = "lifo", "lfu", "lru"


@dataclass(frozen=True)
class Policy:
    """Pre-gated MoE (ISCA 2024). Its gate is trained, so the forecast stands for it: `forecast: oracle` is such a gate.

    Without a forecast, and in the first block of a step, experts are copied on demand. Without a cache a block's
    experts go behind it: two consecutive blocks lie on the home at most. cache: `slots` experts a layer stay; of more,
    those go that came last (lifo), were used least often (lfu), or longest ago (lru), and of equals the higher id. A
    cache is filled with the most frequent experts of the history that the workload names.
    """

    cache: Literal["none", "lifo", "lfu", "lru"] = "none"
    slots: int = 4
    exact: ClassVar[bool] = True
    without_forecast: ClassVar[str] = "pre_gated copies on demand only: the run asks for no forecast."

    def __post_init__(self) -> None:
        at_least(1, self.slots, "pre_gated: slots")

    @property
    def _stay(self) -> int:
        return 0 if self.cache == "none" else self.slots

    def start(self, setting: Setting) -> tuple[Start, State]:
        """State: how many decisions there were; how much each expert is worth keeping [moe_layers, experts]."""
        home, rest = only_home(setting, "pre_gated"), rest_beside(setting, "pre_gated")
        first = copies_of(setting, most_frequent(setting, self._stay))
        return Start(rest, {home: first}), (0, np.zeros(first.shape, np.int64))

    def staged(self, setting: Setting) -> dict[int, int]:
        return {setting.machine.homes[0]: 2 * setting.model.experts * setting.model.expert_bytes}

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        plan, home = Plan(view.layer), view.setting.machine.homes[0]
        number, worth = state[0] + 1, state[1].copy()
        active, held = view.routing.active, view.held(home)
        missing = active[~held[active]]
        plan.extend(LOAD, missing, home)
        if self.cache == LIFO:
            worth[view.moe, missing] = -number
        elif self.cache == LRU:
            worth[view.moe, active] = number
        else:
            worth[view.moe, active] += 1
        if view.forecast is not None and view.next_layer is not None:
            guessed = view.forecast.active
            coming = guessed[~view.held_next(home)[guessed]]
            plan.extend(LOAD, coming, home, layer=view.next_layer, priority=PREFETCH)
            if self.cache == LIFO:
                worth[view.moe + 1, coming] = -number
        plan.extend(RUN, np.concatenate([active[held[active]], missing]), home)
        here = held.copy()
        here[missing] = True
        there = np.flatnonzero(here)
        order = there[np.argsort(-worth[view.moe, there], kind="stable")]
        plan.extend(EVICT, order[self._stay:], home)
        return plan, (number, worth)
