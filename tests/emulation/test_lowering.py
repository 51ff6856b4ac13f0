"""Plans as spans, each worked out by hand.

Unless a test says otherwise: a row of activations is 16 bytes, an expert 384 bytes of weights and 64 bytes for each
token (half an expert 192 and 48); the GPU takes 1 ps a byte, a unit 10, a link 100.
"""

from dataclasses import replace

import numpy as np
import pytest

from actors.scheduler import Scheduler
from emulation.engine.spec import SpecEngine
from emulation.errors import PlanError
from emulation.ledger import Ledger, Start
from emulation.lowering.copies import memory_pools
from emulation.lowering.dense import Share, shares
from emulation.lowering.emit import describe
from emulation.machine import Issuer, Kernel, Machine
from emulation.ops import PREFETCH, Lane
from emulation.plan import BROADCAST, EXCHANGES, UNICAST, Plan, Served
from emulation.view import DROPPED, Setting, Step, View
from schedulers.registry import load_policy
from tests.schedulers.rig import (
    GB,
    Scripted,
    chiplets,
    drive,
    gpu_and_units,
    gpus,
    kernels,
    model,
    moved,
    resting,
    routing,
    scheduler,
    step,
    timeline,
)

GPU, UNIT0, UNIT1 = 0, 1, 2


def served(machine, policy, layers, *, experts=4, top_k=1, tokens=1, budget=None, steps=1):
    """A run of steps with the same routing in each (a list of experts for each token, by layer)."""
    of = model(moe_layers=len(layers), experts=experts, top_k=top_k)
    run = scheduler(machine, of, policy, SpecEngine, budget)
    feed = [(step(n, tokens, machine.homes), [routing(layer) for layer in layers], [None] * len(layers))
            for n in range(steps)]
    drive(run, feed)
    return run


def took(run: Scheduler) -> list[tuple[int, int]]:
    return [(times.begin_ps, times.end_ps) for times in run.steps]


def test_a_home_reads_each_context_once_and_attends_from_every_token():
    # Sequence 0: a prefill of positions 2, 0, 1 listed out of order; sequence 1 decodes position 9 on another home.
    tokens = Step(0, np.array([0, 0, 0, 1]), np.array([2, 0, 1, 9]), np.zeros(4), np.array([0, 0, 0, 3]),
                  np.array([True, False, False, True]))
    assert shares(tokens) == {0: Share(tokens=3, attended=3 + 1 + 2, kept=3, ends=1),
                              3: Share(tokens=1, attended=10, kept=10, ends=1)}


# tensor and expert parallel


def test_tensor_parallel_broadcasts_runs_slices_and_adds_them_at_home():
    # out0+1  |rows 0-1600|
    # unit0,1              |slice 1600-4000|
    # back0,1                               |4000-5600|
    # gpu                                              |+ 5600-5648|+ 5648-5696|
    run = served(gpu_and_units(2), load_policy("tensor_parallel", {}), [[[3]]])
    assert timeline(run) == {
        "copy dispatch unit0": [(0, 1600)], "expert e3 unit0": [(1600, 4000)], "expert e3 unit1": [(1600, 4000)],
        "copy return gpu": [(4000, 5600), (4000, 5600)], "reduce gpu": [(5600, 5648), (5648, 5696)]}
    assert took(run) == [(0, 5696)]
    assert moved(run) == {("out0", "dispatch"): 16, ("out1", "dispatch"): 16, ("back0", "return"): 16,
                          ("back1", "return"): 16}


@pytest.mark.parametrize(("exchange", "dispatched", "ran", "end"), [
    # behind one link each way: one message for both units, or one after the other
    ("broadcast", [(0, 1600)], [(1600, 4000), (1600, 4000)], 7248),
    ("unicast", [(0, 1600), (1600, 3200)], [(1600, 4000), (3200, 5600)], 7248),
])
def test_broadcast_crosses_a_shared_link_once_and_unicast_twice(exchange, dispatched, ran, end):
    run = served(gpu_and_units(2, shared_link=True), load_policy("tensor_parallel", {"exchange": exchange}), [[[3]]])
    spans = timeline(run)
    sent = [span for what, found in spans.items() if what.startswith("copy dispatch") for span in found]
    assert sent == dispatched
    assert spans["expert e3 unit0"] + spans["expert e3 unit1"] == ran
    assert spans["copy return gpu"] == [(4000, 5600), (5600, 7200)]
    assert took(run) == [(0, end)]


