"""HD-MoE's parts by hand: the program, the search on the mesh, the broadcast (arXiv 2509.09420)."""

from dataclasses import replace

import numpy as np
import pytest

from actors.scheduler import Scheduler
from emulation.errors import ConfigError
from emulation.machine import Machine
from emulation.view import Visits
from schedulers._broadcast import chunk_bytes
from schedulers._link_balance import arranged, busiest, link_times
from schedulers._node_balance import costs_of, frequency, groups_of, in_parts, objective, solve
from schedulers.registry import load_policy
from tests.schedulers.rig import chiplets, drive, eager_host, fast_engine, gpus, kernels, model, routing, setting, step

OFF = {"node_balance": False, "link_balance": False, "broadcast": False}


def mesh(side: int, rate: int = 10**11) -> Machine:
    """Nodes on a mesh, all homes, experts resting on each."""
    machine = chiplets(side)
    n = side * side
    nodes = tuple(replace(device, rests=True, kernels=kernels(rate, ("expert", "reduce")))
                  for device in machine.devices[:n])
    links = tuple(link for link in machine.links if max(link.source, link.target) < n)
    return replace(machine, name="nodes", devices=nodes, links=links)


def times(parameters, feed, machine, of, history=None):
    given = replace(setting(machine, of), history=history,
                    popularity=None if history is None else history.counts.sum(axis=0))
    run = Scheduler(given, load_policy("hd_moe", parameters), fast_engine())
    decisions = drive(run, feed)
    return run.engine.now_ps, [decision.plan.rows for decision in decisions]


def skewed(layers, counts):
    return Visits(np.arange(2), np.tile(np.array(counts)[None, None], (2, layers, 1)))


def test_the_stated_coefficients():
    # h 4, I 8, k 2, 2 nodes of 16 flop/s on links of 32 B/s: R = 32 x 8 x 2 / (2 x 2 x 16) = 8.
    costs = costs_of(4, 8, 2, 2, 16.0, 32.0, (9.0, 9.0))
    assert costs.compute_s == 2 * 4 * 8 / 16
    assert costs.touch_s == 4 * 4 * 4 / 32
    assert costs.most_load == (1 / 8 + 1) * 2 / 2
    assert chunk_bytes(replace(model(moe_layers=1, experts=8, top_k=2), d_model=4096, d_ff=14336), 16, 1e-7,
                       25e9) == pytest.approx(135463, rel=1e-5)


def test_groups_are_the_experts_of_single_tokens_and_else_each_by_itself():
    counts = np.array([[1, 1, 0], [0, 1, 1], [1, 1, 0], [2, 2, 0]])
    assert groups_of(counts, 2) == (((0, 1), 2 / 3), ((1, 2), 1 / 3))
    assert groups_of(counts[3:], 2) == (((0,), 1.0), ((1,), 1.0), ((2,), 0.0))
    assert frequency(np.array([0, 0, 0]), 2).tolist() == [2 / 3] * 3


def test_an_expert_that_takes_all_the_time_is_cut_and_an_idle_link_cost_nothing():
    # One hot expert, two nodes, links that cost nothing beside compute: half of it on each.
    costs = costs_of(4, 8, 1, 2, 16.0, 1e5, (9.0, 9.0))
    start = np.array([[1.0, 0.0], [0.0, 1.0]])
    load, groups = (1.0, 0.0), (((0,), 1.0), ((1,), 0.0))
    found = np.frombuffer(solve(start.tobytes(), load, groups, costs)).reshape(2, 2)
    assert found[0].tolist() == pytest.approx([0.5, 0.5], rel=0.06)
    assert objective(found, np.array(load), groups, costs) == pytest.approx(costs.compute_s / 2, rel=0.06)
    assert solve(start.tobytes(), load, groups, costs) == solve.__wrapped__(start.tobytes(), load, groups, costs)
    # Links that cost all: nothing is gained, and what was given stays.
    dear = costs_of(4, 8, 1, 2, 1e5, 16.0, (9.0, 9.0))
    assert solve(start.tobytes(), load, groups, dear) == start.tobytes()


