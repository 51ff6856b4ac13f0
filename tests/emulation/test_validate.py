"""What the scheduler refuses in a plan, and the story it tells; and what a declared change is counted as."""

from dataclasses import replace

import numpy as np
import pytest

from emulation.errors import PlanError
from emulation.ledger import Ledger
from emulation.plan import ALL_PARTS, Plan, Served
from emulation.validate import Assignment, ran_early, validate
from emulation.view import Early, View
from tests.schedulers.rig import chiplets, gpu_and_units, model, resting, routing, setting, step

GPU, UNIT0, UNIT1 = 0, 1, 2
NOTHING_EARLY = Early(*np.empty((3, 0), np.int64))


def view(experts, *, layer=1, parts=1, early=NOTHING_EARLY, machine=None, weights=None):
    """Layer 1 of three MoE layers behind a dense one; 4 experts, all resting on unit 0."""
    of = model(moe_layers=3, experts=4, top_k=len(experts[0]), dense=True)
    given = setting(machine or gpu_and_units(2), of)
    rest = [[UNIT0] * parts] * 4 if machine is None else [[4]] * 4
    ledger = Ledger(given.machine, of, resting(3, rest), given.budget_bytes)
    return View(given, step(0, len(experts)), layer, layer - 1, routing(experts, weights), None, ledger, early,
                lambda: 0, {}.__getitem__)


def plan(*runs, layer=1, exchange="unicast", served=None, **more):
    """Runs of (expert, device) or (expert, device, tokens)."""
    made = Plan(layer, exchange)
    for expert, on, *tokens in runs:
        made.run(expert, on, tokens=np.array(tokens[0]) if tokens else None, **more)
    made.served = served
    return made


def serves(*rows, weights=None):
    """Rows of (token, expert, input layer, routed expert)."""
    token, expert, layer, routed = np.array(rows, np.int64).T
    return Served(token, expert, np.ones(len(rows)) if weights is None else np.array(weights), layer, routed)


def test_a_plan_that_serves_each_pair_once_passes_with_its_tokens_and_weights():
    seen = view([[0, 2], [2, 1]], weights=[[0.25, 0.75], [0.5, 0.125]])
    decision = validate(seen, plan((2, UNIT0), (0, UNIT0), (1, UNIT1)), 1, True)
    assert [(run.expert, run.device, run.tokens.tolist(), run.weights.tolist()) for run in decision.assignments] == [
        (2, UNIT0, [0, 1], [0.75, 0.5]), (0, UNIT0, [0], [0.25]), (1, UNIT1, [1], [0.125])]
    assert decision.early.dtype == np.bool_
    assert not decision.early.any()
    assert decision.plan.rows[0].expert == 2
    assert (decision.substituted, decision.dropped, decision.substituted_experts) == (0, 0, 0)


def test_named_tokens_get_their_own_weights_in_their_order():
    seen = view([[2, 0], [3, 2], [2, 1]], weights=[[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]])
    decision = validate(seen, plan((2, UNIT0, [2, 0]), (2, UNIT1, [1]), (0, UNIT0), (3, UNIT0), (1, UNIT0)), 1, True)
    assert decision.assignments[0].weights.tolist() == [0.3, 0.1]
    assert decision.assignments[0][:4] == (1, 2, ALL_PARTS, UNIT0)
    assert decision.assignments[1].weights.tolist() == [0.8]


def test_parts_of_an_expert_may_run_apart():
    made = Plan(1)
    made.run(0, UNIT0, part=0)
    made.run(0, UNIT1, part=1)
    assert len(validate(view([[0]], parts=2), made, 2, True).assignments) == 2


def part_twice() -> Plan:
    made = Plan(1)
    made.run(0, UNIT0, part=0)
    made.run(0, UNIT1, part=0)
    return made


def early(expert=3, on=UNIT0, tokens=None, layer=2):
    made = plan((0, UNIT0), (1, UNIT0))
    made.run(expert, on, tokens=tokens, layer=layer)
    return made


def load(expert, to, **more):
    made = plan((0, UNIT0), (1, UNIT0))
    made.load(expert, to, **more)
    return made


