"""`lru_prefetch`: as `lru`, and behind each layer the next one's forecast experts are copied ahead."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from emulation.ledger import Start
from emulation.ops import PREFETCH
from emulation.plan import LOAD, Plan, StepPlan
from emulation.view import Routing, Setting, StepView, View
from schedulers._places import at_least
from schedulers.contract import State, with_layer
from schedulers.lru import Ints, serve, serve_step, start_cache


def prefetch(plan: Plan, view: View, forecast: Routing, layer: int, order: Ints) -> Ints:
    """Copy absent forecast experts over the least recently used that are not forecast; the next layer's new order."""
    guessed = forecast.active
    cached, wanted = np.zeros((2, view.setting.model.experts), np.bool_)
    cached[order] = wanted[guessed] = True
    coming = guessed[~cached[guessed]][:len(order) // 2]
    spared = wanted[order]
    victims = np.concatenate([order[~spared], order[spared]])[:len(coming)]
    plan.extend(LOAD, coming, view.setting.machine.homes[0], layer=layer, victim=victims, priority=PREFETCH)
    wanted[:] = False
    wanted[victims] = True
    return np.concatenate([order[~wanted[order]], coming])


@dataclass(frozen=True)
class Policy:
    """`lru` that copies at most half its slots ahead of each layer, in forecast order, sparing forecast experts.

    The cache is filled as `lru` fills it: the reference engine took the frequencies of the whole trace.
    """

    slots: int = 16
    exact: ClassVar[bool] = True
    without_forecast: ClassVar[str] = "lru_prefetch works as lru: the run asks for no forecast."

    def __post_init__(self) -> None:
        at_least(1, self.slots, "lru_prefetch: slots")

    def start(self, setting: Setting) -> tuple[Start, State]:
        return start_cache(setting, self.slots, "lru_prefetch")

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        plan = Plan(view.layer)
        new = with_layer(state, view.moe, serve(plan, view, state[view.moe]))
        if view.forecast is not None and view.next_layer is not None:
            following = view.moe + 1
            new[following] = prefetch(plan, view, view.forecast, view.next_layer, new[following])
        return plan, new

    def plan_step(self, view: StepView, state: State) -> tuple[StepPlan, State]:
        """Where nobody guesses, as `lru`."""
        return serve_step(view, state)