def test_broadcast_carries_the_rows_that_any_unit_needs():
    # token 0 visits unit 0 only, token 1 unit 1 only: both rows go out to both, 32 bytes
    def plan(view: View) -> Plan:
        plan = Plan(view.layer, exchange=BROADCAST)
        plan.run(0, on=UNIT0)
        plan.run(1, on=UNIT1)
        return plan

    run = served(gpu_and_units(2), Scripted(resting(1, [[UNIT0], [UNIT1]]), [plan]), [[[0], [1]]], experts=2, tokens=2)
    assert timeline(run)["copy dispatch unit0"] == [(0, 3200)]
    assert moved(run)["out0", "dispatch"] == moved(run)["out1", "dispatch"] == 32
    assert moved(run)["back0", "return"] == moved(run)["back1", "return"] == 16


def test_expert_parallel_runs_side_by_side_on_two_units():
    # unit  |rows 0-1600|expert 448 bytes 1600-6080|back 6080-7680|, both alike; gpu adds one after the other
    run = served(gpu_and_units(2), load_policy("expert_parallel", {}), [[[0], [3]]], tokens=2)
    assert timeline(run) == {
        "copy dispatch unit0": [(0, 1600)], "copy dispatch unit1": [(0, 1600)], "expert e0 unit0": [(1600, 6080)],
        "expert e3 unit1": [(1600, 6080)], "copy return gpu": [(6080, 7680), (6080, 7680)],
        "reduce gpu": [(7680, 7728), (7728, 7776)]}


def test_a_unit_with_all_active_experts_is_what_everyone_waits_for():
    # out0 two rows 3200, then 4480 each, two rows back 3200, 96 bytes to add
    run = served(gpu_and_units(2), load_policy("expert_parallel", {}), [[[0], [1]]], tokens=2)
    assert timeline(run) == {
        "copy dispatch unit0": [(0, 3200)], "expert e0 unit0": [(3200, 7680)], "expert e1 unit0": [(7680, 12160)],
        "copy return gpu": [(12160, 15360)], "reduce gpu": [(15360, 15456)]}
    round_robin = served(gpu_and_units(2), load_policy("expert_parallel", {"placement": "round_robin"}), [[[0], [1]]],
                         tokens=2)
    assert took(round_robin) == [(0, 7776)]


def test_all_to_all_over_two_homes_is_one_operation_each_way():
    # both tokens visit both experts: a row each way, 1600; 384 + 2 * 64 bytes of expert, 512; back 1600; 48 to add
    run = served(gpus(2), load_policy("expert_parallel", {}), [[[0, 1], [0, 1]]], experts=2, top_k=2, tokens=2)
    assert timeline(run) == {
        "copy dispatch": [(0, 1600)], "expert e0 gpu0": [(1600, 2112)], "expert e1 gpu1": [(1600, 2112)],
        "copy return": [(2112, 3712)], "reduce gpu0": [(3712, 3760)], "reduce gpu1": [(3712, 3760)]}
    assert moved(run) == {(link, cause): 16 for link in ("0>1", "1>0") for cause in ("dispatch", "return")}


def test_all_to_all_lasts_as_long_as_its_busiest_link():
    # tokens 0 and 2 lie on gpu 0, token 1 on gpu 1; all visit expert 1 on gpu 1: two rows one way, none the other
    run = served(gpus(2), load_policy("expert_parallel", {}), [[[1], [1], [1]]], experts=2, tokens=3)
    assert timeline(run)["copy dispatch"] == [(0, 3200)]
    assert timeline(run)["expert e1 gpu1"] == [(3200, 3200 + 384 + 3 * 64)]
    assert moved(run) == {("0>1", "dispatch"): 32, ("1>0", "return"): 32}


def test_all_to_all_waits_for_the_slowest_of_its_senders():
    # gpu 0: e0 for tokens 0 and 1, 512; gpu 1: e1 for tokens 2 to 4, 576. Rows of 2 and 4 go out, 3200, and back.
    run = served(gpus(2), load_policy("expert_parallel", {}), [[[0], [0], [1], [1], [1]]], experts=2, tokens=5)
    assert timeline(run)["expert e0 gpu0"] == [(3200, 3712)]
    assert timeline(run)["expert e1 gpu1"] == [(3200, 3776)]
    assert timeline(run)["copy return"] == [(3776, 6976)]


