"""The central scheduler: what a policy is shown, what it may answer, and what a run counts."""

import numpy as np
import pytest

from emulation.engine.spec import SpecEngine
from emulation.errors import PlanError
from emulation.ops import PREFETCH
from emulation.plan import Plan, Served
from emulation.view import DECODE, PREFILL, View
from schedulers.registry import load_policy
from tests.schedulers.rig import (
    Scripted,
    chiplets,
    drive,
    gpu_and_units,
    gpus,
    model,
    resting,
    routing,
    scheduler,
    step,
    timeline,
)

GPU, UNIT0 = 0, 1


def start(layers=2, copies=None):
    return resting(layers, [[UNIT0]] * 4, copies)


def run_of(plans, *, layers=2, copies=None, exact=True, dense=False, budget=None):
    of = model(moe_layers=layers, experts=4, top_k=1, dense=dense)
    return scheduler(gpu_and_units(1), of, Scripted(start(layers, copies), plans, exact), SpecEngine, budget)


def at_rest(view: View) -> Plan:
    plan = Plan(view.layer)
    for expert in view.routing.active.tolist():
        plan.run(expert, on=UNIT0)
    return plan


def test_a_policy_sees_layers_forecasts_and_time():
    seen = []

    def look(view: View) -> Plan:
        forecast = None if view.forecast is None else view.forecast.experts.tolist()
        seen.append((view.layer, view.moe, view.next_layer, forecast, view.now_ps, view.step.number))
        return at_rest(view)

    run = run_of([look] * 4, dense=True)
    feed = [(step(n, 1), [routing([[0]]), routing([[1]])], [None, routing([[3]])]) for n in range(2)]
    drive(run, feed)
    # rows 1600, expert 4480, back 1600, add 48: 7728 a layer
    assert seen == [(1, 0, 2, [[3]], 0, 0), (2, 1, None, None, 7728, 0),
                    (1, 0, 2, [[3]], 15456, 1), (2, 1, None, None, 23184, 1)]
    assert [(t.number, t.begin_ps, t.end_ps, t.prefill_tokens, t.decode_tokens) for t in run.steps] == [
        (0, 0, 15456, 0, 1), (1, 15456, 30912, 0, 1)]


def test_a_step_waits_for_its_arrival_and_not_for_the_past():
    run = run_of([at_rest, at_rest], layers=1)
    for number, arrival in enumerate((5000, 100)):
        run.begin(step(number, 1), arrival)
        run.decide(routing([[0]]))
        run.end()
    assert [(t.begin_ps, t.end_ps) for t in run.steps] == [(5000, 12728), (12728, 20456)]


def test_the_view_tells_the_work_that_waits_on_a_lane():
    backlog = []

    def first(view: View) -> Plan:
        plan = at_rest(view)
        plan.load(3, to=GPU, layer=1, priority=PREFETCH)
        return plan

    def second(view: View) -> Plan:
        backlog.append(view.backlog_ps(3))
        assert view.held(GPU).tolist() == [False, False, False, True]
        assert view.ledger.free_bytes(GPU) == 10**9 - 384
        return at_rest(view)

    run = run_of([first, second])
    drive(run, [(step(0, 1), [routing([[0]]), routing([[0]])], [None, None])])
    # back0: 38400 of the prefetch, of which 0-6400 and 8000-8048 ran before the decision at 8048
    assert backlog == [38400 - 6400 - 48]


def test_a_run_on_an_absent_shard_is_refused_with_where_it_rests():
    def plan(view: View) -> Plan:
        plan = Plan(view.layer)
        plan.run(2, on=GPU)
        return plan

    run = run_of([plan], layers=1)
    with pytest.raises(PlanError, match=r"runs expert 2 of layer 0 on 'gpu', .*or run it where it rests \(unit0\)"):
        drive(run, [(step(0, 1), [routing([[2]])], [None])])


def test_a_load_behind_the_run_that_needs_it_comes_too_late():
    def plan(view: View) -> Plan:
        plan = Plan(view.layer)
        plan.run(2, on=GPU)
        plan.load(2, to=GPU)
        return plan

    run = run_of([plan], layers=1)
    with pytest.raises(PlanError, match="runs expert 2 of layer 0 on 'gpu', which does not hold it"):
        drive(run, [(step(0, 1), [routing([[2]])], [None])])


def test_loads_over_capacity_are_refused_in_the_order_of_the_plan():
    def plan(view: View) -> Plan:
        plan = at_rest(view)
        plan.load(0, to=GPU)
        plan.load(1, to=GPU)
        return plan

    run = run_of([plan], layers=1, budget=384 * 4)
    run.ledger.budget_bytes = np.where(np.arange(len(run.ledger.budget_bytes)) == GPU, 384, run.ledger.budget_bytes)
    with pytest.raises(PlanError, match="room for 384 B of experts, and with the load of expert 1 of layer 0 it"):
        drive(run, [(step(0, 1), [routing([[2]])], [None])])


def test_a_copy_is_not_loaded_twice():
    def plan(view: View) -> Plan:
        plan = at_rest(view)
        plan.load(0, to=GPU)
        return plan

    with pytest.raises(PlanError, match="loads expert 0 of layer 0 to 'gpu', which holds it already"):
        drive(run_of([plan], layers=1, copies={GPU: [(0, 0)]}), [(step(0, 1), [routing([[2]])], [None])])