@pytest.mark.parametrize(("made", "parts", "says"), [
    (plan((0, UNIT0)), 1, r"layer 1: token 1 with expert 1 is unserved \(0 of 1 parts\)"),
    (plan(), 1, r"layer 1: token 0 with expert 0 is unserved \(0 of 1 parts\)"),
    (plan((0, UNIT0), (1, UNIT0), (0, UNIT1)), 1, r"token 0 with expert 0 is served twice \(2 of 1 parts\)"),
    (plan((0, UNIT0, [0, 0]), (1, UNIT0)), 1, r"token 0 with expert 0 is served twice \(2 of 1 parts\)"),
    (plan((0, UNIT0, [0, 1]), (1, UNIT0)), 1, r"token 1 with expert 0 is served though it was not routed"),
    (plan((0, UNIT0), (1, UNIT0), (2, UNIT0)), 1, "runs expert 2 of layer 1, to which no token is routed"),
    (plan((0, UNIT0), (1, UNIT0), part=0), 2, r"token 0 with expert 0 is unserved \(1 of 2 parts\)"),
    (plan((0, UNIT0), (1, UNIT0), part=2), 2, "names part 2 of expert 0, but an expert has 2"),
    (plan((0, UNIT0), (4, UNIT0)), 1, "names expert 4, but a layer has 4"),
    (plan((0, UNIT0), (-1, UNIT0)), 1, "names expert -1, but a layer has 4"),
    (plan((0, 3), (1, UNIT0)), 1, "names device 3, but the machine has 3"),
    (plan((0, UNIT0, [2]), (1, UNIT0)), 1, "a run of expert 0 names token 2; the step has 2"),
    (plan((0, UNIT0, [1, -1]), (1, UNIT0)), 1, "a run of expert 0 names token -1; the step has 2"),
    (plan((0, UNIT0, np.array([], int)), (1, UNIT0)), 1, "runs expert 0 of layer 1 for no token"),
    (plan((0, UNIT0), (1, UNIT0), layer=2), 1, "a plan for layer 1 names layer 2"),
    (plan((0, UNIT0), (1, UNIT0), exchange="broadcats"), 1, "unknown exchange 'broadcats'; did you mean 'broadcast'"),
    (early(layer=0, tokens=[0]), 1, "names layer 0, which has no experts"),
    (early(layer=4, tokens=[0]), 1, "names layer 4, which has no experts"),
    (early(), 1, "an early run of expert 3 of layer 2 names no tokens"),
    (load(4, GPU), 1, "names expert 4, but a layer has 4"),
    (load(3, GPU, over=-2), 1, "names expert -2, but a layer has 4"),
    (plan((0, UNIT0), (1, UNIT0), served=serves((0, 0, 1, 0), (1, 1, 1, 1))), 1, "calls itself exact, but serves"),
])
def test_what_an_exact_policy_may_not_do(made, parts, says):
    with pytest.raises(PlanError, match=says) as told:
        validate(view([[0], [1]], parts=parts), made, parts, True)
    assert "\n" not in str(told.value)


def test_one_part_twice_does_not_make_a_whole():
    with pytest.raises(PlanError, match="layer 1: part 0 of expert 0 is served twice for token 0"):
        validate(view([[0]], parts=2), part_twice(), 2, True)


def test_one_part_twice_is_found_among_the_runs_of_other_experts():
    made = Plan(1)
    for expert, part in ((0, 0), (1, 0), (0, 0), (1, 1)):
        made.run(expert, UNIT0, part=part)
    with pytest.raises(PlanError, match=r"^layer 1: part 0 of expert 0 is served twice for token 0$"):
        validate(view([[0, 1]], parts=2), made, 2, True)


def test_a_layer_that_is_over_is_not_run():
    with pytest.raises(PlanError, match="the plan for layer 2 runs expert 0 of layer 1, which is over"):
        validate(view([[0]], layer=2), _late(), 1, True)


def _late() -> Plan:
    made = Plan(2)
    made.run(0, UNIT0)
    made.run(0, UNIT0, layer=1, tokens=np.array([0]))
    return made


def test_a_device_that_computes_nothing_runs_nothing():
    with pytest.raises(PlanError, match="runs expert 0 on 'ddr0', which computes no experts: load it"):
        validate(view([[0]], machine=chiplets()), plan((0, 4)), 1, True)


def test_a_device_that_computes_other_things_runs_no_expert():
    machine = gpu_and_units(1)
    machine = replace(machine, devices=tuple(replace(device, kernels={}) for device in machine.devices))
    with pytest.raises(PlanError, match="runs expert 0 on 'unit0', which computes no experts: load it"):
        validate(replace(view([[0]]), setting=setting(machine, model(moe_layers=3, experts=4, top_k=1, dense=True))),
                 plan((0, UNIT0)), 1, True)


# declared changes


def lossy(routed, *rows, runs=None, early=NOTHING_EARLY, weights=None):
    experts = list(dict.fromkeys(row[1] for row in rows if row[2] == 1)) if runs is None else runs
    made = plan(*((expert, UNIT0) for expert in experts), served=serves(*rows, weights=weights))
    return validate(view(routed, early=early), made, 1, False)


def test_substitutes_are_counted_by_pair_and_by_expert():
    decision = lossy([[0], [1], [1], [2]], (0, 0, 1, 0), (1, 3, 1, 1), (2, 3, 1, 1), (3, 3, 1, 2))
    assert (decision.substituted, decision.substituted_experts, decision.dropped) == (3, 2, 0)
    assert [(run.expert, run.tokens.tolist()) for run in decision.assignments] == [(0, [0]), (3, [1, 2, 3])]


def test_pairs_that_no_row_stands_for_are_dropped():
    decision = lossy([[0, 1], [1, 2]], (0, 0, 1, 0), (1, 2, 1, 2))
    assert (decision.substituted, decision.dropped) == (0, 2)


