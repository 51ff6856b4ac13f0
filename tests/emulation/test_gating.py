"""Gatings by hand: capacities, drops, masks, and the order of the two all-to-alls.

Two GPUs, four experts (0 and 1 rest on GPU 0, 2 and 3 on GPU 1), a token visits one. A row of activations is 16 bytes,
an expert 384 bytes of weights and 64 for each row; kernels take 1 ps a byte, links 100. Tokens 0 and 2 lie on GPU 0,
1 and 3 on GPU 1; token 2 is routed to expert 2, all others to expert 0.
"""

from dataclasses import replace

import numpy as np
import pytest

from emulation.engine.spec import SpecEngine
from emulation.errors import ConfigError, PlanError
from emulation.machine import Machine
from emulation.plan import Gating, Plan, Served
from emulation.view import View
from schedulers.registry import load_policy
from tests.schedulers.rig import GB, Scripted, drive, gpus, kernels, model, moved, resting, routing, scheduler, step
from tests.schedulers.rig import timeline as spans

FAMILIES = ("expert", "reduce", "sort", "gather", "mask", "einsum")
ROUTED = [[0], [0], [2], [0]]
REST = resting(1, [[0], [0], [1], [1]])


def two_gpus() -> Machine:
    machine = gpus(2)
    return replace(machine, devices=tuple(replace(device, kernels=kernels(1000 * GB, FAMILIES))
                                          for device in machine.devices))


def gated(policy, layer=ROUTED, *, top_k=1, machine=None):
    machine = machine or two_gpus()
    run = scheduler(machine, model(moe_layers=1, experts=4, top_k=top_k), policy, SpecEngine)
    decisions = drive(run, [(step(0, len(layer), machine.homes), [routing(layer)], [None])])
    return run, decisions[0]


def test_sizes_go_first_and_rows_are_put_in_order_meanwhile() -> None:
    # gpu0,1 |sort 0-512|rows 512-576|
    # sizes              |512-1312|            8 bytes each way: one expert is told of on either side
    # rows                         |1312-4512| two of GPU 1 hold its link for 3200, one of GPU 0 the other for 1600
    # gpu0 by expert                          |96|e0 4608-5184|96|
    # gpu1                                    |32|e2 4544-4992|32|
    # back                                                        |5280-8480| gather 64, reduce 96
    run, decision = gated(load_policy("dynamic_gating", {}))
    assert spans(run) == {
        "sort gpu0": [(0, 512)], "sort gpu1": [(0, 512)],
        "copy dispatch": [(512, 1312), (1312, 4512)], "copy return": [(5280, 8480)],
        "gather gpu0": [(512, 576), (4512, 4608), (5184, 5280), (8480, 8544)],
        "gather gpu1": [(512, 576), (4512, 4544), (4992, 5024), (8480, 8544)],
        "expert e0 gpu0": [(4608, 5184)], "expert e2 gpu1": [(4544, 4992)],
        "reduce gpu0": [(8544, 8640)], "reduce gpu1": [(8544, 8640)]}
    assert run.steps[0].end_ps == 8640
    assert moved(run) == {("0>1", "dispatch"): 8 + 16, ("1>0", "dispatch"): 8 + 32,
                          ("0>1", "return"): 32, ("1>0", "return"): 16}
    assert decision.dropped == 0


def test_without_overlap_rows_wait_for_the_sizes() -> None:
    run, _ = gated(load_policy("dynamic_gating", {"overlap": False}))
    assert spans(run)["gather gpu0"][0] == (1312, 1376)
    assert spans(run)["copy dispatch"] == [(512, 1312), (1376, 4576)]
    assert run.steps[0].end_ps == 8640 + 64


def test_static_gating_fills_up_masks_and_drops() -> None:
    # Half of two tokens: each expert gets one row from each GPU; token 3 finds none. Each GPU sends four rows.
    # gpu0,1 |mask 0-32|einsum 32-144|    masks 2 x 2 x 4 values; product (2 x 4 + (2 + 4) x 8) values
    # rows                             |144-3344|  two each way
    # gpu0,1                                     |512|512|  two experts over two rows each
    # back                                                |4368-7568|einsum 112|
    run, decision = gated(load_policy("static_gating", {"capacity_factor": "0.5"}))
    assert spans(run) == {
        **{f"mask gpu{i}": [(0, 32)] for i in (0, 1)}, **{f"einsum gpu{i}": [(32, 144), (7568, 7680)] for i in (0, 1)},
        "copy dispatch": [(144, 3344)], "copy return": [(4368, 7568)],
        "expert e0 gpu0": [(3344, 3856)], "expert e1 gpu0": [(3856, 4368)],
        "expert e2 gpu1": [(3344, 3856)], "expert e3 gpu1": [(3856, 4368)]}
    assert run.steps[0].end_ps == 7680
    assert decision.dropped == 1
    assert decision.served.token.tolist() == [0, 1, 2]


