"""Each fault on a GPU with two NDP units, worked out by hand.

One MoE layer of four experts of 384 bytes, top 1; one token of 16 bytes visits expert 3, which rests on unit1. Links
move 10 GB/s, a unit reads 100 GB/s, the GPU 1000 GB/s. A healthy step:

    out      1600   16 B / 10 GB/s
    run      4480   (384 + 64) B / 100 GB/s
    back     1600
    reduce     48   3 x 16 B / 1000 GB/s
    step     7728
"""

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from actors.faults import Happened
from actors.scheduler import Scheduler
from cluster.faults import inject
from emulation.engine.contract import Engine
from emulation.engine.spec import SpecEngine
from emulation.view import Setting
from schedulers.registry import load_policy
from tests.schedulers.rig import fast_engine, gpu_and_units, model, routing, step, timeline

OUT, RUN, BACK, REDUCE = 1600, 4480, 1600, 48
STEP = OUT + RUN + BACK + REDUCE
ENGINES = [pytest.param(SpecEngine, id="spec"), pytest.param(fast_engine(), id="compiled")]
MakeEngine = Callable[..., Engine]


def steps_of(make_engine: MakeEngine, faults: list[Mapping[str, object]], policy: str = "expert_parallel",
             budget: int | None = None, **parameters: object) -> tuple[list[int], Scheduler]:
    """How long each of four steps takes; faults are told before the first."""
    machine, of = gpu_and_units(2), model(moe_layers=1, experts=4, top_k=1)
    room = np.array([10**9 if budget is None else budget, 10**9, 10**9])
    scheduler = Scheduler(Setting(machine, of, room), load_policy(policy, parameters), make_engine)
    for fault in faults:
        inject(scheduler, fault)
    for number in range(4):
        scheduler.begin(step(number, 1))
        scheduler.decide(routing([[3]]))
        scheduler.end()
    scheduler.finish()
    return [each.end_ps - each.begin_ps for each in scheduler.steps], scheduler


def only(scheduler: Scheduler) -> Happened:
    (happened,) = scheduler.faults.happened
    return happened


@pytest.mark.parametrize("engine", ENGINES)
def test_healthy(engine: MakeEngine) -> None:
    assert steps_of(engine, [])[0] == [STEP] * 4


@pytest.mark.parametrize("engine", ENGINES)
def test_straggler_from_the_first_decision_after_its_time_until_the_first_after_its_end(engine: MakeEngine) -> None:
    # From 1 ps on: the decision of step 0 was at 0, that of step 1 is at 7728. A quarter of the speed: 4 x 4480.
    took, scheduler = steps_of(engine, [{"fault": "straggler", "device": "unit1", "to": "25 %", "at": "1 ps",
                                         "until": "20 ns"}])
    assert took == [STEP, STEP + 3 * RUN, STEP, STEP]
    assert (only(scheduler).took_ps, only(scheduler).step, only(scheduler).over_ps) == (STEP, 1, 2 * STEP + 3 * RUN)


@pytest.mark.parametrize("engine", ENGINES)
def test_link_slows_in_one_direction(engine: MakeEngine) -> None:
    # back1 at half its bandwidth: the result takes 3200.
    took, _ = steps_of(engine, [{"fault": "link_slows", "link": "back1", "to": "50 %", "at": "7728 ps"}])
    assert took == [STEP, STEP + BACK, STEP + BACK, STEP + BACK]


@pytest.mark.parametrize("engine", ENGINES)
def test_link_flaps(engine: MakeEngine) -> None:
    # Slow in the first half of every 16 ns. Steps begin at 0 (slow), 9328 (fast), 17056 (1056 in: slow), 26384 (10384
    # in: fast).
    took, scheduler = steps_of(engine, [{"fault": "link_flaps", "link": "back1", "to": "50 %", "period": "16 ns",
                                         "duty": "50 %"}])
    assert took == [STEP + BACK, STEP, STEP + BACK, STEP]
    assert only(scheduler).took_ps == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_unit_dies_and_its_experts_are_read_from_storage(engine: MakeEngine) -> None:
    # Experts 2 and 3, 768 B, at 6.8 GB/s: 112941.2, rounded up. Then unit0 runs expert 3, as fast as unit1 did.
    took, scheduler = steps_of(engine, [{"fault": "unit_dies", "device": "unit1", "at": "1 ps"}])
    assert took == [STEP, 112_942 + STEP, STEP, STEP]
    happened = only(scheduler)
    assert (happened.stored_bytes, happened.sent_bytes, happened.recovery_ps) == (768, 0, 112_942)
    assert timeline(scheduler)["copy recovery"] == [(STEP, STEP + 112_942)]
    assert scheduler.ledger.used_bytes.tolist() == [0, 1536, 0]


@pytest.mark.parametrize("engine", ENGINES)
def test_survivors_send_what_a_new_cut_needs(engine: MakeEngine) -> None:
    # tensor_parallel cuts an expert's eight columns in two; with unit1 dead unit0 needs all eight: 4 x 192 B are lost.
    took, scheduler = steps_of(engine, [{"fault": "unit_dies", "device": "unit1", "at": "1 ps"}],
                               policy="tensor_parallel")
    assert (only(scheduler).stored_bytes, only(scheduler).sent_bytes) == (768, 0)
    assert scheduler.ledger.start.parts == 1
    assert took[2:] == [STEP, STEP]  # whole experts on one unit: what expert_parallel does there


@pytest.mark.parametrize("engine", ENGINES)
def test_memory_shrinks_and_a_cache_that_fitted_is_made_again(engine: MakeEngine) -> None:
    # lru with two slots of 384 B: experts 0 and 1 lie there, and expert 3 came over expert 0. Started again, it wants
    # 0 and 1: 1 is there, and unit0 sends 0 (38400). Then expert 3 comes again (38400) and runs on the GPU (448).
    took, scheduler = steps_of(engine, [{"fault": "memory_shrinks", "device": "gpu", "to": "999999 kB", "at": "1 ps"}],
                               policy="lru", slots=2, budget=2000)
    assert took == [38_400 + 448, 38_400 + 38_400 + 448, 448, 448]
    assert (only(scheduler).stored_bytes, only(scheduler).sent_bytes) == (0, 384)
    assert scheduler.ledger.budget_bytes.tolist() == [1000, 10**9, 10**9]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_fault_after_the_end_changes_nothing(engine: MakeEngine) -> None:
    took, scheduler = steps_of(engine, [{"fault": "unit_dies", "device": "unit1", "at": "1 s"}])
    assert took == [STEP] * 4
    assert only(scheduler).took_ps is None
