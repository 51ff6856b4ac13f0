"""The lower bound of a run: below every schedule, near the best one, equal where theory says so."""

import dataclasses
from collections.abc import Callable
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.scheduler import MakeEngine, Scheduler
from emulation import bound_costs, bound_program
from emulation.bound import Bound, BoundInput
from emulation.engine.spec import SpecEngine
from emulation.errors import MoelabError
from emulation.ledger import Start
from emulation.machine import Machine
from emulation.plan import EXCHANGES
from emulation.view import Routing, Setting
from schedulers.contract import Policy
from schedulers.registry import load_policy
from tests.emulation.bound_cases import US, Case, Feed, Scripted, brute, feed, machine, model, timed, tiny
from tests.emulation.wild import Wild
from tests.schedulers.rig import chiplets, eager_host, gpu_and_units, gpus

PLANS = 600
"""Instances with more plans than this are left to others."""


def ratios(seeds: int, count: int) -> list[tuple[float, int]]:
    """(optimum / bound, seed) of the first instances that brute force can solve."""
    found: list[tuple[float, int]] = []
    for seed in range(seeds):
        case = tiny(seed)
        best_ps = brute(case, PLANS)
        if best_ps is not None and len(found) < count:
            bound = case.collected().bound()
            assert bound.lb_ps <= best_ps, f"seed {seed}: {bound} is above the optimum {best_ps}"
            found.append((best_ps / bound.lb_ps, seed))
    assert len(found) == count
    return found


def test_bound_is_below_the_optimum_of_20_tiny_instances_and_near_it() -> None:
    assert np.median([ratio for ratio, _ in ratios(40, 20)]) <= 1.3


@pytest.mark.soak
def test_bound_is_below_the_optimum_of_200_tiny_instances_and_near_it() -> None:
    found = [ratio for ratio, _ in ratios(400, 200)]
    assert np.median(found) <= 1.15
    assert np.quantile(found, 0.9) <= 1.4
    assert sum(ratio == 1.0 for ratio in found) >= 20


def measured(setting: Setting, policy: Policy | Wild, steps: Feed) -> tuple[int, Bound, Bound] | None:
    """When a run ended, the bound of what it served, and the same with the placement given; None if it is refused."""
    try:
        scheduler, work = ran(setting, policy, steps)
    except MoelabError:
        return None
    return scheduler.steps[-1].end_ps, work.bound(), work.bound(scheduler.ledger.start)


def ran(setting: Setting, policy: Policy | Wild, steps: Feed) -> tuple[Scheduler, BoundInput]:
    scheduler = Scheduler(setting, cast(Policy, policy), cast(MakeEngine, SpecEngine))
    work = BoundInput(setting.machine, setting.model, setting.budget_bytes)
    for step, routings in steps:
        scheduler.begin(step)
        work.add_step(step)
        for moe, routing in enumerate(routings):
            forecast = routings[moe + 1] if moe + 1 < len(routings) else None
            decision = scheduler.decide(routing, forecast)
            work.add_layer(moe, decision.served, decision.early)
        scheduler.end()
    return scheduler, work


MACHINES: dict[str, Callable[[], Machine]] = {
    "gpu+2": lambda: gpu_and_units(2), "gpu+3 behind one link": lambda: gpu_and_units(3, shared_link=True),
    "eager": eager_host, "chiplets": chiplets, "gpus": lambda: gpus(3)}


def setting_of(where: str, seed: int) -> tuple[Setting, Feed]:
    """A machine by name, or one drawn, with memories that hold all or some, and a few steps."""
    rng = np.random.default_rng(seed)
    of = model(int(rng.integers(1, 4)), int(rng.integers(2, 7)), int(rng.integers(1, 3)), bool(rng.integers(2)))
    on = MACHINES[where]() if where in MACHINES else machine(rng, int(rng.integers(1, 4)), store=bool(rng.integers(2)),
                                                             eager=bool(rng.integers(2)))
    whole = of.expert_work(of.d_ff).weight_bytes * len(of.layers) * of.experts
    budget = np.where([d.rests for d in on.devices], whole, [int(whole * rng.random()) for _ in on.devices])
    steps = feed(rng, of, int(rng.integers(1, 4)), 6)
    homes = np.array(on.homes)
    return Setting(on, of, budget), [(dataclasses.replace(s, home=homes[s.sequence % len(homes)]), r) for s, r in steps]


@settings(max_examples=60, deadline=None)
@given(where=st.sampled_from(["drawn", "drawn", *MACHINES]), seed=st.integers(0, 10**6), lossy=st.booleans(),
       lazy=st.floats(0, 1))
