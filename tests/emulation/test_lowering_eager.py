"""Plans on an eager host, each worked out by hand; numbers as in test_lowering.py."""

from emulation.machine import Device, Issuer, Kernel, Link, Machine
from emulation.ops import Lane
from schedulers.registry import load_policy
from tests.emulation.test_lowering import served, took
from tests.schedulers.rig import (
    GB,
    kernels,
    moved,
    timeline,
)


def eager() -> Machine:
    """One host thread issues: an expert 100 ps, a copy 30, an add 20, a wait 5, a record 7; a synchronisation 11."""
    costs = {"expert": 100, "copy": 30, "reduce": 20, "wait": 5, "record": 7}
    on_gpu = {name: Kernel(0, 1000 * GB, 10**18, issue_ps) for name, issue_ps in costs.items()}
    gpu = Device("gpu", "gpu", 10**9, (1,), (2,), on_gpu, Issuer(0, 11))
    cpu = Device("cpu", "cpu", 10**9, (3,), (), kernels(100 * GB), rests=True)
    lanes = (Lane("host", in_order=True), Lane("stream", in_order=True), Lane("copies", in_order=True), Lane("worker"),
             Lane("up"), Lane("down"))
    links = (Link("up", 1, 0, 4, 10 * GB), Link("down", 0, 1, 5, 10 * GB))
    return Machine("eager", (gpu, cpu), links, lanes, quantum_bytes=0)


def test_a_host_issues_in_program_order():
    # The hit first, though it was routed second; then the miss, over it: the copy waits until it has run.
    # host   |sync 0-11|issue e0 -111|record -118|issue copy -148|wait -153|issue e1 -253|record -260|   |sync 39407-18|
    # stream                         |e0 111-559|                                         |e1 38959-39407|
    # copies                                     |e1 559-38959|
    run = served(eager(), load_policy("lru", {"slots": 1}), [[[1, 0]]], experts=2, top_k=2)
    assert timeline(run) == {
        "sync gpu": [(0, 11), (39407, 39418)],
        "issue gpu": [(11, 111), (111, 118), (118, 148), (148, 153), (153, 253), (253, 260)],
        "expert e0 gpu": [(111, 559)], "copy demand e1 gpu": [(559, 38959)], "expert e1 gpu": [(38959, 39407)]}
    assert took(run) == [(0, 39418)]


def test_the_cpu_job_goes_first_and_its_sum_is_added_last():
    # host   |sync 0-11|copy -41|    |sync 1641-52|issue e0 -1752|record -1759|  |sync 6132-43|copy -6173|add -6193|
    # copies               |down 41-1641|                                                  |up 6173-7773|
    # worker                             |e1 1652-6132|
    # stream                                             |e0 1752-2200|                              |add 7773-7821|
    run = served(eager(), load_policy("cpu_static", {"slots": 1}), [[[0, 1]]], experts=2, top_k=2)
    assert timeline(run) == {
        "sync gpu": [(0, 11), (1641, 1652), (6132, 6143), (7821, 7832)],
        "issue gpu": [(11, 41), (1652, 1752), (1752, 1759), (6143, 6173), (6173, 6193)],
        "copy dispatch cpu": [(41, 1641)], "expert e1 cpu": [(1652, 6132)], "expert e0 gpu": [(1752, 2200)],
        "copy return gpu": [(6173, 7773)], "reduce gpu": [(7773, 7821)]}
    assert took(run) == [(0, 7832)]
    assert moved(run) == {("down", "dispatch"): 16, ("up", "return"): 16}