def test_an_all_to_all_arrives_a_latency_after_its_bytes():
    run = served(gpus(2, latency_ps=700), load_policy("expert_parallel", {}), [[[1]]], experts=2)
    assert timeline(run)["copy dispatch"] == [(0, 2300)]
    held = run.engine.occupancy()
    assert (held.from_ps[0], held.to_ps[0]) == (0, 1600)


def test_chiplets_load_from_the_channel_beside_them_into_slots_used_in_turn():
    # Chiplet 0 owns experts 0 to 3 of 16; ddr 50 ps a byte: 19200 a load. Two slots: the third load waits for the
    # first expert's end; no activations move, the token lies there.
    run = served(chiplets(), load_policy("expert_parallel", {}), [[[0, 1, 2]]], experts=16, top_k=3)
    spans = timeline(run)
    assert spans["copy demand e0 chiplet0"] == [(0, 19200)]
    assert spans["expert e0 chiplet0"] == [(19200, 19648)]
    assert spans["copy demand e1 chiplet0"] == [(19200, 38400)]
    assert spans["expert e1 chiplet0"] == [(38400, 38848)]
    assert spans["copy demand e2 chiplet0"] == [(38400, 57600)]
    assert took(run) == [(0, 58048)]
    one = served(chiplets(), load_policy("expert_parallel", {"slots": 1}), [[[0, 1, 2]]], experts=16, top_k=3)
    assert timeline(one)["copy demand e1 chiplet0"] == [(19648, 38848)]
    assert moved(run) == {("4>0", "demand"): 3 * 384}
    assert run.ledger.used_bytes.tolist()[:4] == [0, 0, 0, 0]


# copies


def rests_on_unit(layers=1, experts=4, copies=None) -> Start:
    return resting(layers, [[UNIT0]] * experts, copies)


def test_demand_load_overtakes_a_prefetch_at_its_quantum():
    # back0 |prefetch e1 0-6400|return 6400-8000|prefetch 8000-14400|demand e0 14400-52800|prefetch 52800-78400|
    # A quantum is 64 bytes, 6400; the result of layer 0 is ready at 6080, the decision of layer 1 falls at 8048.
    def first(view: View) -> Plan:
        plan = Plan(view.layer)
        plan.run(0, on=UNIT0)
        plan.load(1, to=GPU, layer=1, priority=PREFETCH)
        return plan

    def second(view: View) -> Plan:
        plan = Plan(view.layer)
        plan.load(0, to=GPU)
        plan.run(0, on=GPU)
        return plan

    run = served(gpu_and_units(1), Scripted(rests_on_unit(2), [first, second]), [[[0]], [[0]]])
    assert timeline(run) == {
        "copy dispatch unit0": [(0, 1600)], "expert e0 unit0": [(1600, 6080)], "copy return gpu": [(6400, 8000)],
        "reduce gpu": [(8000, 8048)], "copy prefetch e1 gpu": [(0, 78400)], "copy demand e0 gpu": [(14400, 52800)],
        "expert e0 gpu": [(52800, 53248)]}
    assert took(run) == [(0, 53248)]
    assert moved(run)["back0", "prefetch"] == moved(run)["back0", "demand"] == 384
    assert run.counts.prefetch(run.engine.spans().end_ps) == {"issued": 1, "useful": 0, "late": 0, "wasted": 1}


def test_load_over_a_victim_waits_for_its_last_use():
    # back0 |load e0 0-38400|                 |load e1 38848-77248|
    # gpu                    |e0 38400-38848|                      |e1 77248-77696|
    run = served(gpu_and_units(1), load_policy("on_demand", {"slots": 1}), [[[0], [1]]], tokens=2)
    assert timeline(run) == {"copy demand e0 gpu": [(0, 38400)], "expert e0 gpu": [(38400, 38848)],
                             "copy demand e1 gpu": [(38848, 77248)], "expert e1 gpu": [(77248, 77696)]}
    two = served(gpu_and_units(1), load_policy("on_demand", {"slots": 2}), [[[0], [1]]], tokens=2)
    assert timeline(two)["copy demand e1 gpu"] == [(38400, 76800)]


