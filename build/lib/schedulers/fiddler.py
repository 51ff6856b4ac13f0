"""`fiddler`: popular experts fixed on the home; another runs where it rests, or is copied, whichever costs less."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from emulation.costs import Costs
from emulation.ledger import Start
from emulation.plan import ALL_PARTS, RUN, Plan
from emulation.view import Setting, View
from schedulers._places import at_least, only_home, rest_beside, through_slots
from schedulers._popular import FILL, global_list
from schedulers.contract import State

Ints = NDArray[np.int64]
PS_PER_MS = 10**9


@dataclass(frozen=True)
class Policy:
    """Fiddler (arXiv 2402.07033), beside a host CPU or NDP units alike.

    popular: experts on the home, the first of the history's list over all layers (-1: as many as fit). Another expert
    with n tokens runs where it rests if n c_run < c_load, and is else copied into one of `slots` staging slots. c_run
    and c_load: `run_ms` and `load_ms` (upstream 7 and 70), or, where these are 0, what one token and one copy take
    on this machine. sides: both at once, as in DAOP's port, or what is beside the home after all that the home runs, as
    upstream does in prefill; that order is not found, and ours.
    """

    popular: int = FILL
    sides: Literal["overlapped", "serial"] = "overlapped"
    slots: int = 2
    run_ms: float = 0.0
    load_ms: float = 0.0
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, self.slots, "fiddler: slots")
        at_least(FILL, self.popular, "fiddler: popular")

    def start(self, setting: Setting) -> tuple[Start, State]:
        home = only_home(setting, "fiddler")
        rest = rest_beside(setting, "fiddler", computing=True)
        fixed = global_list(setting, home, self.popular, self.slots)
        where = rest[0, :, 0]
        return Start(rest, {home: fixed}), {"fixed": fixed, "where": where, **self._weighed(setting, where)}

    def _weighed(self, setting: Setting, where: Ints) -> dict[str, Ints]:
        """c_run and c_load of each expert, [experts]."""
        home, costs, places = setting.machine.homes[0], Costs(setting.machine, setting.model, 1), where.tolist()
        run_ps = {d: int(self.run_ms * PS_PER_MS) or costs.run_ps(d, 1) for d in dict.fromkeys(places)}
        load_ps = {d: int(self.load_ms * PS_PER_MS) or costs.load_ps(d, home) for d in dict.fromkeys(places)}
        return {"run_ps": np.array([run_ps[d] for d in places]), "load_ps": np.array([load_ps[d] for d in places])}

    def adapt(self, setting: Setting, state: State) -> State:
        return {**state, **self._weighed(setting, state["where"])}

    def staged(self, setting: Setting) -> dict[int, int]:
        return {setting.machine.homes[0]: self.slots * setting.model.expert_bytes}

    def _sides(self, view: View, state: State) -> tuple[Ints, Ints, Ints]:
        """Active experts that the home holds, that run where they rest, and that are copied."""
        active = view.routing.active
        tokens = view.routing.counts(view.setting.model.experts)[active]
        fixed = state["fixed"][view.moe, active]
        beside = ~fixed & (tokens * state["run_ps"][active] < state["load_ps"][active])
        return active[fixed], active[beside], active[~fixed & ~beside]

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        home = view.setting.machine.homes[0]
        plan = Plan(view.layer)
        hits, beside, copied = self._sides(view, state)
        on_home = np.concatenate([hits, copied])
        waits = self.sides == "serial" and len(on_home) and len(beside)
        if not waits:
            plan.extend(RUN, beside, state["where"][beside])
        through_slots(plan, on_home, np.full(len(on_home), home), np.full(len(on_home), ALL_PARTS),
                      np.arange(len(on_home)) >= len(hits), self.slots)
        if waits:
            rows = plan.rows
            last = max(i for i, row in enumerate(rows) if row.verb == RUN)
            rows[last] = rows[last]._replace(wake=True)
        return plan, state

    def wake(self, view: View, state: State) -> tuple[Plan, State]:
        """The other side, when the home's last run has ended."""
        plan, beside = Plan(view.layer), self._sides(view, state)[1]
        plan.extend(RUN, beside, state["where"][beside])
        return plan, state
