"""Faults as values: what is left of a machine, when they act, and what a new placement lacks."""

from fractions import Fraction

import numpy as np
import pytest

from actors.scheduler import Scheduler
from cluster.faults import inject
from emulation.engine.contract import Engine
from emulation.engine.spec import SpecEngine
from emulation.faults import LinkFlaps, LinkSlows, Straggler, UnitDies, machine_under
from emulation.ledger import Ledger, Start
from emulation.ops import Lane, OpBuilder, Pool
from emulation.relocation import missing
from emulation.shards import slice_bounds
from schedulers.registry import load_policy
from tests.schedulers.rig import drive, fast_engine, gpu_and_units, gpus, kernels, model, routing, setting, step


def test_rates_are_the_whole_number_below_and_overheads_the_one_above() -> None:
    machine = gpu_and_units(1)
    third = Straggler(at_ps=0, device=1, share=Fraction(1, 3))
    odd = machine_under(machine, [third, LinkSlows(at_ps=0, links=(0,), name="out0", share=Fraction(1, 3))])
    assert odd.devices[1].kernels["expert"].bytes_per_s == 33_333_333_333
    assert odd.links[0].bytes_per_s == 3_333_333_333
    assert odd.links[1] == machine.links[1]
    assert odd.devices[0] == machine.devices[0]
    assert third.left(machine.devices[1].__class__("x", "x", kernels=kernels(10, overhead_ps=10))).kernels[
        "expert"].overhead_ps == 30
    twice = machine_under(machine, [third, third])
    assert twice.devices[1].kernels["expert"].bytes_per_s == 11_111_111_111


def test_a_dead_device_is_no_unit_and_no_store() -> None:
    machine = machine_under(gpu_and_units(2), [UnitDies(at_ps=0, device=2)])
    assert machine.units == (1,)
    assert machine.stores == (1,)


def test_a_flap_acts_at_the_beginning_of_each_period() -> None:
    flap = LinkFlaps(at_ps=5, until_ps=40, links=(0,), name="l", share=Fraction(1, 2), period_ps=10,
                     duty=Fraction(3, 10))
    assert [t for t in range(50) if flap.acts(t)] == [5, 6, 7, 15, 16, 17, 25, 26, 27, 35, 36, 37]


@pytest.mark.parametrize("seed", range(20))
def test_what_a_placement_lacks_is_counted_column_by_column(seed: int) -> None:
    rng = np.random.default_rng(seed)
    machine, of = gpus(4), model(moe_layers=2, experts=3, top_k=1, d_ff=int(rng.integers(5, 12)))

    def ledger() -> Ledger:
        parts = int(rng.integers(1, 5))
        copies = {d: rng.random((2, 3)) < 0.3 for d in range(4)}
        rest = rng.integers(0, 4, (2, 3, parts))
        for d, mask in copies.items():
            mask &= ~(rest == d).any(axis=2)
        return Ledger(machine, of, Start(rest, copies), np.full(4, 10**9))

    def columns(of_: Ledger, device: int) -> set[tuple[int, int, int]]:
        bounds = slice_bounds(of.d_ff, of_.start.parts)
        return {(moe, e, c) for moe in range(2) for e in range(3) for p, (lo, hi) in enumerate(bounds)
                if of_.has(device, moe, e, p) for c in range(lo, hi)}

    old, new, dead = ledger(), ledger(), int(rng.integers(0, 4))
    alive = np.arange(4) != dead
    found = missing(old, new, alive)
    held = {d: columns(old, d) for d in range(4) if d != dead}
    lacking = {d: columns(new, d) - held[d] for d in held}
    anywhere = set().union(*held.values())
    each = of.expert_work(1).weight_bytes
    assert found.stored_bytes == each * sum(len(lack - anywhere) for lack in lacking.values())
    assert sum(found.sent.values()) == each * sum(len(lack & anywhere) for lack in lacking.values())
    for (source, target), bytes_ in found.sent.items():
        assert dead not in (source, target)
        assert bytes_ <= each * len(lacking[target] & held[source])


@pytest.mark.parametrize("engine", [SpecEngine, fast_engine()])
def test_a_pool_of_another_size_lends_nothing_until_enough_is_given_back(engine: type[Engine]) -> None:
    made = engine((Lane("lane"),), (Pool("pool", 10),))  # type: ignore[call-arg]
    build = OpBuilder()
    first = build.op({0: 5}, takes=[(0, 8, 8)])
    build.release(build.take_handle(first), after=[first])
    made.submit(build.build())
    made.run([first])
    made.resize({0: 4})
    build = OpBuilder(made.next_serial, made.next_take)
    second = build.op({0: 5}, takes=[(0, 4, 4)])
    made.submit(build.build())
    made.run()
    assert made.free(0) == 0
    assert int(made.spans().end_ps[second]) == 10


@pytest.mark.parametrize("seed", range(6))
def test_one_token_at_a_time_never_gets_faster_by_a_slower_link_or_unit(seed: int) -> None:
    # With one token and whole experts on their units nothing overlaps: a plan is a chain.
    rng = np.random.default_rng(seed)
    machine, of = gpu_and_units(3), model(moe_layers=2, experts=6, top_k=1)
    steps = [(step(n, 1), [routing([[int(rng.integers(6))]]) for _ in range(2)], [None, None]) for n in range(5)]
    name = str(rng.choice([link.name for link in machine.links]))
    ends = []
    for share in (100, 80, 50, 20, 5):
        scheduler = Scheduler(setting(machine, of), load_policy("expert_parallel", {}), SpecEngine)
        fault = {"fault": "straggler", "device": "unit1"} if seed % 2 else {"fault": "link_slows", "link": name}
        inject(scheduler, {**fault, "to": f"{share} %", "at": "20 ns"})
        drive(scheduler, steps)
        ends.append(scheduler.steps[-1].end_ps)
    assert ends == sorted(ends)


def test_a_view_tells_what_acts_and_what_it_costs() -> None:
    seen = []

    class Looking:
        exact = True

        def __init__(self) -> None:
            self._inner = load_policy("expert_parallel", {})

        def start(self, given):  # type: ignore[no-untyped-def]
            return self._inner.start(given)

        def plan(self, view, state):  # type: ignore[no-untyped-def]
            seen.append(([fault.kind for fault in view.faults], view.costs.run_ps(1, 1), view.dead(2),
                         view.setting.machine.units))
            return self._inner.plan(view, state)

    scheduler = Scheduler(setting(gpu_and_units(2), model(moe_layers=1, experts=4, top_k=1)), Looking(), SpecEngine)
    inject(scheduler, {"fault": "straggler", "device": "unit0", "to": "50 %", "at": "1 ps"})
    inject(scheduler, {"fault": "unit_dies", "device": "unit1", "at": "1 ps"})
    drive(scheduler, [(step(n, 1), [routing([[0]])], [None]) for n in range(2)])
    assert seen == [([], 4480, False, (1, 2)), (["straggler", "unit_dies"], 8960, True, (1,))]
