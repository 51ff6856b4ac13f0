"""`gpu_ndp`: experts cut over NDP units, balanced with the GPU, and fetched ahead by the prompt's own counts."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from emulation.ledger import Start
from emulation.ops import PREFETCH
from emulation.plan import ALL_PARTS, LOAD, RUN, Plan
from emulation.view import Setting, View
from schedulers._balance import fewest, left_beside, overlapped
from schedulers._beside import Beside, beside_home
from schedulers._places import at_least, owners, through_slots
from schedulers._popular import room
from schedulers._recent import NONE, Ints, Mask, caps, counted, exchanged, most_visited
from schedulers.contract import State, with_layer


@dataclass(frozen=True)
class Policy:
    """P1 (arXiv 2601.03992); docs/systems/gpu_ndp.md says what of it is found and what is ours.

    parallel: every expert cut over all units (A1), or whole on one. exchange: rows go out once, or to each unit.
    balance: the hottest absent experts are copied to the GPU while that ends the layer earlier (A2). charge: the
    exchange of rows counts once a layer, as it happens, or in each T_n. backlog: what a copy finds on the link: as the
    policy reckons it by its own estimates, as the machine tells it, or nothing. prefetch: the GPU keeps the most
    visited experts of this prompt's prefill (frozen), or of all its tokens so far (running) (A3); cap: how many a layer
    (-1: as many as fit beside `slots` staging slots).
    """

    parallel: Literal["tensor", "expert"] = "tensor"
    exchange: Literal["broadcast", "unicast"] = "broadcast"
    balance: bool = True
    charge: Literal["layer", "expert"] = "layer"
    backlog: Literal["reckoned", "asked", "none"] = "reckoned"
    prefetch: Literal["none", "frozen", "running"] = "frozen"
    cap: int = -1
    slots: int = 2
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, self.slots, "gpu_ndp: slots")
        at_least(-1, self.cap, "gpu_ndp: cap")

    def start(self, setting: Setting) -> tuple[Start, State]:
        beside = beside_home(setting, "gpu_ndp", cut=self.parallel == "tensor")
        layers, experts, units = len(setting.model.moe_layers), setting.model.experts, np.array(beside.units)
        owner = owners(experts, beside.owners, "contiguous")
        rest = np.broadcast_to(units if beside.parts > 1 else units[owner][:, None], (layers, experts, beside.parts))
        return Start(rest.copy()), {
            "units": units, "owner": owner, "caps": self._caps(setting), "queued_ps": 0,
            "counts": np.zeros((layers, experts), np.int64), "decoded": np.zeros(layers, np.bool_),
            **beside.tables(self.exchange)}

    def adapt(self, setting: Setting, state: State) -> State:
        beside = beside_home(setting, "gpu_ndp", cut=self.parallel == "tensor")
        return {**state, **beside.tables(self.exchange)}

    def staged(self, setting: Setting) -> dict[int, int]:
        return {setting.machine.homes[0]: (self.slots + int(self._caps(setting).sum())) * setting.model.expert_bytes}

    def _caps(self, setting: Setting) -> Ints:
        fits = room(setting, setting.machine.homes[0], self.slots) if self.prefetch != "none" else 0
        return caps(len(setting.model.moe_layers), setting.model.experts, fits, self.cap)

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        home, units = view.setting.machine.homes[0], state["units"]
        beside = Beside(view.setting, home, tuple(units.tolist()), view.ledger.start.parts)
        held = view.held(home)
        tokens = view.routing.counts(len(held))
        active = np.sort(view.routing.active)
        active = active[np.argsort(-tokens[active], kind="stable")]
        there = held[active]
        hits, absent = active[there], active[~there]
        coming, over, state = self._wanted(view, state, held)
        moved, layer_ps = self._moved(view, state, beside, tokens[hits], absent, tokens[absent])
        here = absent[:moved]
        plan = Plan(view.layer, exchange=self.exchange)
        beside.run(plan, absent[moved:], state["owner"][absent[moved:]])
        plan.extend(RUN, hits, home)
        if moved and len(coming):
            stays, come = np.isin(here, coming), np.isin(coming, here)
            plan.fetch_and_run(coming[come], home, over[come])
            here, coming, over = here[~stays], coming[~come], over[~come]
        if len(here):
            through_slots(plan, here, np.full(len(here), home), np.full(len(here), ALL_PARTS),
                          np.ones(len(here), np.bool_), self.slots)
        if len(coming):
            plan.extend(LOAD, coming, home, victim=over, priority=PREFETCH)
        if state["queued_ps"] or len(coming):
            left_ps = max(state["queued_ps"] - layer_ps, 0)
            state = {**state, "queued_ps": left_ps + int(state["load_ps"][0, state["owner"][coming]].sum())}
        return plan, state

    def _wanted(self, view: View, state: State, held: Mask) -> tuple[Ints, Ints, State]:
        """Experts that are to come and stay, what each goes over, and the state with the new counts (A3)."""
        moe, running = view.moe, self.prefetch == "running"
        before = bool(state["decoded"][moe])
        counts, decoded = counted(view, state["counts"][moe], before, running=running)
        if self.prefetch == "none" or (decoded and before and not running):
            return NONE, NONE, state
        state = {**state, "counts": with_layer(state["counts"], moe, counts),
                 "decoded": with_layer(state["decoded"], moe, decoded)}
        if decoded and not running:
            return NONE, NONE, state
        cap = int(state["caps"][moe])
        target = most_visited(counts, cap, held if decoded else None)
        return *exchanged(counts, held, target, cap), state

    def _moved(self, view: View, state: State, beside: Beside, hits: Ints, absent: Ints,
               tokens: Ints) -> tuple[int, int]:
        """How many of the absent experts to move, hottest first, and when the layer is then reckoned to end (A2)."""
        owner = state["owner"][absent]
        run_ps = beside.on_units_ps(state, owner, tokens)
        once_ps = beside.exchanged_ps(state, len(view.step), self.exchange)
        if self.charge == "expert":
            run_ps = [ps + beside.exchanged_ps(state, n, self.exchange)
                      for ps, n in zip(run_ps, tokens.tolist(), strict=True)]
            once_ps = 0
        units_ps = left_beside(run_ps, owner.tolist(), beside.owners, once_ps)
        taken_ps, later_ps = state["load_ps"]
        home_ps = overlapped(sum(beside.on_home_ps(state, hits)), taken_ps[owner].tolist(),
                             beside.on_home_ps(state, tokens),
                             self._backlog_ps(view, state, beside) + int(later_ps.max()))
        moved = fewest(home_ps, units_ps) if self.balance else 0
        return moved, max(home_ps[moved], units_ps[moved])

    def _backlog_ps(self, view: View, state: State, beside: Beside) -> int:
        """What a copy waits for on the link before it starts: a quantum of what is being fetched ahead at most."""
        if self.backlog == "none" or not self.balance:
            return 0
        queued_ps = int(state["queued_ps"])
        if self.backlog == "asked":
            routes = [view.setting.machine.routes[unit, beside.home] for unit in beside.units]
            queued_ps = max(view.backlog_ps(link.lane) for route in routes for link in route)
        return min(queued_ps, beside.quantum_ps or queued_ps) if queued_ps else 0

