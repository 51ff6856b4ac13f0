"""`expert_buffering`: experts rest in host memory, and each GPU keeps a cache of its own (arXiv 2303.06182, G2)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from emulation.errors import ConfigError
from emulation.ledger import Start
from emulation.machine import Machine
from emulation.plan import NOBODY, RUN, Gating, Plan
from emulation.view import Setting, View
from schedulers._eviction import NEVER, Eviction, first_cached, pass_through
from schedulers._placement import placed, resting
from schedulers._places import Places, at_least, nearest, runs_experts
from schedulers.contract import State

Ints = NDArray[np.int64]


def buffering_places(machine: Machine) -> Places:
    """The homes, and for each the nearest stores beside them."""
    homes = tuple(home for home in machine.homes if runs_experts(machine, home))
    beside = tuple(store for store in machine.stores if store not in machine.homes)
    if len(homes) < len(machine.homes) or not beside:
        raise ConfigError("expert_buffering needs homes that run experts, and a memory beside them where experts rest; "
                          f"machine {machine.name!r} has {'homes that run none' if beside else 'no such memory'}")
    return Places(homes, tuple(nearest(machine, home, beside) for home in homes))


@dataclass(frozen=True)
class Policy:
    """A cache of `slots` experts a layer on each home; the homes divide the experts among them by `placement`.

    Tokens reach their experts as under `dynamic_gating`. Behind the sizes it is known which experts are active: they
    run in increasing id, and a miss is copied from host memory while tokens travel. Who goes for it: `eviction`, and
    with `inactive_first` whatever this batch does not need, oldest first, before any that it does. The published rule
    is lifo with it, its comparator fifo without. belady is told the steps to come, and the result says so. A cache
    begins with its home's most frequent experts of the history, or its lowest ids. layers: decoder leaves an encoder's
    experts on the homes: it uses nearly all of them at once, and the paper's bytes are those of the decoder's alone.
    """

    slots: int = 10
    eviction: Eviction = "lifo"
    inactive_first: bool = True
    placement: Literal["contiguous", "greedy", "anticorrelation"] = "contiguous"
    layers: Literal["decoder", "all"] = "decoder"
    exact: ClassVar[bool] = True
    plain: ClassVar[bool] = False

    def __post_init__(self) -> None:
        at_least(1, self.slots, "expert_buffering: slots")

    @property
    def clairvoyant(self) -> bool:
        return self.eviction == "belady"

    def start(self, setting: Setting) -> tuple[Start, State]:
        machine, model = setting.machine, setting.model
        shared = buffering_places(machine)
        if self.clairvoyant and setting.future is None:
            raise ConfigError("expert_buffering: belady needs to be told the steps to come, and no one knows them here")
        owner = placed(setting, len(shared.devices), self.placement)
        first = model.moe_stack(encoder=False).start if self.layers == "decoder" else 0
        if first and not all(machine.devices[home].rests for home in shared.devices):
            raise ConfigError("expert_buffering: with layers: decoder an encoder's experts rest on the homes, and on "
                              f"machine {machine.name!r} none can")
        rest = resting(owner, shared.stores)
        rest[:first, :, 0] = np.asarray(shared.devices)[owner[:first]]
        copies = {home: np.zeros(owner.shape, np.bool_) for home in shared.devices}
        held = np.full((len(owner), len(shared.devices), min(self.slots, model.experts)), NOBODY)
        for layer in range(first, len(owner)):
            for unit, home in enumerate(shared.devices):
                own = first_cached(np.flatnonzero(owner[layer] == unit), self.slots,
                                   None if setting.popularity is None else setting.popularity[layer])
                copies[home][layer, own] = True
                held[layer, unit, :len(own)] = own
        return Start(rest, copies), (owner, held)

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        owner, held = state
        homes = view.setting.machine.homes
        plan = Plan(view.layer, gating=Gating())
        active = np.sort(view.routing.active)
        if view.ledger.start.rest[view.moe, 0, 0] in homes:
            plan.extend(RUN, active, np.asarray(homes)[owner[view.moe, active]])
            return plan, state
        held = held.copy()
        for unit, home in enumerate(homes):
            mine = active[owner[view.moe, active] == unit].tolist()
            row = held[view.moe, unit]
            uses, cached = pass_through(row[row != NOBODY].tolist(), mine, self.slots, self.eviction,
                                        inactive_first=self.inactive_first, again=lambda e: _again(view, e))
            for expert, hit, victim in uses:
                if not hit:
                    plan.load(expert, to=home, over=victim)
                plan.run(expert, on=home)
            held[view.moe, unit, :len(cached)] = cached
        return plan, (owner, held)


def _again(view: View, expert: int) -> int:
    """Steps until an expert of this layer is active behind this step."""
    future = view.setting.future
    assert future is not None
    at = int(np.searchsorted(future.step, view.step.number, side="right"))
    later = np.flatnonzero(future.counts[at:, view.moe, expert])
    return int(later[0]) + 1 if len(later) else NEVER