def test_early_runs_are_forgotten_with_their_step():
    def early(view: View) -> Plan:
        plan = at_rest(view)
        plan.run(1, on=UNIT0, layer=1, tokens=np.array([0]))
        return plan

    def served(view: View) -> Plan:
        plan = at_rest(view)
        plan.served = Served(np.array([0]), np.array([1]), np.ones(1), np.array([0]), np.array([1]))
        plan.rows = []
        return plan

    run = run_of([early, at_rest, at_rest, served], exact=False)
    feed = [(step(n, 1), [routing([[0]]), routing([[1]])], [None, None]) for n in range(2)]
    with pytest.raises(PlanError, match="expert 1 is said to have run early for token 0 from layer 0"):
        drive(run, feed)


def test_what_a_plan_leaves_in_flight_is_run_to_its_end():
    def plan(view: View) -> Plan:
        plan = at_rest(view)
        plan.load(3, to=GPU, priority=PREFETCH)
        return plan

    run = run_of([plan], layers=1)
    drive(run, [(step(0, 1), [routing([[0]])], [None])])
    # quanta of 6400: stopped for the result at 6400, resumed at 8000
    assert timeline(run)["copy prefetch e3 gpu"] == [(0, 40000)]
    assert run.steps[0].end_ps == 8048


# counts


def test_hits_misses_loads_and_runs_are_counted_by_phase():
    of = model(moe_layers=1, experts=4, top_k=1)
    run = scheduler(gpu_and_units(1), of, load_policy("lru", {"slots": 2}), SpecEngine)
    feed = [(step(0, 3, phase=PREFILL), [routing([[0], [3], [3]])], [None]),
            (step(1, 2, phase=DECODE), [routing([[3], [1]])], [None]),
            (step(2, 1, phase=DECODE), [routing([[3]])], [None])]
    drive(run, feed)
    prefill, decode = run.counts.phases["prefill"], run.counts.phases["decode"]
    assert (prefill.hits, prefill.misses, prefill.loads, prefill.loaded_bytes) == (1, 1, 1, 384)
    assert (decode.hits, decode.misses, decode.loads, decode.loaded_bytes) == (2, 1, 1, 384)
    assert (prefill.runs.tolist(), decode.runs.tolist()) == ([2, 0], [3, 0])
    assert run.counts.load.tolist() == [[[1, 0, 0, 2]], [[0, 1, 0, 2]]]


def prefetch(*experts: int):
    def plan(view: View) -> Plan:
        plan = at_rest(view)
        for expert in experts:
            plan.load(expert, to=GPU, layer=1, priority=PREFETCH)
        return plan
    return plan


def on_gpu(view: View) -> Plan:
    plan = Plan(view.layer)
    for expert in view.routing.active.tolist():
        if not view.held(GPU)[expert]:
            plan.load(expert, to=GPU)
        plan.run(expert, on=GPU)
    return plan


def test_a_prefetch_is_useful_once_and_late_if_it_came_after_the_decision():
    # Layer 1 is decided at 8048; the prefetch of e1 arrives at 40000.
    run = run_of([prefetch(1, 2), on_gpu, at_rest, on_gpu])
    drive(run, [(step(n, 1), [routing([[0]]), routing([[1]])], [None, None]) for n in range(2)])
    assert run.counts.prefetch(run.engine.spans().end_ps) == {"issued": 2, "useful": 1, "late": 1, "wasted": 1}
    assert (run.counts.phases["decode"].hits, run.counts.phases["decode"].misses) == (2, 2)


def test_a_prefetch_that_was_evicted_before_its_use_is_wasted():
    def drop(view: View) -> Plan:
        plan = at_rest(view)
        plan.evict(1, of=GPU, layer=1)
        return plan

    run = run_of([prefetch(1), at_rest, drop, on_gpu])
    drive(run, [(step(n, 1), [routing([[0]]), routing([[n]])], [None, None]) for n in range(2)])
    assert run.counts.prefetch(run.engine.spans().end_ps) == {"issued": 1, "useful": 0, "late": 0, "wasted": 1}


def test_an_expert_that_any_home_holds_is_a_hit():
    run = scheduler(gpus(2), model(moe_layers=1, experts=4, top_k=1), load_policy("expert_parallel", {}), SpecEngine)
    drive(run, [(step(0, 2, (0, 1)), [routing([[0], [3]])], [None])])
    assert (run.counts.phases["decode"].hits, run.counts.phases["decode"].misses) == (2, 0)


def test_chiplets_find_nothing_where_they_load_every_expert_anew():
    run = scheduler(chiplets(), model(moe_layers=1, experts=4, top_k=1), load_policy("expert_parallel", {}), SpecEngine)
    drive(run, [(step(n, 4, (0, 1, 2, 3)), [routing([[0], [1], [2], [3]])], [None]) for n in range(2)])
    tally = run.counts.phases["decode"]
    assert (tally.hits, tally.misses, tally.loads) == (0, 8, 8)
    assert tally.runs.tolist() == [2, 2, 2, 2, 0, 0, 0, 0]


class Forgetful:
    """Returns its plan, and forgets the state that belongs beside it."""

    exact = True

    def start(self, setting):
        return start(), None

    def plan(self, view, state):
        return at_rest(view)


def test_a_policy_that_forgets_its_next_state_is_told_so():
    run = scheduler(gpu_and_units(1), model(moe_layers=2, experts=4, top_k=1, dense=False), Forgetful(), SpecEngine)
    with pytest.raises(PlanError, match=r"plan\(\) returned Plan: it returns two things, a Plan and the policy's next"):
        drive(run, [(step(0, 1), [routing([[0]]), routing([[1]])], [None, None])])