@pytest.mark.parametrize(("over", "budget"), [(True, 384), (False, 384), (False, 2 * 384 - 1)])
def test_a_prefetch_that_is_given_up_moves_to_its_end_first(over, budget):
    # Room for one copy, even where only a byte lacks for two: e3 is prefetched 0-38400 and given up in the same plan;
    # e1 takes its place from 38400.
    def plan(view: View) -> Plan:
        plan = Plan(view.layer)
        plan.load(3, to=GPU, priority=PREFETCH)
        if over:
            plan.load(1, to=GPU, over=3)
        else:
            plan.evict(3, of=GPU)
            plan.load(1, to=GPU)
        plan.run(1, on=GPU)
        return plan

    given = Setting(gpu_and_units(1), model(moe_layers=1, experts=4, top_k=1), np.array([budget, 10**9]))
    run = Scheduler(given, Scripted(rests_on_unit(), [plan]), SpecEngine)
    drive(run, [(step(0, 1), [routing([[1]])], [None])])
    assert timeline(run) == {"copy prefetch e3 gpu": [(0, 38400)], "copy demand e1 gpu": [(38400, 76800)],
                             "expert e1 gpu": [(76800, 77248)]}
    assert run.engine.free(GPU) == budget - 384


def test_a_copy_of_the_start_may_be_evicted_before_anything_is_loaded():
    def plan(view: View) -> Plan:
        plan = Plan(view.layer)
        plan.evict(0, of=GPU)
        plan.run(1, on=UNIT0)
        return plan

    run = served(gpu_and_units(1), Scripted(rests_on_unit(copies={GPU: [(0, 0)]}), [plan]), [[[1]]])
    assert run.engine.free(GPU) == 10**9
    assert describe(run.setting.machine, run.labels, 0) == "place on gpu"


def test_load_over_a_victim_of_an_earlier_step_waits_for_nothing():
    run = served(gpu_and_units(1), load_policy("lru", {"slots": 1}), [[[1]]], experts=2, steps=1)
    assert timeline(run) == {"copy demand e1 gpu": [(0, 38400)], "expert e1 gpu": [(38400, 38848)]}

    def over(new: int, old: int):
        def plan(view: View) -> Plan:
            plan = Plan(view.layer)
            plan.load(new, to=GPU, over=old)
            plan.run(new, on=GPU)
            return plan
        return plan

    policy = Scripted(rests_on_unit(copies={GPU: [(0, 0)]}), [over(1, 0), over(0, 1)])
    run = scheduler(gpu_and_units(1), model(moe_layers=1, experts=4, top_k=1), policy, SpecEngine)
    drive(run, [(step(n, 1), [routing([[1 - n]])], [None]) for n in range(2)])
    assert timeline(run)["copy demand e0 gpu"] == [(38848, 77248)]


def test_load_over_a_victim_waits_for_an_early_run_that_outlives_its_layer():
    # unit1 |rows 0-1600|e2 of layer 0: 1600-6080|e1 of layer 1, early: 6080-10560|
    # Layer 1 is decided at 7776 (return 6080-7680, two adds). Its plan puts e3 over e1 on unit 1: from 10560, through
    # back0 and out1 at 100 ps a byte.
    def first(view: View) -> Plan:
        plan = Plan(view.layer)
        plan.run(0, on=UNIT0)
        plan.run(2, on=UNIT1)
        plan.run(1, on=UNIT1, layer=1, tokens=np.array([0]))
        return plan

    def second(view: View) -> Plan:
        plan = Plan(view.layer)
        plan.served = Served(np.array([0, 1]), np.array([1, 0]), np.ones(2), np.array([0, 1]), np.array([1, 0]))
        plan.run(0, on=UNIT0)
        plan.load(3, to=UNIT1, over=1)
        return plan

    start = resting(2, [[UNIT0]] * 4, {UNIT1: [(1, 1), (0, 2)]})
    policy = Scripted(start, [first, second], exact=False)
    run = served(gpu_and_units(2), policy, [[[0], [2]], [[1], [0]]], tokens=2)
    spans = timeline(run)
    assert spans["expert e1 unit1"] == [(6080, 10560)]
    assert spans["reduce gpu"][:2] == [(7680, 7728), (7728, 7776)]
    assert spans["copy demand e3 unit1"] == [(10560, 48960)]


