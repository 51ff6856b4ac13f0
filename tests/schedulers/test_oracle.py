"""The clairvoyant cache, by hand: what it fetches, when, and over whom."""

from dataclasses import replace

import numpy as np
import pytest

from actors.scheduler import Scheduler
from emulation.errors import ConfigError
from emulation.ledger import Ledger
from emulation.view import Visits
from schedulers.registry import load_policy
from tests.schedulers.rig import drive, fast_engine, gpu_and_units, model, routing, setting, step
from tests.schedulers.test_plans import Asked


def foreseeing(steps, slots, experts=6, **parameters):
    """An oracle that is told what each layer of each step needs: steps [steps][layers] of experts."""
    counts = np.zeros((len(steps), len(steps[0]), experts), np.int64)
    for number, layers in enumerate(steps):
        for layer, needed in enumerate(layers):
            counts[number, layer, needed] = 1
    asked = Asked.__new__(Asked)
    asked.policy = load_policy("oracle", {"slots": slots, **parameters})
    asked.given = replace(setting(gpu_and_units(2), model(moe_layers=2, experts=experts, top_k=1)),
                          future=Visits(np.arange(len(steps)), counts))
    asked.start, asked.state = asked.policy.start(asked.given)
    asked.ledger = Ledger(asked.given.machine, asked.given.model, asked.start, asked.given.budget_bytes)
    return asked


def test_the_cache_begins_with_what_is_needed_first_and_each_step_is_fetched_behind_the_one_before():
    # Layer 0 needs 4, then 1, then 4, then 2: it begins with 4 and 1. Behind step 0, nothing is absent that step 1
    # needs. Behind step 1, 4 is there. Behind step 2, 2 comes over 4 (both never needed again: the higher id goes).
    asked = foreseeing([[[4], [0]], [[1], [0]], [[4], [0]], [[2], [0]]], slots=2)
    assert [np.flatnonzero(mask).tolist() for mask in asked.start.copies[0]] == [[1, 4], [0, 1]]
    assert asked.rows([[4]]) == ["run 4 gpu"]
    assert asked.rows([[1]]) == ["run 1 gpu"]
    assert asked.rows([[4]]) == ["run 4 gpu", "load 2 gpu over 4 ahead"]


def test_min_keeps_what_is_needed_sooner():
    # Slots for 0 and 1. Step 1 needs 2: 0 is needed in step 2, 1 in step 3, so 1 goes, and comes back over 2.
    asked = foreseeing([[[0, 1], [0]], [[2], [0]], [[0], [0]], [[1], [0]]], slots=2)
    assert asked.rows([[0], [1]]) == ["run 0 gpu", "run 1 gpu", "load 2 gpu over 1 ahead"]
    assert asked.rows([[2]]) == ["run 2 gpu"]
    assert asked.rows([[0]]) == ["run 0 gpu", "load 1 gpu over 2 ahead"]


def test_further_ahead_slots_that_are_free_of_need_are_filled_at_once():
    steps = [[[0], [0]], [[1], [0]], [[2], [0]]]
    assert foreseeing(steps, slots=2).rows([[0]]) == ["run 0 gpu"]
    assert foreseeing(steps, slots=2, ahead=2).rows([[0]]) == ["run 0 gpu", "load 2 gpu over 0 ahead"]


def test_without_prefetch_misses_are_copied_on_demand_by_min():
    asked = foreseeing([[[0], [0]], [[2], [0]], [[1], [0]]], slots=2, prefetch=False)
    assert asked.rows([[0]]) == ["run 0 gpu"]
    assert asked.rows([[2]]) == ["run 2 gpu"]
    assert asked.rows([[1]]) == ["load 1 gpu over 0", "run 1 gpu"]
    assert foreseeing([[[0, 1, 2, 3], [0]]], slots=2, prefetch=False).rows([[0], [1], [2], [3]]) == [
        "run 0 gpu", "run 1 gpu", "load 2 gpu over 0", "run 2 gpu", "load 3 gpu over 1", "run 3 gpu"]


def test_it_is_refused_where_no_one_knows_the_steps_to_come():
    with pytest.raises(ConfigError, match="oracle sees the steps to come, and no one knows them here"):
        load_policy("oracle", {}).start(setting(gpu_and_units(1), model(moe_layers=1, experts=4, top_k=1)))


def test_prefetch_hides_copies_and_min_loads_least():
    """Copied ahead, experts need their slots sooner: what hits must stay until it has run, so that more is copied."""
    rng = np.random.default_rng(3)
    steps = [[rng.permutation(8)[:2].tolist() for _ in range(2)] for _ in range(30)]
    counts = np.zeros((30, 2, 8), np.int64)
    for number, layers in enumerate(steps):
        for layer, needed in enumerate(layers):
            counts[number, layer, needed] = 1
    feed = [(step(number, 1), [routing([needed]) for needed in layers], [None, None])
            for number, layers in enumerate(steps)]
    of = model(moe_layers=2, experts=8, top_k=2, d_model=64, d_ff=64)
    times, loads = {}, {}
    for name, parameters in (("oracle", {}), ("oracle", {"prefetch": False}), ("lru", {})):
        given = replace(setting(gpu_and_units(2), of),
                        future=Visits(np.arange(30), counts) if name == "oracle" else None)
        run = Scheduler(given, load_policy(name, {"slots": 4, **parameters}), fast_engine())
        drive(run, feed)
        key = (name, bool(parameters))
        times[key] = run.engine.now_ps
        loads[key] = sum(phase.loads for phase in run.counts.phases.values())
    assert times["oracle", False] < times["oracle", True] < times["lru", False]
    assert loads["oracle", True] <= loads["oracle", False] < loads["lru", False]
