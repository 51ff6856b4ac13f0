"""DAOP by hand: its cache, swaps, split, degradation, early starts; each switch changes plan and time as it should."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from actors.scheduler import Scheduler
from emulation.engine.spec import SpecEngine
from emulation.errors import ConfigError
from emulation.ledger import Ledger
from emulation.machine import Device, Kernel, Link, Machine
from emulation.ops import Lane
from emulation.plan import EVICT, LOAD, NOBODY, RUN
from emulation.validate import Decision
from emulation.view import DECODE, DROPPED, PREFILL, Early, Routing, View
from schedulers._daop import degraded, seeded, serving, swaps
from schedulers.registry import load_policy
from tests.schedulers.rig import GB, drive, kernels, model, routing, setting, step, timeline

HOME, CPU = 0, 1
TOKEN_PS, LOAD_PS, GPU_PS, WIRE_PS, SUM_PS = 10_000, 38_400, 448, 1_600, 48
"""What one token takes on the CPU, one expert over the link, one token on the GPU, a token's row over the link, and
what adding that row takes."""
VERBS = {RUN: "run", LOAD: "load", EVICT: "evict"}


def host() -> Machine:
    """A GPU of 1000 GB/s, and a CPU whose time is a multiple of its tokens, on links of 10 GB/s each way."""
    lanes = (Lane("gpu"), Lane("worker"), Lane("down"), Lane("up"))
    gpu = Device("gpu", "gpu", 10**6, (0,), (), kernels(1000 * GB, ("expert", "reduce")))
    cpu = Device("cpu", "cpu", 10**6, (1,), (), {"expert": Kernel(0, 10**18, 38_400_000_000)}, rests=True)
    links = (Link("down", 0, 1, 2, 10 * GB), Link("up", 1, 0, 3, 10 * GB))
    return Machine("host", (gpu, cpu), links, lanes, quantum_bytes=0)


def carried_out(steps: list[tuple[int, list[list[list[int]]], list[list[int]] | None]], *, experts: int = 4,
                popularity: list[list[int]] | None = None, **parameters: Any) -> tuple[Scheduler, list[Decision]]:
    """Steps (phase, routing by layer, forecast for every layer but the first) under DAOP."""
    layers = len(steps[0][1])
    of = model(moe_layers=layers, experts=experts, top_k=len(steps[0][1][0][0]))
    given = setting(host(), of, popularity=None if popularity is None else np.array(popularity))
    made = Scheduler(given, load_policy("daop", {"ratio": 0.5, "first_predicted": 1, **parameters}), SpecEngine)
    feed = [(step(number, len(routed[0]), (HOME,), phase), [routing(layer) for layer in routed],
             [None if guess is None else routing(guess)] * layers)
            for number, (phase, routed, guess) in enumerate(steps)]
    return made, drive(made, feed)


def rows(decision: Decision) -> list[str]:
    return [f"{VERBS[row.verb]} {row.expert} {'gpu' if row.device == HOME else 'cpu'}"
            + (f" @{row.layer}" if row.layer != decision.plan.layer else "")
            + (f" over {row.victim}" if row.victim != NOBODY else "") for row in decision.plan.rows]


def times(run: Scheduler) -> list[int]:
    return [each.end_ps - each.begin_ps for each in run.steps]


# the first cache

COUNTS = np.array([[9, 8, 7, 6], [5, 5, 0, 1]])


def test_each_layer_has_its_quota_and_the_rest_follows_the_list_of_all_layers():
    assert [np.flatnonzero(row).tolist() for row in seeded(COUNTS, 5, quota=True)] == [[0, 1, 2], [0, 1]]
    assert [np.flatnonzero(row).tolist() for row in seeded(COUNTS, 5, quota=False)] == [[0, 1, 2, 3], [0]]
    assert [np.flatnonzero(row).tolist() for row in seeded(COUNTS, 1, quota=True)] == [[0], []]
    assert seeded(COUNTS, 0, quota=True).sum() == 0
    assert seeded(COUNTS, 8, quota=True).all()


def test_a_layer_without_its_quota_runs_on_the_cpu():
    feed = [(DECODE, [[[0]], [[0]]], None)]
    with_quota, plans = carried_out(feed, popularity=COUNTS.tolist())
    assert [rows(plan) for plan in plans] == [["run 0 gpu"], ["run 0 gpu"]]
    assert times(with_quota) == [2 * GPU_PS]
    without, plans = carried_out(feed, popularity=[[9, 8, 7, 6], [5, 4, 0, 1]], quota=False)
    assert [rows(plan) for plan in plans] == [["run 0 gpu"], ["run 0 cpu"]]
    assert times(without) == [GPU_PS + TOKEN_PS + 2 * WIRE_PS + SUM_PS]


def test_the_cache_leaves_room_for_the_spare_slot():
    of = model(moe_layers=2, experts=4, top_k=1)
    each = of.expert_work(of.d_ff).weight_bytes
    policy = load_policy("daop", {"ratio": 1.0})
    for room, cached in ((0, 0), (each, 0), (3 * each + 5, 2), (100 * each, 8)):
        given = setting(host(), of, max(room, 8 * each))
        given.budget_bytes[HOME] = room
        assert policy.start(given)[0].copies[HOME].sum() == cached
    assert policy.staged(given) == {HOME: each}


# prefill

def test_a_hot_expert_needs_more_than_1_05_times_the_tokens_of_the_cold_one():
    held, above = np.array([True, False]), Fraction("1.05")
    for cold, hot, swapped in ((20, 21, False), (20, 22, True), (40, 42, False), (40, 43, True), (0, 1, True),
                               (0, 0, False), (100, 105, False), (100, 106, True)):
        assert swaps(np.array([cold, hot]), held, above) == ([(1, 0)] if swapped else [])


def test_the_hottest_absent_goes_over_the_coldest_cached_for_half_a_layer_at_most_with_ties_to_the_lower_id():
    held = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
    assert swaps(np.array([3, 1, 1, 9, 7, 7, 8, 1]), held, Fraction("1.05")) == [(6, 1), (4, 2), (5, 0)]
    assert swaps(np.array([0] * 6 + [1, 1]), np.array([1] * 5 + [0] * 3, bool), Fraction(1)) == [(6, 0), (7, 1)]
    assert swaps(np.arange(8), np.array([1] * 7 + [0], bool), Fraction(1)) == [(7, 0)]


def test_swapping_costs_a_copy_in_prefill_and_saves_the_cpu_in_decode():
    feed = [(PREFILL, [[[2]] * 3 + [[1]]], None), (DECODE, [[[2]]], None)]
    swapped, plans = carried_out(feed, popularity=[[9, 8, 0, 0]])
    assert [rows(plan) for plan in plans] == [["load 2 gpu over 0", "run 1 gpu", "run 2 gpu"], ["run 2 gpu"]]
    kept, plans = carried_out(feed, popularity=[[9, 8, 0, 0]], swap=False)
    assert [rows(plan) for plan in plans] == [["run 2 cpu", "run 1 gpu"], ["run 2 cpu"]]
    assert times(swapped) == [LOAD_PS + GPU_PS + 2 * 64, GPU_PS]
    assert times(kept) == [3 * (TOKEN_PS + 2 * WIRE_PS + SUM_PS), TOKEN_PS + 2 * WIRE_PS + SUM_PS]


def test_what_is_copied_faster_than_it_runs_goes_through_the_spare_slot():
    # Three tokens take 30 000 ps on the CPU and four 40 000; a copy takes 38 400.
    feed = [(PREFILL, [[[2]] * 4 + [[3]] * 3], None)]
    split, plans = carried_out(feed, popularity=[[9, 8, 0, 0]], swap=False)
    assert rows(plans[0]) == ["run 3 cpu", "load 2 gpu", "run 2 gpu", "evict 2 gpu"]
    whole, plans = carried_out(feed, popularity=[[9, 8, 0, 0]], swap=False, split=False)
    assert rows(plans[0]) == ["run 2 cpu", "run 3 cpu"]
    # What the CPU made comes back behind the copy, on the same link; the GPU is through at 39 040.
    assert times(split) == [LOAD_PS + 3 * (WIRE_PS + SUM_PS)]
    assert times(whole) == [7 * (TOKEN_PS + 2 * WIRE_PS + SUM_PS)]


def test_absent_experts_pass_through_one_slot_in_turn():
    _, plans = carried_out([(PREFILL, [[[2]] * 5 + [[3]] * 5], None)], popularity=[[9, 8, 0, 0]], swap=False)
    assert rows(plans[0]) == ["load 2 gpu", "run 2 gpu", "load 3 gpu over 2", "run 3 gpu", "evict 3 gpu"]


# decode

def test_a_predicted_cpu_expert_starts_a_layer_early():
    # down    |L0 0-1600|L1 1600-3200|
    # worker            |L0 1600-11600|L1 11600-21600|
    # up                              |L0 11600-13200|   |L1 21600-23200|
    # gpu                                      |sum 13200-13248|        |sum 23200-23248|
    # Layer 1 is decided at 13248, when its expert has run for 1648 ps on layer 0's input.
    feed = [(DECODE, [[[1]], [[1]]], [[1]])]
    early, plans = carried_out(feed, experts=2, popularity=[[1, 0], [1, 0]])
    assert [rows(plan) for plan in plans] == [["run 1 cpu", "run 1 cpu @1"], []]
    assert plans[1].plan.served is not None
    assert [column.tolist() for column in plans[1].plan.served] == [[0], [1], [1.0], [0], [1]]
    assert timeline(early)["expert e1 cpu"] == [(1600, 11600), (11600, 21600)]
    assert times(early) == [23_248]
    late, plans = carried_out(feed, experts=2, popularity=[[1, 0], [1, 0]], predict=False)
    assert [rows(plan) for plan in plans] == [["run 1 cpu"], ["run 1 cpu"]]
    assert timeline(late)["expert e1 cpu"] == [(1600, 11600), (14848, 24848)]
    assert times(late) == [26_496]


def test_layers_before_the_first_predicted_one_follow_their_router():
    feed = [(DECODE, [[[1]], [[1]], [[1]]], [[1]])]
    _, plans = carried_out(feed, experts=2, popularity=[[1, 0]] * 3, first_predicted=2)
    assert [rows(plan) for plan in plans] == [["run 1 cpu"], ["run 1 cpu", "run 1 cpu @2"], []]
    _, plans = carried_out([(DECODE, feed[0][1], None)], experts=2, popularity=[[1, 0]] * 3)
    assert [rows(plan) for plan in plans] == [["run 1 cpu"]] * 3


def test_the_prediction_is_final_and_a_wrong_one_stands_for_what_was_routed():
    _, plans = carried_out([(DECODE, [[[0]], [[1]]], [[0]])], experts=2, popularity=[[1, 0], [1, 0]])
    assert [rows(plan) for plan in plans] == [["run 0 gpu"], ["run 0 gpu"]]
    assert (plans[1].substituted, plans[1].dropped) == (1, 0)


def test_degradation_leaves_the_cpu_one_expert_of_two():
    feed = [(DECODE, [[[0, 1]], [[2, 3]]], [[2, 3]])]
    graceful, plans = carried_out(feed, popularity=[[9, 8, 0, 0]] * 2)
    assert rows(plans[0]) == ["run 2 cpu @1", "run 0 gpu", "run 1 gpu"]
    assert rows(plans[1]) == ["run 0 gpu"]
    assert plans[1].substituted == 1
    both, plans = carried_out(feed, popularity=[[9, 8, 0, 0]] * 2, degrade=False)
    assert rows(plans[0]) == ["run 2 cpu @1", "run 3 cpu @1", "run 0 gpu", "run 1 gpu"]
    assert rows(plans[1]) == []
    assert times(graceful) == [TOKEN_PS + 2 * WIRE_PS + SUM_PS]
    assert times(both) == [2 * TOKEN_PS + 2 * WIRE_PS + SUM_PS]


def guess(experts: list[list[int]], weights: list[list[float]], chances: list[list[float]] | None = None) -> Routing:
    return Routing(np.array(experts), np.array(weights), None if chances is None else np.array(chances))


def test_the_stand_in_is_the_cached_expert_of_highest_probability_and_raw_weights_are_renormalised():
    held, seen = np.array([True, True, False, False]), np.array([1, 5, 9, 9])
    of = guess([[2, 3], [3, 2], [0, 3]], [[0.75, 0.25], [0.25, 0.75], [0.5, 0.5]],
               [[0.15, 0.05, 0.6, 0.2], [0.1, 0.1, 0.6, 0.2], [0.4, 0.1, 0.1, 0.4]])
    experts, weights = degraded(of, held, seen)
    assert experts.tolist() == [[2, 0], [0, 2], [0, 3]]
    assert np.allclose(weights, [[0.8, 0.2], [1 / 7, 6 / 7], [0.5, 0.5]])
    assert of.experts.tolist() == [[2, 3], [3, 2], [0, 3]]


def test_without_probabilities_the_most_visited_cached_expert_takes_the_weight_of_the_last():
    held, seen = np.array([True, True, False, False]), np.array([1, 5, 9, 9])
    experts, weights = degraded(guess([[3, 2], [2, DROPPED]], [[0.5, 0.5], [1.0, 0.0]]), held, seen)
    assert experts.tolist() == [[3, 1], [2, DROPPED]]
    assert weights.tolist() == [[0.5, 0.5], [1.0, 0.0]]
    experts, _ = degraded(guess([[3, 2]], [[0.5, 0.5]]), np.zeros(4, bool), seen)
    assert experts.tolist() == [[3, 2]]


def test_what_is_left_of_the_guess_stands_in_order_for_what_is_left_of_the_routing():
    given = setting(host(), model(moe_layers=2, experts=6, top_k=3))
    start, _ = load_policy("daop", {}).start(given)
    view = View(given, step(0, 3), 1, 1, routing([[0, 1, 2], [3, 4, DROPPED], [5, 4, 3]]), None,
                Ledger(given.machine, given.model, start, given.budget_bytes),
                Early(np.array([0]), np.array([5]), np.array([0])), lambda: 0, {}.__getitem__)
    served = serving(view, np.array([[5, 2, 4], [5, 4, 0], [3, 4, DROPPED]]), np.full((3, 3), 0.5))
    assert list(zip(*(column.tolist() for column in served), strict=True)) == [
        (0, 5, 0.5, 0, 0), (0, 2, 0.5, 1, 2), (0, 4, 0.5, 1, 1), (1, 5, 0.5, 1, 3), (1, 4, 0.5, 1, 4),
        (2, 3, 0.5, 1, 3), (2, 4, 0.5, 1, 4)]


@pytest.mark.parametrize(("parameters", "says"), [
    ({"ratio": 1.5}, "daop: ratio is 1.5; it is a share of all experts"),
    ({"first_predicted": 0}, "daop: first_predicted is 0; it is at least 1"),
    ({"swap_above": -1.0}, "daop: swap_above is -1.0; it is a number from 0 on")])
def test_parameters_that_make_no_sense_are_refused(parameters, says):
    with pytest.raises(ConfigError, match=says):
        load_policy("daop", parameters)
