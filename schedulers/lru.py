"""`lru`: a cache of experts in each layer; a miss is copied over the least recently used one."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from emulation.ledger import Start
from emulation.plan import LOAD, NOBODY, RUN, Plan, StepPlan, plain_rows
from emulation.view import Setting, StepView, View
from schedulers._places import at_least, only_home, rest_beside
from schedulers._popular import copies_of, most_frequent
from schedulers.contract import State, with_layer

Ints = NDArray[np.int64]


def start_cache(setting: Setting, slots: int, policy: str) -> tuple[Start, State]:
    """A full cache, and its order of use [moe_layers, slots], least recently used first: least frequent first."""
    home = only_home(setting, policy)
    chosen = most_frequent(setting, slots)
    return Start(rest_beside(setting, policy), {home: copies_of(setting, chosen)}), chosen[:, ::-1].copy()


def serve(plan: Plan, view: View, order: Ints) -> Ints:
    """Hits in routing order, then each miss over the least recently used expert; the new order of use."""
    home, active = view.setting.machine.homes[0], view.routing.active
    cached, routed = np.zeros((2, view.setting.model.experts), np.bool_)
    cached[order] = routed[active] = True
    there = cached[active]
    hits, misses = active[there], active[~there]
    plan.extend(RUN, hits, home)
    # What is used, or comes, goes to the end: the first so many of this row are the victims, the rest stays.
    row = np.concatenate([order[~routed[order]], hits, misses])
    plan.fetch_and_run(misses, home, over=row[:len(misses)])
    return row[len(misses):]


def serve_step(view: StepView, order: Ints) -> tuple[StepPlan, Ints]:
    """`serve` in all layers at once, order [moe_layers, slots]: layers do not depend on each other."""
    (layers, slots), every = order.shape, np.arange(len(order))[:, None]
    moe, expert, _ = view.listed()
    cached = np.zeros_like(view.counts, np.bool_)
    cached[every, order] = True
    there, stays = cached[moe, expert], view.counts[every, order] == 0
    hits, misses = expert[there], expert[~there]
    come = np.bincount(moe[~there], minlength=layers)
    used = view.active - come
    # A row of each layer: what is not used, in order, then hits, then misses; its first so many are the victims.
    kept = np.empty_like(order)
    first = np.arange(slots) < (slots - used)[:, None]
    kept[first], kept[~first] = order[stays], hits
    row, at = np.empty(order.size + len(misses), np.int64), _places(slots + come)
    row[at < slots], row[at >= slots] = kept.ravel(), misses
    leave = at < np.repeat(come, slots + come)
    rows, at = used + 2 * come, _places(used + 2 * come)
    run = at < np.repeat(used, rows)
    plan = plain_rows(RUN, np.repeat(view.layers, rows), np.empty(len(run), np.int64), view.setting.machine.homes[0])
    verb, _, experts, _, _, victim, _ = plan
    experts[run], experts[~run] = hits, np.repeat(misses, 2)
    loads = np.flatnonzero(~run)[::2]
    verb[loads], victim[:], victim[loads] = LOAD, NOBODY, row[leave]
    return StepPlan(plan, np.concatenate([[0], np.cumsum(rows)])), row[~leave].reshape(layers, slots)


def _places(lengths: Ints) -> Ints:
    """0, 1, 2 .. of each of several rows of these lengths."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)


@dataclass(frozen=True)
class Policy:
    """Least recently used, `slots` experts a layer (all of them where a layer has fewer).

    The cache is filled with the most frequent experts of the history that the workload names. The reference engine
    took the frequencies of the whole trace, of steps to come too; a run without a history starts with the lowest ids.
    """

    slots: int = 16
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, self.slots, "lru: slots")

    def start(self, setting: Setting) -> tuple[Start, State]:
        return start_cache(setting, self.slots, "lru")

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        plan = Plan(view.layer)
        return plan, with_layer(state, view.moe, serve(plan, view, state[view.moe]))

    def plan_step(self, view: StepView, state: State) -> tuple[StepPlan, State]:
        return serve_step(view, state)
