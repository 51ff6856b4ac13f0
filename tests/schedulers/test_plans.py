"""What each policy answers, row by row, in cases small enough to do by hand."""

from dataclasses import replace

import numpy as np
import pytest

from emulation.errors import ConfigError
from emulation.ledger import Ledger
from emulation.plan import ALL_TO_ALL, EVICT, LOAD, NOBODY, RUN, UNICAST, Plan
from emulation.view import Early, View
from schedulers._places import nearest, owners, places
from schedulers._popular import most_frequent
from schedulers.registry import load_policy
from tests.schedulers.rig import chiplets, eager_host, gpu_and_units, gpus, model, routing, setting, step

NOTHING_EARLY = Early(*np.empty((3, 0), np.int64))
VERBS = {RUN: "run", LOAD: "load", EVICT: "evict"}


class Asked:
    """A policy at work on two MoE layers of six experts; the ledger follows its plans."""

    def __init__(self, name, parameters=None, *, machine=None, popularity=None, experts=6):
        self.policy = load_policy(name, parameters or {})
        self.given = setting(machine or gpu_and_units(2), model(moe_layers=2, experts=experts, top_k=1),
                             popularity=popularity)
        self.start, self.state = self.policy.start(self.given)
        self.ledger = Ledger(self.given.machine, self.given.model, self.start, self.given.budget_bytes)

    def ask(self, experts, forecast=None, *, layer=0, early=NOTHING_EARLY) -> Plan:
        view = View(self.given, step(0, len(experts), self.given.machine.homes), layer, layer, routing(experts),
                    None if forecast is None else routing(forecast), self.ledger, early, lambda: 0, {}.__getitem__)
        plan, self.state = self.policy.plan(view, self.state)
        return plan

    def rows(self, *args, **more) -> list[str]:
        """Rows in words: verb, expert, device; `@1` in another layer than asked, `over` a victim."""
        plan = self.ask(*args, **more)
        names = [device.name for device in self.given.machine.devices]
        return [f"{VERBS[row.verb]} {row.expert} {names[row.device]}"
                + (f" @{row.layer}" if row.layer != plan.layer else "")
                + (f" over {row.victim}" if row.victim != NOBODY else "") + (" ahead" if row.priority else "")
                for row in plan.rows]


HISTORY = np.array([[5, 0, 9, 9, 1, 0], [0, 0, 0, 0, 0, 7]])


def test_the_most_frequent_come_first_and_ties_go_to_the_lower_id():
    given = setting(gpu_and_units(1), model(moe_layers=2, experts=6, top_k=1), popularity=HISTORY)
    assert most_frequent(given, 3).tolist() == [[2, 3, 0], [5, 0, 1]]
    blank = setting(gpu_and_units(1), given.model)
    assert most_frequent(blank, 2).tolist() == [[0, 1], [0, 1]]
    wrong = setting(gpu_and_units(1), given.model, popularity=HISTORY[:1])
    with pytest.raises(ConfigError, match=r"the history counts \(1, 6\) .*, but the model has \(2, 6\)"):
        most_frequent(wrong, 2)


def test_resident_runs_what_is_routed_in_routing_order():
    assert Asked("resident").rows([[4], [1], [4]]) == ["run 4 gpu", "run 1 gpu"]
    assert Asked("resident").start.copies[0].all()


def test_on_demand_uses_its_slots_in_turn_and_leaves_them_empty():
    assert Asked("on_demand").rows([[4], [1], [3]]) == [
        "load 4 gpu", "run 4 gpu", "load 1 gpu", "run 1 gpu", "load 3 gpu over 4", "run 3 gpu", "evict 1 gpu",
        "evict 3 gpu"]


def test_experts_beside_the_home_rest_in_blocks():
    assert Asked("lru").start.rest.tolist() == [[[1], [1], [1], [2], [2], [2]]] * 2


def test_lru_serves_hits_first_and_evicts_the_least_recently_used():
    asked = Asked("lru", {"slots": 3}, popularity=HISTORY)
    assert [np.flatnonzero(mask).tolist() for mask in asked.start.copies[0]] == [[0, 2, 3], [0, 1, 5]]
    # order, first to go first: 0 3 2. Hits 2 and 0 are touched: 3 2 0; then 1 goes over 3 and 5 over 2.
    assert asked.rows([[1], [2], [5], [0]]) == [
        "run 2 gpu", "run 0 gpu", "load 1 gpu over 3", "run 1 gpu", "load 5 gpu over 2", "run 5 gpu"]
    assert asked.state.tolist() == [[0, 1, 5], [1, 0, 5]]