def test_a_substitute_that_is_routed_too_runs_once_with_both_weights():
    decision = lossy([[0, 1]], (0, 0, 1, 0), (0, 0, 1, 1), weights=[0.25, 0.5])
    [run] = decision.assignments
    assert (run.tokens.tolist(), run.weights.tolist()) == ([0], [0.75])
    assert (decision.substituted, decision.dropped) == (1, 0)
    assert decision.served.weight.tolist() == [0.75]


def test_what_is_served_early_is_not_run_again():
    ran = Early(np.array([0, 1]), np.array([2, 2]), np.array([1, 1]))
    seen = view([[2], [3]], layer=2, early=ran)
    made = plan((3, UNIT0), layer=2, served=serves((0, 2, 1, 2), (1, 3, 2, 3), weights=[0.25, 0.75]))
    made.layer = 2
    made.rows = [made.rows[0]._replace(layer=2)]
    decision = validate(seen, made, 1, False)
    assert decision.early.tolist() == [True, False]
    [run] = decision.assignments
    assert (run.expert, run.tokens.tolist(), run.weights.tolist()) == (3, [1], [0.75])


@pytest.mark.parametrize(("rows", "says"), [
    ([(0, 3, 1, 0)], "runs expert 0 of layer 1, to which no token is routed"),
    ([(-1, 0, 1, 0), (1, 1, 1, 1)], "the served routing has token -1"),
    ([(0, 0, 1, 0), (1, 1, 1, 2)], "token 1 on expert 1 for expert 2 with the input of layer 1, which was not routed"),
    ([(0, 0, 1, 0), (1, 0, 1, 1), (1, 1, 1, 1)], "layer 1: token 1 with expert 1 is served twice: two rows"),
    ([(0, 0, 0, 0), (1, 1, 1, 1)], "expert 0 is said to have run early for token 0 from layer 0, but no earlier plan"),
    ([(0, 0, 2, 0), (1, 1, 1, 1)], "with the input of layer 2, which was not routed or cannot be"),
    ([(2, 0, 1, 0), (1, 1, 1, 1)], "the served routing has token 2"),
    ([(0, 4, 1, 0), (1, 1, 1, 1)], "the served routing has token 0 on expert 4"),
])
def test_undeclared_or_impossible_changes_are_refused(rows, says):
    with pytest.raises(PlanError, match=says):
        lossy([[0], [1]], *rows, runs=[0, 1])


@pytest.mark.parametrize(("rows", "says"), [
    # Beside the tokens of the step, as numbers that a routed pair would have: 2 * 0 + 2 is expert 1 of token 0.
    ([(2, 1, 1, 0), (1, 1, 1, 1)], "the served routing has token 2 on expert 1 for expert 0"),
    ([(-1, 1, 1, 2), (0, 1, 1, 1)], "the served routing has token -1 on expert 1 for expert 2"),
])
def test_a_token_beyond_the_step_is_not_taken_for_a_pair_of_another_expert(rows, says):
    with pytest.raises(PlanError, match=says):
        lossy([[1], [1]], *rows, runs=[1])


def test_where_every_pair_is_dropped_no_part_runs():
    made = plan(served=Served(*(np.empty(0, np.int64) for _ in range(5))))
    decision = validate(view([[0, 1]], parts=2), made, 2, False)
    assert (decision.dropped, decision.substituted, decision.assignments) == (2, 0, [])


def test_an_undeclared_substitution_is_refused():
    with pytest.raises(PlanError, match="runs expert 3 of layer 1, to which no token is routed"):
        validate(view([[0], [1]]), plan((0, UNIT0), (3, UNIT0)), 1, False)
    with pytest.raises(PlanError, match="token 1 with expert 0 is served though it was not routed"):
        validate(view([[0], [1]]), plan((0, UNIT0, [0, 1])), 1, False)


def test_columns_of_a_served_routing_are_as_long_as_each_other():
    rows = serves((0, 0, 1, 0), (1, 1, 1, 1))
    made = plan((0, UNIT0), (1, UNIT0), served=rows._replace(weight=np.ones(1)))
    with pytest.raises(PlanError, match="differ in length"):
        validate(view([[0], [1]]), made, 1, False)


# what ran early


def ran(expert, part, tokens):
    return Assignment(2, expert, part, UNIT0, np.array(tokens), np.ones(len(tokens)))


def test_only_pairs_that_ran_whole_ran_early():
    got = ran_early(2, [(1, ran(3, 0, [0, 1])), (1, ran(3, 1, [1])), (0, ran(2, -1, [0]))], 2)
    assert [tuple(int(i) for i in pair) for pair in zip(*got, strict=True)] == [(1, 3, 1), (0, 2, 0)]


@pytest.mark.parametrize("runs", [
    [(1, ran(3, 0, [0])), (1, ran(3, 0, [0]))],
    [(1, ran(3, -1, [0])), (1, ran(3, 1, [0]))],
    [(0, ran(3, 0, [0])), (1, ran(3, 1, [0]))],
    [(1, ran(3, -1, [0, 0]))],
])
def test_a_pair_that_ran_early_twice_is_refused(runs):
    with pytest.raises(PlanError, match="layer 2: expert 3 ran early twice for token 0"):
        ran_early(2, runs, 2)
