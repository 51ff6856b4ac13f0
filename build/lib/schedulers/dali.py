"""`dali`: layers split between GPU and CPU, prefetch by forecast, a cache by workload (arXiv 2602.03495)."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.ledger import Start
from emulation.ops import PREFETCH
from emulation.plan import ALL_PARTS, LOAD, Plan
from emulation.view import PREFILL, Routing, Setting, View
from schedulers._greedy import greedy
from schedulers._places import at_least, only_home, rest_beside, through_slots
from schedulers._popular import copies_of, most_frequent
from schedulers.contract import State

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
STAGING = 2


class Cache(NamedTuple):
    """resident, ahead [moe_layers, experts]: what the GPU keeps, and what was copied ahead for one use. score, steps:
    tokens of each expert [moe_layers, experts] and steps [moe_layers] since the window began."""

    resident: Mask
    ahead: Mask
    score: Ints
    steps: Ints


@dataclass(frozen=True)
class Policy:
    """`slots` experts a layer stay on the GPU; the others are copied there for one use, or run on the CPU.

    Three parts. split: a layer's experts are placed by the greedy rule, with a copy's time as an absent expert's GPU
    time where that is longer than its run; without it, what the GPU lacks runs on the CPU. prefetch: the most of the
    next layer's forecast experts that are copied ahead, those with most tokens among what the rule would give to the
    GPU; 0: none. window: steps between replacements; at each, the `moved` best experts that the cache lacks, with
    positive score, replace its lowest (score: tokens since the last one; ties: the lower id comes, the lower goes);
    0: the cache stays as it began. A request that begins (any prefill) resets scores and window. The cache begins with
    the most frequent experts of the history that the workload names.
    """

    slots: int = 2
    split: bool = True
    prefetch: int = 2
    window: int = 4
    moved: int = 1
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, least in (("slots", 1), ("prefetch", 0), ("window", 0), ("moved", 1)):
            at_least(least, getattr(self, name), f"dali: {name}")

    def start(self, setting: Setting) -> tuple[Start, State]:
        home = only_home(setting, "dali")
        rest = rest_beside(setting, "dali", computing=True)
        mask = copies_of(setting, most_frequent(setting, self.slots))
        none = np.zeros(mask.shape, np.int64)
        return Start(rest, {home: mask}), tuple(Cache(mask.copy(), np.zeros_like(mask), none, none[:, 0].copy()))

    def staged(self, setting: Setting) -> dict[int, int]:
        most = STAGING + 2 * self.prefetch
        return {only_home(setting, "dali"): most * setting.model.expert_bytes}

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        cache = Cache(*(part.copy() for part in state))
        home, moe, plan = view.setting.machine.homes[0], view.moe, Plan(view.layer)
        here = cache.resident[moe] | cache.ahead[moe]
        active, gpu = self._placed(view, view.routing, moe, here)
        rest = view.ledger.start.rest[moe, :, 0]
        for expert in active[~gpu].tolist():
            plan.run(expert, on=int(rest[expert]))
        coming, going = self._replaced(view, cache)
        copied = active[gpu & ~here[active]]
        kept = np.isin(copied, coming)
        through_slots(plan, active[gpu & here[active]], *_on(home, int((gpu & here[active]).sum())), STAGING)
        over = dict(zip(coming.tolist(), going.tolist(), strict=True))
        for expert in copied[kept].tolist():
            plan.load(expert, to=home, over=over[expert])
            plan.run(expert, on=home)
        through_slots(plan, copied[~kept], *_on(home, int((~kept).sum()), loads=True), STAGING)
        for expert, victim in over.items():
            if cache.ahead[moe, expert]:
                plan.evict(victim, of=home)
            elif expert not in copied[kept]:
                plan.load(expert, to=home, over=victim, priority=PREFETCH)
        cache.resident[moe, going], cache.resident[moe, coming] = False, True
        for expert in np.flatnonzero(cache.ahead[moe] & ~cache.resident[moe]).tolist():
            plan.evict(expert, of=home)
        cache.ahead[moe] = False
        self._ahead(plan, view, cache)
        return plan, tuple(cache)

    def _placed(self, view: View, routing: Routing, moe: int, here: Mask) -> tuple[Ints, Mask]:
        """The active experts, and which of them go to the GPU."""
        home, active = view.setting.machine.homes[0], routing.active
        if not self.split:
            return active, here[active]
        tokens = routing.counts(view.setting.model.experts)[active].tolist()
        rest = view.ledger.start.rest[moe, active, 0].tolist()
        costs = view.costs
        gpu = [costs.run_ps(home, n) if there else max(costs.run_ps(home, n), costs.load_ps(unit, home))
               for n, unit, there in zip(tokens, rest, here[active].tolist(), strict=True)]
        cpu = [costs.run_ps(unit, n) for n, unit in zip(tokens, rest, strict=True)]
        return active, np.array(greedy(gpu, cpu, rest), np.bool_)

    def _replaced(self, view: View, cache: Cache) -> tuple[Ints, Ints]:
        """Count a layer's tokens; at the end of a window, who comes into its cache and who goes."""
        moe, none = view.moe, np.empty(0, np.int64)
        if (view.step.phase == PREFILL).any():
            cache.score[moe], cache.steps[moe] = 0, 0
        cache.score[moe] += view.routing.counts(view.setting.model.experts)
        cache.steps[moe] += 1
        if not self.window or cache.steps[moe] < self.window:
            return none, none
        score, kept = cache.score[moe].copy(), cache.resident[moe]
        cache.score[moe], cache.steps[moe] = 0, 0
        lacking, holding = np.flatnonzero(~kept & (score > 0)), np.flatnonzero(kept)
        coming = lacking[np.argsort(-score[lacking], kind="stable")][:min(self.moved, len(holding))]
        return coming, holding[np.argsort(score[holding], kind="stable")][:len(coming)]

    def _ahead(self, plan: Plan, view: View, cache: Cache) -> None:
        """Copy what the next layer's forecast says that the GPU will run and lacks."""
        if view.forecast is None or view.next_layer is None or not self.prefetch:
            return
        moe, home = view.moe + 1, view.setting.machine.homes[0]
        active, gpu = self._placed(view, view.forecast, moe, cache.resident[moe])
        wanted = np.sort(active[gpu & ~cache.resident[moe, active]])
        tokens = view.forecast.counts(view.setting.model.experts)[wanted]
        coming = wanted[np.argsort(-tokens, kind="stable")][:self.prefetch]
        plan.extend(LOAD, coming, home, layer=view.next_layer, priority=PREFETCH)
        cache.ahead[moe, coming] = True


def _on(home: int, runs: int, *, loads: bool = False) -> tuple[Ints, Ints, Mask]:
    """Devices, parts and whether they are loaded, of whole experts on the home."""
    return np.full(runs, home), np.full(runs, ALL_PARTS), np.full(runs, loads)
