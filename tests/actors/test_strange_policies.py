"""What a policy returns or does that no policy may: one sentence, and nothing changed behind the scheduler's back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from emulation.errors import PlanError
from emulation.ledger import Start
from emulation.ops import HIGHEST, PREFETCH
from emulation.plan import Plan
from emulation.view import Setting, View
from tests.schedulers.rig import fast_engine, gpu_and_units, model, routing, scheduler, step

GPU, UNIT = 0, 1
EXPERTS = 4


def rest(setting: Setting) -> np.ndarray:
    unit = setting.machine.stores[0]
    return np.full((len(setting.model.moe_layers), setting.model.experts, 1), unit)


def honest(view: View) -> Plan:
    plan = Plan(view.layer)
    for expert in view.routing.active.tolist():
        plan.run(expert, on=int(view.ledger.start.rest[view.moe, expert, 0]))
    return plan


@dataclass(frozen=True)
class Strange:
    """A policy of two functions."""

    begin: Callable[[Setting], Any]
    answer: Callable[[View], Any]
    exact: ClassVar[bool] = True

    def start(self, setting: Setting) -> Any:
        return self.begin(setting), None

    def plan(self, view: View, state: Any) -> Any:
        return self.answer(view), state


def drive(begin: Callable[[Setting], Any] = lambda s: Start(rest(s)), answer: Callable[[View], Any] = honest) -> None:
    small = model(moe_layers=1, experts=EXPERTS, top_k=1)
    run = scheduler(gpu_and_units(2), small, Strange(begin, answer), fast_engine())
    run.begin(step(0, 2))
    run.decide(routing([[0], [1]]))
    run.end()


def test_an_honest_one_passes() -> None:
    drive()


@pytest.mark.parametrize(("begin", "told"), [
    (lambda _: None, r"start\(\) returned NoneType: it returns a Start"),
    (lambda _: Start([[1]]), "rest is list: it is device numbers"),
    (lambda s: Start(rest(s).astype(float)), r"rest is float64 \[1, 4, 1\]"),
    (lambda s: Start(rest(s)[:, :, 0]), r"rest is int64 \[1, 4\]"),
    (lambda s: Start(rest(s)[:, :3]), r"places \(1, 3\) \(layers, experts\), the model has \(1, 4\)"),
    (lambda s: Start(rest(s)[:, :, :0]), "cuts each expert into 0 parts"),
    (lambda s: Start(rest(s).repeat(s.model.d_ff + 1, axis=2)), "parts; it has .* columns to share"),
    (lambda s: Start(rest(s) + 90), "places experts on device 9[0-9], but the machine has"),
    (lambda s: Start(rest(s) * 0 - 1), "places experts on device -1"),
    (lambda s: Start(rest(s), {99: np.ones((1, EXPERTS), np.bool_)}), "places experts on device 99"),
    (lambda s: Start(rest(s), {GPU: np.ones((2, 2), np.bool_)}), r"copies on 'gpu' are bool \[2, 2\]"),
    (lambda s: Start(rest(s), {GPU: np.ones((1, EXPERTS))}), r"copies on 'gpu' are float64 \[1, 4\]"),
    (lambda s: Start(rest(s), {GPU: [True]}), "copies on 'gpu' are list"),
])
def test_a_start_that_is_none_is_refused(begin: Callable[[Setting], Any], told: str) -> None:
    with pytest.raises(PlanError, match=told):
        drive(begin)


def with_row(**more: Any) -> Callable[[View], Plan]:
    def answer(view: View) -> Plan:
        plan = honest(view)
        plan.rows[0] = plan.rows[0]._replace(**more)
        return plan
    return answer


def tokens(value: Any) -> Callable[[View], Plan]:
    def answer(view: View) -> Plan:
        plan = Plan(view.layer)
        plan.run(0, on=UNIT, tokens=value)
        return plan
    return answer


def stray(view: View) -> Plan:
    plan = honest(view)
    plan.rows.append((0, 1))  # type: ignore[arg-type]
    return plan


@pytest.mark.parametrize(("answer", "told"), [
    (lambda _: 3, "answers layer 0 with int: it returns a Plan"),
    (lambda _: None, "answers layer 0 with NoneType"),
    (stray, "holds a tuple among its rows"),
    (with_row(priority=10**30), "gives priority 10{29,30} to expert 0"),
    (tokens([0.5]), r"names tokens float64 \[1\]: they are whole row numbers"),
    (tokens([[0]]), r"names tokens int64 \[1, 1\]"),
    (tokens([]), "runs expert 0 of layer 0 for no token"),
])
def test_a_plan_that_is_none_is_refused(answer: Callable[[View], Any], told: str) -> None:
    with pytest.raises(PlanError, match=told):
        drive(answer=answer)


def test_a_prefetch_of_the_least_urgency_is_taken() -> None:
    def answer(view: View) -> Plan:
        plan = honest(view)
        plan.load(2, to=GPU, priority=PREFETCH)
        plan.load(3, to=GPU, priority=HIGHEST)
        return plan
    drive(answer=answer)


@pytest.mark.parametrize("seen", [
    lambda view: view.routing.experts, lambda view: view.routing.weights, lambda view: view.step.position,
    lambda view: view.step.sequence, lambda view: view.step.home, lambda view: view.setting.budget_bytes,
    lambda view: view.ledger.budget_bytes, lambda view: view.ledger.start.rest])
def test_what_a_policy_sees_is_not_its_to_change(seen: Callable[[View], np.ndarray]) -> None:
    def answer(view: View) -> Plan:
        seen(view)[:] = 0
        return honest(view)
    with pytest.raises(ValueError, match="read-only"):
        drive(answer=answer)


def test_a_start_that_is_changed_afterwards_changes_nothing() -> None:
    kept: list[np.ndarray] = []

    def begin(setting: Setting) -> Start:
        kept.append(rest(setting))
        return Start(kept[0])

    def answer(view: View) -> Plan:
        kept[0][:] = GPU
        return honest(view)
    drive(begin, answer)
