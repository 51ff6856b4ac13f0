"""What happens outside the routed experts, worked out by hand: two tokens at position 8, one of them asked for logits.

Layer 0 is dense, layer 1 has two experts of 384 bytes and shared ones. A row of activations is 16 bytes.
"""

from dataclasses import replace
from fractions import Fraction

import numpy as np

from emulation.engine.spec import SpecEngine
from emulation.machine import Device, Issuer, Kernel, Machine
from emulation.model import Layer, Model, Work
from emulation.ops import Lane
from schedulers.registry import load_policy
from tests.schedulers.rig import drive, routing, scheduler, step, timeline

FAMILIES = ("attention", "norm", "dense", "router", "shared", "expert", "head")
ATTENTION = Work(100, 10, 1)
OF = Model("hand-made", (Layer(ATTENTION, 7, 3, dense=Work(1000, 20, 5)),
                         Layer(ATTENTION, 7, 3, router=Work(50, 4, 2), shared=Work(300, 30, 4))),
           2, 1, 8, 8, 3, Fraction(2), Fraction(2), head=Work(500, 6, 9))


def spans(bytes_per_s, flops_per_s, *, homes=1, host=False, ends=(False, True), routed=None):
    """Homes without links, each with all experts; with a host, issuing is free and a synchronisation costs 11 ps."""
    kernels = {family: Kernel(0, bytes_per_s, flops_per_s) for family in FAMILIES}
    devices = tuple(Device(f"gpu{i}", "gpu", 10**9, (i,), (), kernels, Issuer(homes, 11) if host else None, rests=True)
                    for i in range(homes))
    lanes = (*(Lane(f"sm{i}") for i in range(homes)), Lane("host", in_order=True))
    machine = Machine("hand-made", devices, (), lanes, homes=tuple(range(homes)))
    run = scheduler(machine, OF, load_policy("expert_parallel", {}), SpecEngine)
    tokens = replace(step(0, len(ends), machine.homes), ends=np.array(ends))
    drive(run, [(tokens, [routing(routed or [[0], [homes - 1]])], [None])])
    [times] = run.steps
    return {"step": [(times.begin_ps, times.end_ps)], **timeline(run)}


def test_each_part_reads_its_weights_its_tokens_and_what_is_kept():
    # attention 100 + 2 * 10 + 18 positions of 7; a norm two rows twice; dense 1000 + 2 * 20; router 50 + 2 * 4;
    # shared 300 + 2 * 30; an expert 384 + 2 * 64; head 500 + 6
    assert spans(10**12, 10**18) == {
        "step": [(0, 3224)],
        "attention gpu0": [(0, 246), (1414, 1660)],
        "norm gpu0": [(246, 310), (1350, 1414), (1660, 1724), (2654, 2718)], "dense gpu0": [(310, 1350)],
        "router gpu0": [(1724, 1782)], "shared gpu0": [(1782, 2142)], "expert e0 gpu0": [(2142, 2654)],
        "head gpu0": [(2718, 3224)]}


def test_each_part_computes_for_its_tokens_and_what_they_attend_to():
    # attention 2 * 1 + 18 positions of 3; dense 2 * 5; router 2 * 2; shared 2 * 4; an expert 2 * 384; head 9; a norm
    # reads its 64 bytes within the least time there is. 10 ps a flop.
    assert spans(10**18, 10**11) == {
        "step": [(0, 9114)], "attention gpu0": [(0, 560), (662, 1222)],
        "norm gpu0": [(560, 561), (661, 662), (1222, 1223), (9023, 9024)], "dense gpu0": [(561, 661)],
        "router gpu0": [(1223, 1263)], "shared gpu0": [(1263, 1343)], "expert e0 gpu0": [(1343, 9023)],
        "head gpu0": [(9024, 9114)]}


def test_homes_work_side_by_side_and_only_where_logits_are_wanted_is_there_a_head():
    found = spans(10**12, 10**18, homes=2)
    for home in ("gpu0", "gpu1"):
        assert found[f"attention {home}"] == [(0, 173), (1257, 1430)]
        assert found[f"router {home}"] == [(1462, 1516)]
        assert found[f"shared {home}"] == [(1516, 1846)]
        assert found[f"norm {home}"][-1] == (2294, 2326)
    assert [what for what in found if what.startswith("head")] == ["head gpu1"]
    assert (found["head gpu1"], found["step"]) == ([(2326, 2832)], [(0, 2832)])
    other = spans(10**12, 10**18, homes=2, ends=(True, False))
    assert (other["head gpu0"], other["step"]) == ([(2326, 2832)], [(0, 2832)])


def test_the_slowest_home_tells_when_the_layer_is_decided():
    # two tokens on gpu0, one on gpu1; gpu0 as above, gpu1 as with two homes: its router ends at 1516
    found = spans(10**12, 10**18, homes=2, ends=(False, False, True), routed=[[0], [1], [0]])
    assert (found["router gpu0"], found["router gpu1"]) == ([(1724, 1782)], [(1462, 1516)])
    assert (found["shared gpu0"], found["shared gpu1"]) == ([(1782, 2142)], [(1782, 2112)])


def test_a_host_waits_for_the_router_and_for_the_head():
    found = spans(10**12, 10**18, host=True)
    assert found["sync gpu0"] == [(1782, 1793), (3235, 3246)]
    # seven kernels up to the router, the rest behind the wait for it: shared, expert, norm, head
    assert found["issue gpu0"] == [(0, 0)] * 7 + [(1793, 1793)] * 4