def test_slices_are_whole_and_fit():
    placed = np.array([[0.55, 0.45], [0.2, 0.8]])
    assert in_parts(placed, 4, np.array([9.0, 9.0])).tolist() == [[2, 2], [1, 3]]
    # Node 1 has room for one expert, which 1.8 and 3.2 slices are rounded down to: the rest goes to node 0.
    assert in_parts(placed, 4, np.array([9.0, 1.0])).tolist() == [[3, 1], [1, 3]]
    with pytest.raises(ConfigError, match="no placement in whole parts"):
        in_parts(placed, 4, np.array([0.5, 0.5]))


def test_what_most_tokens_visit_moves_to_the_middle_of_the_mesh():
    machine = mesh(3)
    nodes = tuple(range(9))
    links = link_times(machine, nodes)
    touched = np.array([1.0, 0, 0, 0, 0, 0, 0, 0, 0])
    order = arranged(links, touched, 0)
    assert order[0] == 4
    assert sorted(order.tolist()) == list(range(9))
    assert busiest(links, touched, order) < busiest(links, touched, np.arange(9))
    assert arranged(links, touched, 0).tolist() == order.tolist()


FEED = [(step(number, 8, tuple(range(4))), [routing([[0]] * 6 + [[1]] * 2)] * 2, [routing([[0]] * 6 + [[1]] * 2)] * 2)
        for number in range(3)]


def test_each_part_shortens_a_run_that_it_is_for():
    of, slow = model(moe_layers=2, experts=4, top_k=1, d_model=64, d_ff=256), mesh(2)
    slow = replace(slow, devices=tuple(replace(d, kernels={
        "expert": replace(d.kernels["expert"], flops_per_s=10**9)}) for d in slow.devices))
    whole, plain_rows = times(OFF, FEED, slow, of, skewed(2, [60, 20, 0, 0]))
    cut, rows = times({**OFF, "node_balance": True}, FEED, slow, of, skewed(2, [60, 20, 0, 0]))
    assert {row.part for row in plain_rows[0]} == {-1}
    assert len({row.device for row in rows[0] if row.expert == 0}) > 1
    assert cut < whole
    sent, rows = times({**OFF, "broadcast": True}, FEED, slow, of)
    assert [(row.verb, row.expert, row.device) for row in rows[0] if row.layer == 1][:3] == [
        (1, 0, 1), (1, 0, 2), (1, 0, 3)]
    assert {row.device for row in rows[1] if row.verb == 0 and row.expert == 0} == {0, 1, 2, 3}
    assert sent < whole


def test_link_balance_shortens_a_run_over_slow_links():
    of = model(moe_layers=1, experts=9, top_k=1, d_model=512, d_ff=16)
    feed = [(step(number, 18, tuple(range(9))), [routing([[0]] * 18)], [None]) for number in range(2)]
    history = skewed(1, [50, 0, 0, 0, 0, 0, 0, 0, 0])
    still, _ = times(OFF, feed, mesh(3), of, history)
    moved, rows = times({**OFF, "link_balance": True}, feed, mesh(3), of, history)
    assert {row.device for row in rows[0]} == {4}
    assert moved < still


def test_a_machine_whose_experts_rest_elsewhere_is_refused():
    machine = chiplets()
    with pytest.raises(ConfigError, match="hd_moe places experts in the memory of the nodes that run them"):
        load_policy("hd_moe", {}).start(setting(machine, model(moe_layers=1, experts=4, top_k=1)))


def test_one_node_or_several_gpus_do():
    for machine in (gpus(2), eager_host()):
        assert load_policy("hd_moe", {}).start(setting(machine, model(moe_layers=1, experts=4, top_k=1)))