def test_bound_is_below_whatever_the_contract_allows(where: str, seed: int, lossy: bool, lazy: float) -> None:
    setting, steps = setting_of(where, seed)
    found = measured(setting, Wild(seed, lossy=lossy, lazy=lazy), steps)
    if found is None:
        return
    end_ps, free, fixed = found
    assert free.lb_ps <= end_ps
    assert fixed.lb_ps <= end_ps
    assert fixed.lb_ps >= free.lb_ps - max(1000, free.lb_ps // 10**7)


@settings(max_examples=40, deadline=None)
@given(where=st.sampled_from(["drawn", *MACHINES]), seed=st.integers(0, 10**6),
       policy=st.sampled_from([("expert_parallel", {}), ("tensor_parallel", {}), ("on_demand", {}), ("resident", {}),
                               ("lru", {"slots": 1}), ("lru_prefetch", {"slots": 1}), ("cpu_static", {"slots": 1}),
                               ("cpu_precalc", {"slots": 1})]))
def test_bound_is_below_every_policy(where: str, seed: int, policy: tuple[str, dict[str, object]]) -> None:
    setting, steps = setting_of(where, seed)
    found = measured(setting, load_policy(*policy), steps)
    if found is None:
        return
    end_ps, free, fixed = found
    assert max(free.lb_ps, fixed.lb_ps) <= end_ps


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), which=st.integers(0, 99), kernels=st.booleans())
def test_more_bandwidth_never_raises_the_bound(seed: int, which: int, kernels: bool) -> None:
    setting, steps = setting_of("drawn", seed)
    on = setting.machine
    if kernels:
        number = which % len(on.devices)
        faster = {name: dataclasses.replace(k, bytes_per_s=2 * k.bytes_per_s)
                  for name, k in on.devices[number].kernels.items()}
        devices = list(on.devices)
        devices[number] = dataclasses.replace(devices[number], kernels=faster)
        quick = dataclasses.replace(on, devices=tuple(devices))
    else:
        number = which % len(on.links)
        links = list(on.links)
        links[number] = dataclasses.replace(links[number], bytes_per_s=2 * links[number].bytes_per_s)
        quick = dataclasses.replace(on, links=tuple(links))
    case = Case(setting, steps)
    slow_ps, quick_ps = case.collected().bound().lb_ps, case.collected(machine=quick).bound().lb_ps
    assert quick_ps <= slow_ps + max(1000, slow_ps // 10**7)


@pytest.mark.parametrize("seed", range(6))
def test_bound_is_the_time_where_one_device_does_everything(seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = machine(rng, 0, store=True)
    home = dataclasses.replace(drawn.devices[0], rests=True)
    alone = Machine("alone", (home,), (), drawn.lanes)
    of = model(2, 4, 2, shared=bool(seed % 2))
    setting = Setting(alone, of, np.array([10**9]))
    found = measured(setting, load_policy("resident", {}), feed(rng, of, 3, 5))
    assert found is not None
    end_ps, free, fixed = found
    assert end_ps == free.lb_ps == fixed.lb_ps == free.path_ps
    assert free.binding.startswith("path")


def one_expert(home_slots: int, *, units: int = 0) -> Case:
    rng = np.random.default_rng(1)
    of, on = model(1, 1, 1), machine(rng, units, store=True)
    expert = of.expert_work(of.d_ff).weight_bytes
    budget = np.array([home_slots * expert, *[expert] * (len(on.devices) - 1)])
    return Case(Setting(on, of, budget), feed(rng, of, 1, 1))


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_bound_is_the_time_of_the_only_unit_that_can_run_an_expert(exchange: str) -> None:
    case = one_expert(0, units=1)
    rest = np.full((1, 1, 1), 1)
    end_ps = timed(case, Scripted(Start(rest), [((0, 1),)], exchange))
    assert case.collected().bound().lb_ps == end_ps


def streaming(steps: int, slots: int, link_bytes_per_s: int) -> Case:
    """A home with room for `slots` experts of 4 a layer, a memory beside it, and a link that is the bottleneck."""
    rng = np.random.default_rng(3)
    of, on = model(2, 4, 2), machine(rng, 0, store=True)
    links = tuple(dataclasses.replace(link, bytes_per_s=link_bytes_per_s) for link in on.links)
    expert = of.expert_work(of.d_ff).weight_bytes
    every = Routing(np.array([[0, 1], [2, 3]]), np.full((2, 2), 0.5))
    stepped = [(s, [every, every]) for s, _ in feed(rng, of, 40, 1)[:steps]]
    two = [(dataclasses.replace(s, sequence=np.arange(2), position=np.full(2, 5), phase=np.zeros(2, np.int64),
                                home=np.zeros(2, np.int64), ends=np.ones(2, bool)), r) for s, r in stepped]
    return Case(Setting(dataclasses.replace(on, links=links), of, np.array([slots * expert, 10**9])), two)


def test_link_binds_with_the_bytes_that_memory_cannot_keep() -> None:
    # 8 experts of 24576 bytes are used in each of 5 steps, 3 of them may have stayed: 5 * (8 - 3) cross the link.
    case = streaming(5, 3, 10**8)
    bound = case.collected().bound()
    moved_ps = 5 * (8 - 3) * 24576 * 10**4
    assert bound.binding.startswith("relaxation")
    assert "back0" in bound.binding
    assert moved_ps < bound.relaxation_ps < moved_ps + 200 * US
    assert bound.lb_ps == bound.relaxation_ps > bound.path_ps


def test_memories_that_hold_no_placement_are_refused() -> None:
    case = streaming(1, 8, 10**9)
    tight = Case(dataclasses.replace(case.setting, budget_bytes=np.array([50_000, 60_000])), case.feed)
    with pytest.raises(MoelabError, match="no placement of all experts"):
        tight.collected().bound()


def test_each_expert_is_moved_once_where_memory_keeps_it() -> None:
    # Given that nothing lies on the home, all 8 cross once, however many steps there are; free to choose, none does.
    case = streaming(5, 8, 10**7)
    nothing = Start(np.full((2, 4, 1), 1))
    fixed, free = case.collected().bound(nothing), case.collected().bound()
    moved_ps = 8 * 24576 * 10**5
    assert moved_ps < fixed.relaxation_ps < moved_ps + 200 * US
    assert free.lb_ps == free.path_ps < moved_ps


def test_lossy_work_has_a_bound_of_its_own_beside_that_of_the_true_routing() -> None:
    case = streaming(2, 8, 10**9)
    served, true = (BoundInput(case.setting.machine, case.setting.model, case.setting.budget_bytes) for _ in range(2))
    for step, routings in case.feed:
        true.add_step(step)
        served.add_step(step)
        true.add_routed(np.stack([r.experts for r in routings], axis=1))
        for moe, routing in enumerate(routings):
            pairs = routing.pairs
            kept = pairs.expert != 3
            served.add_layer(moe, type(pairs)(pairs.token[kept], pairs.expert[kept], pairs.weight[kept]))
    assert served.bound().lb_ps < true.bound().lb_ps == case.collected().bound().lb_ps


def test_an_early_run_may_hide_behind_dense_work() -> None:
    case = streaming(1, 8, 10**9)
    work = BoundInput(case.setting.machine, case.setting.model, case.setting.budget_bytes)
    for step, routings in case.feed:
        work.add_step(step)
        for moe, routing in enumerate(routings):
            work.add_layer(moe, routing.pairs, np.full(len(routing.pairs.token), moe == 1))
    assert work.bound().path_ps < case.collected().bound().path_ps


def test_waiting_for_an_arrival_counts_and_a_late_server_does_not_wait() -> None:
    case = streaming(2, 8, 10**9)
    times = []
    for second_ps in (0, 1, 10**12):
        work = BoundInput(case.setting.machine, case.setting.model, case.setting.budget_bytes)
        for (step, routings), at_ps in zip(case.feed, (0, second_ps), strict=True):
            work.add_step(step, at_ps)
            for moe, routing in enumerate(routings):
                work.add_layer(moe, routing.pairs)
        times.append(work.bound().lb_ps)
    assert times[0] == times[1] < 10**12 < times[2]


def test_collecting_by_layer_by_step_and_in_batches_is_the_same() -> None:
    case = streaming(40, 3, 10**8)
    by_step = BoundInput(case.setting.machine, case.setting.model, case.setting.budget_bytes)
    for step, routings in case.feed * 2:
        by_step.add_step(step)
        by_step.add_routed(np.stack([r.experts for r in routings], axis=1).astype(np.uint16))
    assert by_step.bound() == Case(case.setting, case.feed * 2).collected().bound()
    assert by_step.bound() == by_step.bound()


def test_prices_of_any_quality_prove_a_bound() -> None:
    case = streaming(5, 3, 10**8)
    work = case.collected()
    honest = work.bound().relaxation_ps
    seen: list[float] = []
    true_proved = bound_program._proved
    rng = np.random.default_rng(0)
    for noise in (0.0, 1e-6, 0.3, 5.0):
        def worse(matrix, bounds, low, high, cost, prices, noise=noise):  # type: ignore[no-untyped-def]
            return true_proved(matrix, bounds, low, high, cost, prices * rng.uniform(1 - min(noise, 1), 1 + noise,
                                                                                     len(prices)))
        bound_program._proved = worse
        try:
            seen.append(work.bound().relaxation_ps)
        finally:
            bound_program._proved = true_proved
    assert seen[0] == honest
    assert all(value <= honest * (1 + 1e-9) for value in seen)


def _caught() -> bool:
    try:
        for seed in range(6):
            test_bound_is_the_time_where_one_device_does_everything(seed)
        for exchange in EXCHANGES:
            test_bound_is_the_time_of_the_only_unit_that_can_run_an_expert(exchange)
    except AssertionError:
        return True
    return False


def test_a_bound_that_leaves_out_the_way_back_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    true = bound_costs.Costs._visits_ps

    def one_way(self: bound_costs.Costs, kind: bound_costs.Kind, rows: int) -> list[int]:
        back = self.machine.transfer(kind.devices[0], 0, self.model.token_row_bytes(rows)).length_ps
        return [ps - back for ps in true(self, kind, rows)]

    monkeypatch.setattr(bound_costs.Costs, "_visits_ps", one_way)
    assert _caught()


def test_a_bound_that_is_one_picosecond_too_high_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    true = bound_costs.Costs._exact_run_ps
    monkeypatch.setattr(bound_costs.Costs, "_exact_run_ps",
                        lambda self, kind, tokens, gathered: true(self, kind, tokens, gathered) + 1)
    assert _caught()
