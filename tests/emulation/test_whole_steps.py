"""Policies that answer for a whole step: rows, states and times are those of their answers layer by layer."""

import importlib.util
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest

from cluster.config.run import RunConfig
from cluster.feed import divided
from cluster.resolve import Setup, resolve
from emulation.engine.choose import make_engine
from emulation.ledger import Ledger
from emulation.lowering.dense import shares
from emulation.plan import RUN, Plan, StepPlan, plain_rows
from emulation.validate import ran_early
from emulation.view import Routing, StepView, View
from schedulers import expert_parallel, lru, lru_prefetch, resident, tensor_parallel
from schedulers.contract import whole_steps
from schedulers.registry import load_policy
from workloads.forecasts import Forecaster

MACHINES = ("h200-host", "edge-gpu-ndp", "cxl-ndp", "cpu-gpu-a6000")
POLICIES: dict[str, dict[str, Any]] = {"resident": {}, "lru": {"slots": 5}, "lru_prefetch": {"slots": 6},
                                       "expert_parallel": {}, "tensor_parallel": {}}


def setup_of(machine: str, policy: str, parameters: dict[str, Any]) -> Setup:
    return resolve(RunConfig.model_validate({
        "machine": {"name": machine}, "model": {"name": "olmoe-1b-7b", "layers": 5}, "seed": 3,
        "workload": {"work": "synthetic", "generator": {"name": "zipf", "skew": 0.6}, "batch": 5, "prompt_tokens": 7,
                     "output_tokens": 5},
        "policy": {"name": policy, "parameters": parameters}}))


def tallied(routing: list[Routing], experts: int) -> tuple[Any, Any, Any]:
    """order [layers, experts], active [layers], counts [layers, experts]."""
    counts = np.stack([each.counts(experts) for each in routing])
    order = np.zeros_like(counts)
    for row, each in zip(order, routing, strict=True):
        row[:len(each.active)] = each.active
    return order, np.array([len(each.active) for each in routing]), counts


@pytest.mark.parametrize("slots", [1, 2, 7, 64])
@pytest.mark.parametrize("policy", POLICIES)
def test_rows_and_states_of_a_whole_step_are_those_of_its_layers(policy: str, slots: int) -> None:
    setup = setup_of("edge-gpu-ndp" if policy != "resident" else "h200-host", policy,
                     {"slots": slots} if "slots" in POLICIES[policy] else {})
    made = load_policy(setup.policies[0].target, setup.policies[0].parameters)
    stepwise, setting, model = whole_steps(made), setup.setting, setup.model
    assert stepwise is not None
    start, state = made.start(setting)
    ledger, whole = Ledger(setting.machine, model, start, setting.budget_bytes), state
    for step, routed in divided(setup)[1]:
        layers = [routed.layer(moe) for moe in range(len(model.moe_layers))]
        answer = stepwise.plan_step(StepView(setting, step, np.array(model.moe_layers),
                                             *tallied(layers, model.experts), ledger), whole)
        assert answer is not None
        found, whole = answer
        for moe, routing in enumerate(layers):
            view = View(setting, step, model.moe_layers[moe], moe, routing, None, ledger, ran_early(0, [], 1),
                        lambda: 0, lambda _: 0)
            plan, state = made.plan(view, state)
            columns = plan.columns()
            assert columns is not None
            assert found.rows[:, found.ptr[moe]:found.ptr[moe + 1]].tolist() == columns.tolist()
            assert found.exchange == plan.exchange
        assert found.ptr[-1] == found.rows.shape[1]
        assert np.array_equal(whole, state) if state is not None else whole is None


@pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_step_lowered_at_once_runs_as_its_layers_do(machine: str, policy: str) -> None:
    from actors.columnar import ColumnScheduler
    from cluster.observe.collect import Collector
    from cluster.observe.series.slices import rows_of
    from emulation.lowering.streams import crossings

    setup = setup_of(machine, policy, POLICIES[policy])
    target, model = setup.policies[0], setup.model
    nobody = Forecaster("none", len(model.moe_layers), model.experts, model.top_k, 1.0, 1)
    told = []
    for guess in (None, nobody.guess):
        made = ColumnScheduler(setup.setting, load_policy(target.target, target.parameters),
                               partial(make_engine, "compiled"))
        collector = Collector(made.engine, 10**6, 0, rows_of(setup.machine), crossings(setup.machine))
        made.watch(collector)
        for step, routed in divided(setup)[1]:
            made.time(made.lower(step, shares(step), routed, guess, nobody.observe))
        made.finish()
        made.count(collector.end_ps)
        waits = np.concatenate([each.ops.wait_op for each in collector.kept.submitted])
        told.append([collector.spans_digest, collector.end_ps.tolist(), collector.latency_ps.tolist(), waits.tolist(),
                     made.steps, made.counts.load.tolist(), made.emit.moved_bytes.tolist(),
                     made.ledger.peak_bytes.tolist(), made.counts.phases["decode"].hits])
    assert told[0] == told[1]


def test_a_class_that_changes_the_plan_alone_is_asked_layer_by_layer() -> None:
    @dataclass(frozen=True)
    class Changed(lru.Policy):
        def plan(self, view: View, state: Any) -> tuple[Plan, Any]:
            return super().plan(view, state)

    @dataclass(frozen=True)
    class Renamed(lru.Policy):
        pass

    assert whole_steps(Changed()) is None
    for kind in (Renamed, resident.Policy, lru_prefetch.Policy, expert_parallel.Policy, tensor_parallel.Policy):
        assert whole_steps(kind()) is not None


@pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")
@pytest.mark.parametrize("wrong", ["pointers", "short", "expert", "layer", "exchange"])
def test_a_wrong_answer_for_a_step_is_left_to_the_readable_path(wrong: str) -> None:
    from actors.columnar import ColumnScheduler
    from cluster.observe.collect import Collector
    from emulation.lowering.columns import NotPlain

    class Policy(resident.Policy):
        def plan(self, view: View, state: Any) -> tuple[Plan, Any]:
            return super().plan(view, state)

        def plan_step(self, view: StepView, state: Any) -> tuple[StepPlan, Any]:
            moe, expert, ptr = view.listed()
            rows, exchange = plain_rows(RUN, view.layers[moe], expert, view.setting.machine.homes[0]), "unicast"
            if wrong == "pointers":
                ptr = ptr[::-1].copy()
            elif wrong == "short":
                ptr = np.minimum(ptr, ptr[-1] - 1)
            elif wrong == "expert":
                rows[2, 0] = -1
            elif wrong == "layer":
                rows[1, 0] += 1
            else:
                exchange = "by hand"
            return StepPlan(rows, ptr, exchange), state

    setup = setup_of("h200-host", "resident", {})
    made = ColumnScheduler(setup.setting, Policy(), partial(make_engine, "compiled"))
    made.watch(Collector(made.engine))
    step, routed = divided(setup)[1][0]
    with pytest.raises(NotPlain):
        made.lower(step, shares(step), routed, None, lambda *_: None)