def test_what_static_gating_holds() -> None:
    # Each GPU: masks 32, four rows out and back 128; four rows in and out 128, inner rows 2 x 32.
    run, _ = gated(load_policy("static_gating", {"capacity_factor": "0.5"}))
    assert run.gated_bytes.tolist() == [352, 352]
    # By index: ids and index of two pairs 32, two rows out and back 64; GPU 0 gets three rows, GPU 1 one.
    run, _ = gated(load_policy("dynamic_gating", {}))
    assert run.gated_bytes.tolist() == [32 + 64 + 96 + 3 * 32, 32 + 64 + 32 + 32]


def test_indexing_in_place_of_masks_is_faster_where_masks_are_large() -> None:
    layer = [[i % 4] for i in range(64)]
    masks, index = (gated(load_policy("static_gating", {"capacity_factor": "1", "indexing": on}), layer)[0]
                    for on in (False, True))
    assert index.steps[0].end_ps < masks.steps[0].end_ps
    assert index.gated_bytes.max() < masks.gated_bytes.max()
    assert moved(index)["0>1", "return"] == moved(masks)["0>1", "return"]


def test_tutel_takes_the_largest_count_for_all() -> None:
    # Expert 0 gets two rows of GPU 1: so every expert gets two of each, and is told so before rows are put in order.
    run, decision = gated(load_policy("tutel_gating", {}))
    assert spans(run)["copy dispatch"] == [(512, 1312), (1568, 7968)]
    assert spans(run)["expert e1 gpu0"] == [(8608, 9248)]
    assert spans(run)["reduce gpu0"] == [(15712, 15808)]
    assert run.steps[0].end_ps == 15808
    assert decision.dropped == 0


def test_first_choices_are_served_before_any_second_one() -> None:
    # Tokens 0 and 2 of GPU 0: expert 1 is 0's second choice and 2's first; one row of it.
    run, decision = gated(load_policy("static_gating", {"capacity_factor": "0.5"}), [[0, 1], [2, 3], [1, 3]], top_k=2)
    assert list(zip(decision.served.token.tolist(), decision.served.expert.tolist(), strict=True)) == [
        (0, 0), (1, 2), (1, 3), (2, 1), (2, 3)]
    assert decision.dropped == 1
    assert run.counts.phases["decode"].dropped == 1


def test_a_load_waits_for_the_sizes_that_tell_of_it() -> None:
    def plan(view: View) -> Plan:
        plan = Plan(view.layer, gating=Gating())
        plan.load(2, to=0)
        for expert, device in ((0, 0), (2, 0)):
            plan.run(expert, on=device)
        return plan

    run, _ = gated(Scripted(REST, [plan]))
    assert spans(run)["copy dispatch"][0] == (512, 512 + 1600)  # GPU 1 tells GPU 0 of two experts
    assert spans(run)["copy demand e2 gpu0"] == [(2112 + 3200, 2112 + 3200 + 38400)]  # behind rows on the same link


def scripted(gating: Gating, *, served: Served | None = None, wake: bool = False) -> Scripted:
    def plan(view: View) -> Plan:
        plan = Plan(view.layer, gating=gating, served=served)
        for expert in range(4):
            plan.run(expert, on=expert // 2, wake=wake)
        return plan

    return Scripted(REST, [plan])


@pytest.mark.parametrize(("policy", "sentence"), [
    (scripted(Gating(capacity=1)), "sends expert 0 2 rows from one home; its capacity is 1"),
    (scripted(Gating(mask=True)), "has a capacity of 0 rows"),
    (scripted(Gating(capacity=-1)), "has a capacity of -1 rows"),
    (scripted(Gating(capacity=2), wake=True), "names a gating and marks rows with wake"),
    (scripted(Gating()), "runs expert 1 of layer 0, to which no token is routed"),
])
def test_what_a_gating_cannot_be_is_refused(policy: Scripted, sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        gated(policy)


@pytest.mark.parametrize("factor", ["0", "-1", "much", "1/0"])
def test_a_capacity_factor_is_a_number_above_zero(factor: str) -> None:
    with pytest.raises(ConfigError, match="it is a number above 0 as text"):
        load_policy("static_gating", {"capacity_factor": factor})


def test_a_device_to_which_nobody_is_routed_gets_and_sends_nothing() -> None:
    run, _ = gated(load_policy("dynamic_gating", {}), [[0], [1]])
    assert "expert e2 gpu1" not in spans(run)
    assert moved(run) == {("1>0", "dispatch"): 16 + 16, ("0>1", "return"): 16}
    assert np.all(run.gated_bytes > 0)
