"""`daop`: cache quotas a layer, a prefill that swaps and splits, a decode that starts predicted CPU experts early."""

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from emulation.errors import ConfigError
from emulation.ledger import Start
from emulation.plan import ALL_PARTS, Plan
from emulation.view import PREFILL, Setting, View
from schedulers._daop import Ints, absent, beside, degraded, seeded, serving, swaps
from schedulers._places import at_least, only_home, rest_beside, through_slots
from schedulers._popular import room, visited
from schedulers.contract import State

NOWHERE = -1


@dataclass(frozen=True)
class Policy:
    """Data-aware offloading and predictive pre-calculation (DAOP, arXiv 2501.10375; docs/systems/daop.md).

    ratio: experts cached on the home over all experts, as far as they fit beside one spare slot. quota (D1): each layer
    has its part of them, else the most frequent of all layers are cached. swap (D2): before prefill computes a layer,
    hot absent experts go over cold cached ones that have less than a `swap_above`th of their tokens. split: an absent
    expert that is copied faster than it runs on the CPU goes through the spare slot, else all run on the CPU. predict
    (D3): in decode, from MoE layer `first_predicted` on, what was forecast is served and not what is routed, and its
    CPU experts start a layer early on that layer's input. degrade: of a forecast that lies on the CPU alone, a cached
    expert takes the weakest one's place. Nothing moves in decode. A step with any prefill token is prefill.
    """

    ratio: float = 0.469
    swap_above: float = 1.05
    first_predicted: int = 5
    quota: bool = True
    swap: bool = True
    split: bool = True
    predict: bool = True
    degrade: bool = True
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        at_least(1, self.first_predicted, "daop: first_predicted")
        if not 0 <= self.ratio <= 1:
            raise ConfigError(f"daop: ratio is {self.ratio}; it is a share of all experts, from 0 to 1")
        if not 0 <= self.swap_above < np.inf:
            raise ConfigError(f"daop: swap_above is {self.swap_above}; it is a number from 0 on")

    def start(self, setting: Setting) -> tuple[Start, State]:
        """State: tokens of each expert seen in prefill [moe_layers, experts]; the MoE layer for which there is a
        prediction; its experts and weights [tokens, top_k]."""
        home, counts = only_home(setting, "daop"), visited(setting)
        budget = min(int(Fraction(str(self.ratio)) * counts.size), room(setting, home, 1))
        start = Start(rest_beside(setting, "daop", computing=True), {home: seeded(counts, budget, self.quota)})
        return start, self._next(np.zeros_like(counts))

    def staged(self, setting: Setting) -> dict[int, int]:
        return {setting.machine.homes[0]: setting.model.expert_bytes}

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        if (view.step.phase == PREFILL).any():
            seen = state[0].copy()
            seen[view.moe] += view.routing.counts(view.setting.model.experts)
            return self._prefill(view), self._next(seen)
        return self._decode(view, state)

    def _next(self, seen: Ints, moe: int = NOWHERE, experts: Ints | None = None,
              weights: np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None = None) -> State:
        if experts is None:
            return seen, moe, np.empty((0, 0), np.int64), np.empty((0, 0))
        return seen, moe, experts, weights

    def _prefill(self, view: View) -> Plan:
        home, plan = view.setting.machine.homes[0], Plan(view.layer)
        counts, active = view.routing.counts(view.setting.model.experts), view.routing.active
        before = view.held(home)
        held = before.copy()
        for hot, cold in swaps(counts, before, Fraction(str(self.swap_above))) if self.swap else []:
            plan.load(hot, to=home, over=cold)
            held[[hot, cold]] = True, False
        away = active[~held[active]]
        on_cpu = beside(view, home, away, counts) if self.split else np.ones(len(away), np.bool_)
        where = view.ledger.start.rest[view.moe, :, 0].tolist()
        for expert in away[on_cpu].tolist():
            plan.run(expert, on=where[expert])
        for expert in (*active[(held & before)[active]].tolist(), *active[(held & ~before)[active]].tolist()):
            plan.run(expert, on=home)
        copied = away[~on_cpu]
        if len(copied):
            through_slots(plan, copied, np.full(len(copied), home), np.full(len(copied), ALL_PARTS),
                          np.ones(len(copied), np.bool_), 1)
        return plan

    def _decode(self, view: View, state: State) -> tuple[Plan, State]:
        home, plan = view.setting.machine.homes[0], Plan(view.layer)
        seen, moe, experts, weights = state
        if moe == view.moe:
            plan.served = now = serving(view, experts, weights)
            active = list(dict.fromkeys(now.expert[now.input_layer == view.layer].tolist()))
        else:
            active = view.routing.active.tolist()
        held, rest = view.held(home).tolist(), view.ledger.start.rest[:, :, 0]
        where = rest[view.moe].tolist()
        for expert in active:
            if not held[expert]:
                plan.run(expert, on=where[expert])
        guess, following, new = view.forecast, view.next_layer, None
        if self.predict and guess is not None and following is not None and view.moe + 1 >= self.first_predicted:
            there = view.held_next(home)
            served, strength = degraded(guess, there, seen[view.moe + 1]) if self.degrade else (
                guess.experts, guess.weights)
            where = rest[view.moe + 1].tolist()
            for expert, tokens in absent(served, there).items():
                plan.run(expert, on=where[expert], layer=following, tokens=tokens)
            new = self._next(seen, view.moe + 1, served, strength)
        for expert in active:
            if held[expert]:
                plan.run(expert, on=home)
        return plan, new or self._next(seen)
