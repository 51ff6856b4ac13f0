"""`mixtral_offloading`: a cache of experts in each layer, and spare buffers so that the next copy overlaps compute."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from emulation.ledger import Start
from emulation.ops import PREFETCH
from emulation.plan import EVICT, LOAD, NOBODY, RUN, Plan
from emulation.view import Setting, View
from schedulers._places import at_least
from schedulers.contract import State, with_layer
from schedulers.lru import Ints, start_cache

NONE = -1


@dataclass(frozen=True)
class Policy:
    """Least recently used, `slots` experts a layer, with `spare` buffers that all layers share (arXiv 2312.17238).

    Experts that are there run first. A miss is copied into a spare buffer at once, and its victim's memory is the next
    spare one; only where there are more misses than buffers does a copy wait for a victim's last use. Hit or miss, what
    is used is the most recent. speculate (described in the report, not in the public code): behind a layer's own
    copies, forecast experts of the next layer are copied into spare buffers; there, those that are routed count as
    cached, and the others are given up. The cache is filled as `lru` fills it.
    """

    slots: int = 4
    spare: int = 2
    speculate: bool = False
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, self.slots, "mixtral_offloading: slots")
        at_least(1, self.spare, "mixtral_offloading: spare")

    def start(self, setting: Setting) -> tuple[Start, State]:
        """State: the order of use [moe_layers, slots]; what was copied ahead for the next layer [spare], NONE."""
        start, order = start_cache(setting, self.slots, "mixtral_offloading")
        return start, (order, np.full(self.spare, NONE, np.int64))

    def staged(self, setting: Setting) -> dict[int, int]:
        return {setting.machine.homes[0]: self.spare * setting.model.expert_bytes}

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        plan, home = Plan(view.layer), view.setting.machine.homes[0]
        order, ahead = state
        ahead = ahead[ahead != NONE]
        active = view.routing.active
        right = np.isin(ahead, active)
        if not right.all():
            plan.extend(EVICT, ahead[~right], home)
        row = self._serve(plan, home, active, order[view.moe], ahead[right])
        order, ahead = with_layer(order, view.moe, row), np.full(self.spare, NONE, np.int64)
        if self.speculate and view.forecast is not None and view.next_layer is not None:
            guessed = view.forecast.active
            coming = guessed[~np.isin(guessed, order[view.moe + 1])][:self.spare]
            plan.extend(LOAD, coming, home, layer=view.next_layer, priority=PREFETCH)
            ahead[:len(coming)] = coming
        return plan, (order, ahead)

    def _serve(self, plan: Plan, home: int, active: Ints, order: Ints, ahead: Ints) -> Ints:
        """What is there in routing order, then the misses; the new order of use."""
        there = np.isin(active, order) | np.isin(active, ahead)
        hits, misses = active[there], active[~there]
        plan.extend(RUN, hits, home)
        row = np.concatenate([order[~np.isin(order, active)], hits, misses])
        gone = len(row) - len(order)
        free = self.spare - len(ahead)
        over = np.full(len(misses), NOBODY)
        over[free:] = row[:max(0, len(misses) - free)]
        if len(misses):
            plan.fetch_and_run(misses, home, over=over)
        left = row[max(0, len(misses) - free):gone]
        if len(left):
            plan.extend(EVICT, left, home)
        return row[gone:]