def test_eviction_gives_the_memory_back_after_the_last_use():
    # Room for one copy: the second load starts when the first expert's run has ended, as its memory is free then.
    def plan(view: View) -> Plan:
        plan = Plan(view.layer)
        plan.load(0, to=GPU)
        plan.run(0, on=GPU)
        plan.evict(0, of=GPU)
        plan.load(1, to=GPU)
        plan.run(1, on=GPU)
        return plan

    given = Setting(gpu_and_units(1), model(moe_layers=1, experts=4, top_k=1), np.array([384, 10**9]))
    run = Scheduler(given, Scripted(rests_on_unit(), [plan]), SpecEngine)
    drive(run, [(step(0, 2), [routing([[0], [1]])], [None])])
    assert timeline(run)["copy demand e1 gpu"] == [(38848, 77248)]
    assert run.engine.free(GPU) == 0
    assert run.ledger.peak_bytes[GPU] == 384


def test_a_part_moves_alone_and_the_whole_expert_runs_when_both_are_there():
    # Half an expert is 192 bytes, 19200 from either unit; the GPU runs both halves as one kernel.
    def plan(view: View) -> Plan:
        plan = Plan(view.layer)
        plan.load(0, to=GPU, part=0)
        plan.load(0, to=GPU)
        plan.run(0, on=GPU)
        plan.evict(0, of=GPU, part=1)
        plan.evict(0, of=GPU)
        return plan

    run = served(gpu_and_units(2), Scripted(resting(1, [[UNIT0, UNIT1]] * 4), [plan]), [[[0]]])
    assert timeline(run) == {"copy demand e0 gpu": [(0, 19200), (0, 19200)], "expert e0 gpu": [(19200, 19648)]}
    assert moved(run) == {("back0", "demand"): 192, ("back1", "demand"): 192}
    assert run.ledger.used_bytes.tolist() == [0, 4 * 192, 4 * 192]


def test_a_whole_run_waits_for_the_last_of_its_parts_whichever_it_is():
    def plan(view: View) -> Plan:
        plan = Plan(view.layer)
        plan.load(0, to=GPU, part=1)
        plan.load(0, to=GPU, part=0)
        plan.run(0, on=GPU)
        return plan

    run = served(gpu_and_units(1), Scripted(resting(1, [[UNIT0, UNIT0]] * 4), [plan]), [[[0]]])
    assert timeline(run) == {"copy demand e0 gpu": [(0, 19200), (19200, 38400)], "expert e0 gpu": [(38400, 38848)]}


def test_rows_are_gathered_for_a_run_of_some_of_them_and_scattered_after_each():
    # Two tokens lie on the one GPU: e0 for one of them, e1 for both. Gather 32 bytes a row, scatter 48; 1 ps a byte.
    # Who was ready first goes first: e1, which gathers nothing, then e0, then e1's rows, ready at 544, and e0's.
    machine = gpus(1)
    gpu = replace(machine.devices[0], kernels=kernels(1000 * GB, ("expert", "gather", "scatter")))
    of = model(moe_layers=1, experts=2, top_k=2)
    run = scheduler(replace(machine, devices=(gpu,)), of, load_policy("expert_parallel", {}), SpecEngine)
    drive(run, [(step(0, 2), [routing([[0, 1], [DROPPED, 1]])], [None])])
    assert timeline(run) == {
        "gather e0 gpu0": [(0, 32)], "expert e1 gpu0": [(32, 544)], "expert e0 gpu0": [(544, 992)],
        "scatter e1 gpu0": [(992, 1088)], "scatter e0 gpu0": [(1088, 1136)]}


def test_a_layer_whose_places_are_all_empty_takes_no_time():
    run = scheduler(gpu_and_units(1), model(moe_layers=2, experts=4, top_k=1), load_policy("expert_parallel", {}),
                    SpecEngine)
    drive(run, [(step(0, 1), [routing([[DROPPED]]), routing([[0]])], [None, None])])
    assert took(run) == [(0, 7728)]


def test_a_gpu_with_a_host_of_its_own_waits_for_messages_by_itself():
    # Two homes exchange slices; their hosts wait for the router and for the end of the step only.
    machine = gpus(2)
    devices = tuple(replace(gpu, issuer=Issuer(4 + i, 11)) for i, gpu in enumerate(machine.devices))
    lanes = (*machine.lanes, Lane("host0", in_order=True), Lane("host1", in_order=True))
    policy = load_policy("tensor_parallel", {"exchange": "unicast"})
    run = served(replace(machine, devices=devices, lanes=lanes), policy, [[[0], [1]]], tokens=2)
    spans = timeline(run)
    assert len(spans["copy dispatch gpu0"]) == len(spans["copy return gpu0"]) == 1
    assert len(spans["sync gpu0"]) == len(spans["sync gpu1"]) == 2


