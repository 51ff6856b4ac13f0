"""`oracle`: a cache on the home that knows the routing of all steps to come, which no system does."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from emulation.errors import ConfigError
from emulation.ledger import Start
from emulation.ops import PREFETCH
from emulation.plan import LOAD, RUN, Plan
from emulation.view import Setting, View
from schedulers._eviction import NEVER, next_active, pass_through
from schedulers._places import at_least, only_home, rest_beside
from schedulers._popular import copies_of
from schedulers.contract import State

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Policy:
    """`slots` experts a layer; each step's experts are copied as soon as the slots of the step before are free of them.

    Behind a layer's runs, absent experts of its next `ahead` steps replace those that are needed later than they are,
    or never: the soonest needed first, over the latest needed (Belady's MIN; ties: the lower id comes, the higher
    goes). Where a layer needs more than the slots hold, the rest is copied on demand, each over the expert that is
    needed last. The cache begins with the experts that are needed first. prefetch: without it every miss is copied on
    demand, by Belady's MIN, which copies least; ahead of its step a copy needs a slot beside those of that step's hits.
    """

    slots: int = 16
    ahead: int = 1
    prefetch: bool = True
    exact: ClassVar[bool] = True
    clairvoyant: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, self.slots, "oracle: slots")
        at_least(1, self.ahead, "oracle: ahead")

    def start(self, setting: Setting) -> tuple[Start, State]:
        home, future = only_home(setting, "oracle"), setting.future
        rest = rest_beside(setting, "oracle")
        if future is None:
            raise ConfigError("oracle sees the steps to come, and no one knows them here")
        layers, experts = len(setting.model.moe_layers), setting.model.experts
        active = np.concatenate([np.zeros((1, layers, experts), np.bool_), future.counts > 0])
        again = next_active(active)
        first = np.argsort(again[0], axis=1, kind="stable")[:, :self.slots]
        return Start(rest, {home: copies_of(setting, first)}), (first, again[1:], np.zeros(layers, np.int64))

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        cached, again, steps = state
        home, moe = view.setting.machine.homes[0], view.moe
        following = again[steps[moe], moe]
        plan = Plan(view.layer)
        active, row = view.routing.active, cached[moe]
        there = np.isin(active, row)
        hits, misses = active[there], np.sort(active[~there])
        plan.extend(RUN, hits, home)
        if len(misses):
            uses, held = pass_through(row.tolist(), misses.tolist(), len(row), "belady", inactive_first=False,
                                      again=lambda expert: int(following[expert]))
            plan.fetch_and_run(misses, home, over=np.array([use.victim for use in uses]))
            row = np.array(held)
        if self.prefetch:
            row = self._fetch_ahead(plan, home, row, following)
        cached, steps = cached.copy(), steps.copy()
        cached[moe] = row
        steps[moe] += 1
        return plan, (cached, again, steps)

    def _fetch_ahead(self, plan: Plan, home: int, row: Ints, following: Ints) -> Ints:
        """Put what is needed sooner in the place of what is needed later; the new row."""
        absent = np.setdiff1d(np.arange(len(following)), row)
        coming = absent[np.argsort(following[absent], kind="stable")]
        going = np.sort(row)[::-1]
        going = going[np.argsort(-following[going], kind="stable")]
        pairs = min(len(coming), len(going))
        coming, going = coming[:pairs], going[:pairs]
        better = (following[coming] <= min(self.ahead, NEVER - 1)) & (following[going] > following[coming])
        coming, going = coming[better], going[better]
        plan.extend(LOAD, coming, home, victim=going, priority=PREFETCH)
        return np.concatenate([row[~np.isin(row, going)], coming])