def test_lru_overwrites_what_it_has_just_run_where_more_are_active_than_it_holds():
    assert Asked("lru", {"slots": 1}).rows([[3], [0], [4]]) == [
        "run 0 gpu", "load 3 gpu over 0", "run 3 gpu", "load 4 gpu over 3", "run 4 gpu"]


def test_prefetch_takes_half_the_slots_in_forecast_order_and_spares_the_forecast():
    # Layer 1 holds 3 2 1 0, 3 first to go. Forecast 3 5 4 0: 5 and 4 are absent, 3 and 0 are spared: over 2, over 1.
    asked = Asked("lru_prefetch", {"slots": 4})
    assert asked.rows([[0]], [[3], [5], [4], [0]]) == [
        "run 0 gpu", "load 5 gpu @1 over 2 ahead", "load 4 gpu @1 over 1 ahead"]
    assert asked.state[1].tolist() == [3, 0, 5, 4]
    # Two slots, half of them one: 5 only; both held are forecast, so the first of them goes.
    assert Asked("lru_prefetch", {"slots": 2}).rows([[0]], [[0], [5], [4], [1]]) == [
        "run 0 gpu", "load 5 gpu @1 over 1 ahead"]
    assert Asked("lru_prefetch", {"slots": 4}).rows([[0]], [[5]], layer=1) == ["run 0 gpu"]


def test_cpu_static_starts_the_cpu_first():
    asked = Asked("cpu_static", {"slots": 2}, machine=eager_host(), popularity=HISTORY)
    assert asked.rows([[2], [1], [3], [4]]) == ["run 1 cpu", "run 4 cpu", "run 2 gpu", "run 3 gpu"]
    assert asked.rows([[2], [1]]) == ["run 1 cpu", "run 2 gpu"]


def test_cpu_precalc_starts_the_forecast_ahead_and_serves_it_a_layer_later():
    # Layer 1 has 5 and 0 fixed on the GPU. Tokens 0 to 3; forecast 1 for tokens 0 and 1, 5 (fixed), 2 for token 3.
    asked = Asked("cpu_precalc", {"slots": 2}, machine=eager_host(), popularity=HISTORY)
    plan = asked.ask([[2], [1], [2], [2]], [[1], [1], [5], [2]])
    assert plan.served is None
    assert [(row.verb, row.expert, row.device, row.layer) for row in plan.rows] == [
        (RUN, 1, 1, 0), (RUN, 1, 1, 1), (RUN, 2, 1, 1), (RUN, 2, 0, 0)]
    assert [tokens.tolist() for tokens in plan.token_sets] == [[0, 1], [3]]
    # Routed 1, 3, 1, 5: token 0 is served early; 3 was not forecast: its token goes to 5, layer 1's most frequent;
    # 1 was not forecast for token 2, which goes without; 2 ran for nothing.
    early = Early(np.array([0, 1, 3]), np.array([1, 1, 2]), np.zeros(3, np.int64))
    plan = asked.ask([[1], [3], [1], [5]], layer=1, early=early)
    assert plan.served is not None
    assert [column.tolist() for column in (plan.served.token, plan.served.expert, plan.served.input_layer,
                                           plan.served.routed)] == [[0, 1, 3], [1, 5, 5], [0, 1, 1], [1, 3, 5]]
    assert [(row.verb, row.expert, row.device) for row in plan.rows] == [(RUN, 5, 0)]


def test_cpu_precalc_takes_what_ran_early_by_token_and_expert_in_whatever_order_it_ran():
    asked = Asked("cpu_precalc", {"slots": 2}, machine=eager_host(), popularity=HISTORY)
    # Tokens 0 to 7 visit 1; it ran early for 7, 0 and 6, in this order: the others go without it.
    early = Early(np.array([7, 0, 6]), np.array([1, 1, 1]), np.array([0, 0, 0]))
    plan = asked.ask([[1]] * 8, layer=1, early=early)
    assert [column.tolist() for column in plan.served] == [
        [0, 6, 7], [1, 1, 1], [1.0, 1.0, 1.0], [0, 0, 0], [1, 1, 1]]
    assert plan.rows == []


def test_cpu_precalc_without_a_forecast_is_cpu_static():
    asked = Asked("cpu_precalc", {"slots": 2}, machine=eager_host(), popularity=HISTORY)
    assert asked.rows([[2], [1]], layer=1) == ["run 2 cpu", "run 1 cpu"]
    assert asked.rows([[2], [1]], [[5], [0]]) == ["run 1 cpu", "run 2 gpu"]


