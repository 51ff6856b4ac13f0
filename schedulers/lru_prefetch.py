"""`lru_prefetch`: as `lru`, and behind each layer the next one's forecast experts are copied ahead."""

from dataclasses import dataclass
from typing import ClassVar

from emulation.ledger import Start
from emulation.ops import PREFETCH
from emulation.plan import Plan
from emulation.view import Routing, Setting, View
from schedulers._places import at_least
from schedulers.contract import State
from schedulers.lru import serve, start_cache, with_row


def prefetch(plan: Plan, view: View, forecast: Routing, layer: int, order: list[int]) -> list[int]:
    """Copy absent forecast experts over the least recently used that are not forecast; the next layer's new order."""
    home = view.setting.machine.homes[0]
    wanted = dict.fromkeys(forecast.active.tolist())
    cached = dict.fromkeys(order)
    absent = [expert for expert in wanted if expert not in cached]
    for expert in absent[:len(order) // 2]:
        victim = next((old for old in cached if old not in wanted), next(iter(cached)))
        del cached[victim]
        cached[expert] = None
        plan.load(expert, to=home, layer=layer, over=victim, priority=PREFETCH)
    return list(cached)


@dataclass(frozen=True)
class Policy:
    """`lru` that copies at most half its slots ahead of each layer, in forecast order, sparing forecast experts.

    The cache is filled as `lru` fills it: the reference engine took the frequencies of the whole trace.
    """

    slots: int = 16
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, self.slots, "lru_prefetch: slots")

    def start(self, setting: Setting) -> tuple[Start, State]:
        return start_cache(setting, self.slots, "lru_prefetch")

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        plan = Plan(view.layer)
        new = with_row(state, view.moe, serve(plan, view, state[view.moe].tolist()))
        if view.forecast is not None and view.next_layer is not None:
            following = view.moe + 1
            new[following] = prefetch(plan, view, view.forecast, view.next_layer, new[following].tolist())
        return plan, new
