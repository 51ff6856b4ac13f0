"""Routes, what moving bytes along them takes, and operations in words."""

from dataclasses import replace

from emulation.lowering.emit import CAUSES, KINDS, Emitter, describe, device_name
from emulation.machine import Device, Kernel, Link, Machine
from emulation.ops import PREFETCH, Edge, Lane
from tests.schedulers.rig import chiplets, gpu_and_units, gpus

LANES = tuple(Lane(name) for name in ("slow", "fast", "stream a", "stream c"))
ENDS = (Device("a", "gpu", copy_lanes=(2,)), Device("b", "switch"), Device("c", "gpu", copy_lanes=(3,)))
LINE = Machine("line", ENDS, (Link("slow", 0, 1, 0, 10**10, 700), Link("fast", 1, 2, 1, 4 * 10**10, 50)), LANES,
               quantum_bytes=32)


def test_a_transfer_holds_each_link_for_its_own_share_and_the_copy_lanes_for_the_slowest():
    # 100 ps a byte on the one, 25 on the other
    assert LINE.transfer(0, 2, 64) == ({0: 6400, 1: 1600, 2: 6400, 3: 6400}, 6400 + 750)
    assert LINE.transfer(1, 2, 64) == ({1: 1600, 3: 1600}, 1650)
    assert LINE.transfer(0, 0, 64) == ({2: 0}, 0)
    assert LINE.quantum_ps(0, 2) == 3200


def test_a_link_that_routes_share_carries_the_bytes_once_and_the_slowest_route_tells_when_they_are_there():
    assert LINE.transfers([(0, 2), (0, 1)], 64) == LINE.transfer(0, 2, 64)
    assert LINE.transfers([(1, 2), (0, 1)], 64) == ({0: 6400, 1: 1600, 2: 6400, 3: 1600}, 7100)
    assert LINE.transfers([(0, 1), (1, 2)], 64) == ({0: 6400, 1: 1600, 2: 6400, 3: 1600}, 7100)


def test_devices_are_told_apart_by_what_they_do():
    assert (gpu_and_units(2).units, gpu_and_units(2).stores) == ((1, 2), (1, 2))
    assert (chiplets().units, chiplets().stores) == ((), (4, 5, 6, 7))
    assert (gpus(2).units, gpus(2).stores) == ((), (0, 1))


def test_nothing_leads_against_the_direction_of_a_link():
    assert sorted(LINE.routes) == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    assert [link.name for link in LINE.routes[0, 2]] == ["slow", "fast"]


def test_all_to_all_adds_up_what_crosses_a_link_or_a_lane():
    # a to c and a to b cross the slow link, a to c and b to c the fast one; each is counted once by link
    emit = Emitter(LINE)
    emit.collective({(0, 2): 64, (0, 1): 16, (1, 2): 8}, "dispatch", [])
    ops, labels = emit.finish()
    assert dict(zip(ops.hold_lane.tolist(), ops.hold_ps.tolist(), strict=True)) == {0: 8000, 1: 1800}
    assert (ops.length_ps.tolist(), labels.bytes.tolist()) == ([8750], [88])
    assert emit.moved_bytes[:, CAUSES.index("dispatch")].tolist() == [80, 72]
    # the same with both links in one lane
    shared = Emitter(replace(LINE, links=(LINE.links[0], replace(LINE.links[1], lane=0))))
    shared.collective({(0, 2): 64}, "return", [])
    ops, _ = shared.finish()
    assert (ops.hold_lane.tolist(), ops.hold_ps.tolist()) == ([0], [8000])


def test_only_what_may_be_overtaken_has_a_quantum():
    emit = Emitter(LINE)
    emit.copy([(0, 2)], 64, "demand", [])
    emit.copy([(0, 2)], 64, "prefetch", [Edge(0)], priority=PREFETCH, expert=5)
    emit.copy([(1, 2), (0, 2)], 64, "prefetch", [], priority=1)
    ops, labels = emit.finish()
    assert (ops.quantum_ps.tolist(), ops.priority.tolist()) == ([0, 3200, 3200], [0, PREFETCH, 1])
    assert ops.length_ps.tolist() == [7150] * 3
    assert (labels.device.tolist(), labels.expert.tolist(), labels.bytes.tolist()) == ([2] * 3, [-1, 5, -1], [64] * 3)
    assert (labels.step.tolist(), labels.layer.tolist()) == ([-1] * 3, [-1] * 3)


def test_a_kernel_is_told_with_its_device_and_what_it_reads():
    emit = Emitter(replace(LINE, devices=(Device("a", "gpu", 0, (0,), (), {"norm": Kernel(5, 10**12, 10**12)}),)))
    assert emit.kernel(0, "norm", 7, 3, [Edge(0)], expert=2) == [Edge(0)]
    assert emit.kernel(0, "head", 7, 3, [Edge(0)]) == [Edge(0)]
    ops, labels = emit.finish()
    assert [column.tolist() for column in labels] == [[KINDS.index("norm")], [0], [0], [-1], [-1], [2], [7]]
    assert ops.hold_ps.tolist() == [12]


def test_an_operation_is_no_more_than_it_was_told():
    emit = Emitter(LINE)
    emit.add("join")
    ops, labels = emit.finish()
    assert [column.tolist() for column in labels] == [[KINDS.index("join")], [0], [-1], [-1], [-1], [-1], [0]]
    assert (ops.priority.tolist(), ops.quantum_ps.tolist(), ops.length_ps.tolist()) == ([0], [0], [0])
    assert (len(ops.hold_lane), len(ops.wait_op), len(ops.take_pool)) == (0, 0, 0)


def test_an_operation_is_told_in_words():
    emit, batches = Emitter(LINE), []
    emit.add("join")
    emit.step, emit.layer = 0, 0
    emit.add("expert", device=0, expert=0)
    batches.append(emit.finish()[1])
    emit.step, emit.layer = 3, -1
    emit.add("head", device=2)
    batches.append(emit.finish()[1])
    assert [describe(LINE, batches, op) for op in range(5)] == [
        "join", "expert of expert 0 on a in layer 0 of step 0", "head on c of step 3", "op 3", "op 4"]
    assert (device_name(LINE, 0), device_name(LINE, 2), device_name(LINE, -1)) == ("a", "c", "")