def test_a_load_over_a_victim_is_as_urgent_as_it_was_said():
    def plan(view: View) -> Plan:
        plan = Plan(view.layer)
        plan.load(1, to=GPU, over=0, priority=PREFETCH)
        plan.run(2, on=UNIT0)
        return plan

    run = served(gpu_and_units(1), Scripted(rests_on_unit(copies={GPU: [(0, 0)]}), [plan]), [[[2]]])
    assert [int(row) for batch in run.batches for row in batch.ops.priority].count(PREFETCH) == 1


def test_a_sum_adds_each_number_of_each_row():
    # 8 numbers a row, 10 ps each; the GPU reads 48 bytes in 48 ps
    machine = gpu_and_units(1)
    gpu = replace(machine.devices[0], kernels={"reduce": Kernel(0, 1000 * GB, 10**11)})
    run = served(replace(machine, devices=(gpu, machine.devices[1])), load_policy("expert_parallel", {}), [[[0]]])
    assert timeline(run)["reduce gpu"] == [(7680, 7760)]


def test_copies_have_what_the_resting_leave_of_a_budget():
    of = model(moe_layers=2, experts=4, top_k=1)
    ledger = Ledger(gpu_and_units(2), of, resting(2, [[UNIT0]] * 4), np.array([1000, 8 * 384 + 5, 7]))
    pools, numbers = memory_pools(ledger, 3)
    assert [(pool.name, pool.capacity) for pool in pools] == [("gpu.memory", 1000), ("unit0.memory", 5),
                                                              ("unit1.memory", 7)]
    assert numbers == {0: 3, 1: 4, 2: 5}


def test_bytes_that_no_link_carries_are_refused():
    machine = gpu_and_units(2)
    cut = Machine("cut", machine.devices, tuple(link for link in machine.links if link.name != "back1"), machine.lanes)

    def plan(view: View) -> Plan:
        plan = Plan(view.layer)
        plan.load(0, to=GPU)
        plan.run(0, on=GPU)
        return plan

    with pytest.raises(PlanError, match="moves bytes from 'unit1' to 'gpu', but no links lead there"):
        served(cut, Scripted(resting(1, [[UNIT1]] * 4), [plan]), [[[0]]])


# early runs


def precalc(on: int, exchange: str = UNICAST):
    def first(view: View) -> Plan:
        plan = Plan(view.layer, exchange)
        plan.run(0, on=GPU)
        plan.run(1, on=on, layer=1, tokens=np.array([0]))
        return plan

    def second(view: View) -> Plan:
        assert view.early.token.tolist() == [0]
        assert view.early.expert.tolist() == [1]
        assert view.early.input_layer.tolist() == [0]
        plan = Plan(view.layer)
        plan.served = Served(np.array([0]), np.array([1]), np.ones(1), np.array([0]), np.array([1]))
        return plan

    return [first, second]


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_an_early_run_is_sent_its_rows_by_itself_and_combined_a_layer_later(exchange):
    # gpu   |e0 0-448|                                         |add 7680-7728|
    # unit0 |rows 0-1600|e1 of layer 1: 1600-6080|back 6080-7680|
    # Layer 1 is decided at 448 and has nothing left to run; its step ends when the early result is added.
    policy = Scripted(rests_on_unit(2, copies={GPU: [(0, 0)]}), precalc(UNIT0, exchange), exact=False)
    run = served(gpu_and_units(1), policy, [[[0]], [[1]]])
    assert timeline(run) == {"expert e0 gpu": [(0, 448)], "copy dispatch unit0": [(0, 1600)],
                             "expert e1 unit0": [(1600, 6080)], "copy return gpu": [(6080, 7680)],
                             "reduce gpu": [(7680, 7728)]}
    assert took(run) == [(0, 7728)]


def test_an_early_run_at_home_is_waited_for_in_its_layer():
    policy = Scripted(rests_on_unit(2, copies={GPU: [(0, 0), (1, 1)]}), precalc(GPU), exact=False)
    run = served(gpu_and_units(1), policy, [[[0]], [[1]]])
    assert timeline(run) == {"expert e0 gpu": [(0, 448)], "expert e1 gpu": [(448, 896)]}
    assert took(run) == [(0, 896)]