def test_owners_are_contiguous_or_dealt_out():
    assert owners(7, 3, "contiguous").tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert owners(7, 3, "round_robin").tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_expert_parallel_runs_experts_where_they_rest():
    assert Asked("expert_parallel").rows([[5], [0], [2]]) == ["run 5 unit1", "run 0 unit0", "run 2 unit0"]
    dealt = Asked("expert_parallel", {"placement": "round_robin"})
    assert dealt.rows([[1], [4], [3]]) == ["run 1 unit1", "run 4 unit0", "run 3 unit1"]
    assert dealt.ask([[1]]).exchange == UNICAST
    assert Asked("expert_parallel", machine=gpus(3)).ask([[1]]).exchange == ALL_TO_ALL
    assert Asked("expert_parallel", machine=eager_host()).rows([[5], [0]]) == ["run 5 cpu", "run 0 cpu"]


def test_expert_parallel_on_chiplets_loads_from_the_nearest_channels_in_turn():
    # 3 x 3 chiplets, channels at the corners 0, 2, 6, 8; chiplet 1 lies as near to channel 0 as to channel 1.
    machine = chiplets(3)
    ddr = [machine.index[f"ddr{i}"] for i in range(4)]
    assert [nearest(machine, chiplet) for chiplet in (0, 1, 4, 8)] == [
        (ddr[0],), (ddr[0], ddr[1]), tuple(ddr), (ddr[3],)]
    asked = Asked("expert_parallel", {"slots": 1}, machine=machine, experts=18)
    assert asked.start.rest[0, :4, 0].tolist() == [ddr[0], ddr[0], ddr[0], ddr[1]]
    assert asked.rows([[3], [0], [2]]) == [
        "load 3 chiplet1", "run 3 chiplet1", "load 0 chiplet0", "run 0 chiplet0", "load 2 chiplet1 over 3",
        "run 2 chiplet1", "evict 2 chiplet1", "evict 0 chiplet0"]


def test_homes_exchange_in_one_only_where_experts_rest_on_all_of_several():
    assert Asked("expert_parallel", machine=chiplets()).ask([[1]]).exchange == UNICAST
    assert Asked("expert_parallel", machine=gpus(1)).ask([[1]]).exchange == UNICAST


def test_experts_are_shared_by_several_homes_or_else_by_the_units_beside_one():
    def resting_at(machine, homes):
        devices = tuple(replace(device, rests=True) for device in machine.devices)
        return places(replace(machine, devices=devices, homes=homes), "any").devices

    assert resting_at(gpu_and_units(2), (0,)) == (1, 2)
    assert resting_at(gpus(3), (0, 1)) == (0, 1)
    assert resting_at(gpus(3), (0, 1, 2)) == (0, 1, 2)


def test_tensor_parallel_runs_each_part_on_its_unit():
    asked = Asked("tensor_parallel", machine=gpu_and_units(3))
    assert asked.start.rest[1].tolist() == [[1, 2, 3]] * 6
    plan = asked.ask([[5], [2]])
    assert [(row.expert, row.part, row.device) for row in plan.rows] == [
        (5, 0, 1), (5, 1, 2), (5, 2, 3), (2, 0, 1), (2, 1, 2), (2, 2, 3)]
    assert plan.exchange == "broadcast"
    assert Asked("tensor_parallel", {"exchange": "unicast"}).ask([[1]]).exchange == "unicast"


@pytest.mark.parametrize(("name", "machine", "says"), [
    ("lru", chiplets(), "lru keeps experts on one home, and machine 'chiplets' has 4"),
    ("on_demand", gpus(1), "needs a device beside the home on which experts rest, and machine 'gpus' has none"),
    ("cpu_static", gpus(1), "needs a device beside the home on which experts rest and run, and machine 'gpus'"),
    ("tensor_parallel", gpu_and_units(9), "tensor_parallel cuts an expert into 9 slices, one a unit of machine"),
])
def test_a_machine_that_makes_no_sense_is_refused_in_one_sentence(name, machine, says):
    with pytest.raises(ConfigError, match=says) as told:
        Asked(name, machine=machine)
    assert "\n" not in str(told.value)


def test_one_gpu_alone_is_a_unit_of_its_own():
    assert Asked("expert_parallel", machine=gpus(1)).rows([[3]]) == ["run 3 gpu0"]
    assert Asked("resident", machine=gpus(1)).rows([[3]]) == ["run 3 gpu0"]
    start = Asked("resident", machine=gpus(1)).start
    assert (start.copies, start.rest.tolist()) == ({}, [[[0]] * 6] * 2)


@pytest.mark.parametrize("name", ["lru", "lru_prefetch", "cpu_static", "cpu_precalc"])
def test_more_slots_than_experts_hold_them_all(name):
    assert Asked(name, {"slots": 99}, machine=eager_host()).rows([[3]], [[4]]) == ["run 3 gpu"]
