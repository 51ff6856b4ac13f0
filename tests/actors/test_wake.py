"""A policy that goes on when something has ended, and what it may estimate."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from emulation.costs import Costs
from emulation.engine.spec import SpecEngine
from emulation.errors import PlanError
from emulation.plan import EVICT, LOAD, RUN, Plan
from emulation.view import Setting, View
from tests.schedulers.rig import drive, gpu_and_units, model, resting, routing, scheduler, step, timeline

GPU, UNIT0, UNIT1 = 0, 1, 2


def first(view: View) -> Plan:
    plan = Plan(view.layer)
    plan.load(0, to=GPU, wake=True)
    plan.run(0, on=GPU)
    return plan


@dataclass(frozen=True)
class Waking:
    """Loads expert 0 to the GPU; goes on as `fragments` say, one at each waking. What it saw is noted in `seen`."""

    fragments: list[Callable[[View, Plan], None]]
    seen: list[tuple[Any, ...]] = field(default_factory=list)
    exact: ClassVar[bool] = True

    def start(self, setting: Setting) -> Any:
        return resting(1, [[UNIT0], [UNIT0], [UNIT1]]), 0

    def plan(self, view: View, state: int) -> tuple[Plan, int]:
        return first(view), state

    def wake(self, view: View, state: int) -> tuple[Plan, int]:
        self.seen.append((view.now_ps, [(row.verb, row.expert, row.device) for row in view.ended]))
        plan = Plan(view.layer)
        self.fragments[state](view, plan)
        return plan, state + 1


def run_of(policy: Any) -> Any:
    run = scheduler(gpu_and_units(2), model(moe_layers=1, experts=3, top_k=3), policy, SpecEngine)
    decisions = drive(run, [(step(0, 1), [routing([[0, 1, 2]])], [None])])
    return run, decisions


def test_a_policy_goes_on_when_a_marked_row_has_ended() -> None:
    policy = Waking([lambda _, plan: plan.run(1, on=UNIT0, wake=True), lambda _, plan: plan.run(2, on=UNIT1)])
    run, (decision,) = run_of(policy)
    # An expert is 3 * 8 * 8 weights of 2 bytes: 384 B over 10 GB/s take 38400 ps. A row is 16 B: 1600 ps. A run
    # reads 384 + (2 * 8 + 2 * 8) * 2 = 448 B: 448 ps at 1000 GB/s, 4480 ps at 100 GB/s; a sum reads 48 B: 48 ps.
    assert policy.seen == [(38400, [(LOAD, 0, GPU)]), (44480, [(RUN, 1, UNIT0)])]
    assert timeline(run) == {
        "copy demand e0 gpu": [(0, 38400)], "expert e0 gpu": [(38400, 38848)],
        "copy dispatch unit0": [(38400, 40000)], "expert e1 unit0": [(40000, 44480)],
        "copy return gpu": [(44480, 46080), (50560, 52160)],
        "copy dispatch unit1": [(44480, 46080)], "expert e2 unit1": [(46080, 50560)],
        "reduce gpu": [(46080, 46128), (52160, 52208)]}
    assert [(a.expert, a.device) for a in decision.assignments] == [(0, GPU), (1, UNIT0), (2, UNIT1)]
    assert run.counts.phases["decode"].runs.tolist() == [1, 1, 1]


def test_a_fragment_sees_what_was_issued_since_and_may_evict_it() -> None:
    held: list[Any] = []

    def evict(view: View, plan: Plan) -> None:
        held.append((view.held(GPU).tolist(), view.free_bytes(GPU)))
        plan.evict(0, of=GPU)
        plan.run(1, on=UNIT0)
        plan.run(2, on=UNIT1)

    run, (decision,) = run_of(Waking([evict]))
    assert held == [([True, False, False], 10**9 - 384)]
    assert run.ledger.held(0, GPU).tolist() == [False, False, False]
    assert [row.verb for row in decision.plan.rows] == [LOAD, RUN, EVICT, RUN, RUN]


@pytest.mark.parametrize(("fragment", "told"), [
    (lambda *_: None, "is unserved"),
    (lambda _, plan: [plan.run(e, on=UNIT0) for e in (0, 1)], "served twice"),
    (lambda _, plan: plan.run(2, on=UNIT0), "does not hold it"),
    (lambda _, plan: plan.run(1, on=UNIT0, layer=7), "a fragment runs that layer's experts"),
])
def test_a_plan_is_whole_when_no_mark_is_left(fragment: Any, told: str) -> None:
    with pytest.raises(PlanError, match=told):
        run_of(Waking([fragment]))


def test_a_mark_without_a_method_is_refused() -> None:
    class Asleep:
        exact = True
        start, plan = Waking([]).start, Waking([]).plan

    with pytest.raises(PlanError, match="the policy has no method wake"):
        run_of(Asleep())


def test_estimates_are_the_durations_of_an_idle_machine() -> None:
    costs = Costs(gpu_and_units(2), model(moe_layers=1, experts=3, top_k=1), parts=3)
    assert costs.load_ps(UNIT0, GPU) == 38400
    assert costs.send_ps(GPU, UNIT1, tokens=2) == 3200
    assert (costs.run_ps(GPU, 1), costs.run_ps(UNIT0, 1)) == (448, 4480)
    # Columns 3, 3 and 2 of 8: part 0 reads 3 * 8 * 3 * 2 = 144 B and (2 * 8 + 2 * 3) * 2 = 44 B a token.
    assert costs.run_ps(UNIT0, 2, part=0) == (144 + 2 * 44) * 10
    assert costs.load_ps(UNIT0, GPU, part=2) == 3 * 8 * 2 * 2 * 100
