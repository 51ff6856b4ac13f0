"""The offloading baselines by hand: spare buffers, speculation, a gate a block ahead, a whole block ahead."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from actors.scheduler import Scheduler
from emulation.engine.spec import SpecEngine
from emulation.machine import Machine
from emulation.plan import EVICT, LOAD, NOBODY, RUN
from emulation.validate import Decision
from emulation.view import PREFILL, Routing
from schedulers.registry import load_policy
from tests.schedulers.rig import GB, drive, gpu_and_units, kernels, model, moved, routing, setting, step, timeline

VERBS = {RUN: "run", LOAD: "load", EVICT: "evict"}
LOAD_PS, RUN_PS = 38_400, 44_800


def slow_gpu() -> Machine:
    """A GPU that takes longer over an expert (448 bytes at 10 GB/s) than the link over its copy (384)."""
    machine = gpu_and_units(1)
    return replace(machine, devices=(replace(machine.devices[0], kernels=kernels(10 * GB)), machine.devices[1]))


def carried_out(name: str, layers: list[list[list[int]]], forecasts: list[list[list[int]] | None] | None = None, *,
                experts: int = 6, steps: int = 1, machine: Machine | None = None,
                **parameters: Any) -> tuple[Scheduler, list[Decision]]:
    """The same prefill step so many times: routing by layer, and forecasts (that for the first layer is not used)."""
    of = model(moe_layers=len(layers), experts=experts, top_k=len(layers[0][0]))
    made = Scheduler(setting(machine or slow_gpu(), of), load_policy(name, parameters), SpecEngine)
    guesses: list[Routing | None] = [None if f is None else routing(f) for f in forecasts or [None] * len(layers)]
    return made, drive(made, [(step(number, len(layers[0]), phase=PREFILL), [routing(each) for each in layers], guesses)
                              for number in range(steps)])


def rows(decision: Decision) -> list[str]:
    return [f"{VERBS[row.verb]} {row.expert}" + (f" @{row.layer}" if row.layer != decision.plan.layer else "")
            + (f" over {row.victim}" if row.victim != NOBODY else "") + (" ahead" if row.priority else "")
            for row in decision.plan.rows]


def times(run: Scheduler) -> list[int]:
    return [each.end_ps - each.begin_ps for each in run.steps]


def test_two_spare_buffers_let_the_next_copy_overlap_what_one_slot_makes_wait():
    # lru, one slot:  copy 0-38.4 run -83.2 | copy 83.2-121.6 run -166.4 | copy 166.4-204.8 run -249.6
    # two spare: copies 0-38.4, 38.4-76.8, then over the slot's first expert, which nobody uses: 76.8-115.2
    three = [[[1], [2], [3]]]
    plain, _ = carried_out("lru", three, slots=1)
    spare, plans = carried_out("mixtral_offloading", three, slots=1)
    assert rows(plans[0]) == ["load 1", "run 1", "load 2", "run 2", "load 3 over 0", "run 3", "evict 1", "evict 2"]
    assert times(plain) == [3 * (LOAD_PS + RUN_PS)]
    assert times(spare) == [LOAD_PS + 3 * RUN_PS]
    assert spare.state[0].tolist() == [[3]]
    one, plans = carried_out("mixtral_offloading", [[[1], [2], [3], [4]]], slots=1, spare=1)
    assert rows(plans[0]) == ["load 1", "run 1", "load 2 over 0", "run 2", "load 3 over 1", "run 3", "load 4 over 2",
                              "run 4", "evict 3"]
    assert times(one) == [LOAD_PS + 4 * RUN_PS]
    assert timeline(one)["copy demand e3 gpu"] == [(LOAD_PS + RUN_PS, 2 * LOAD_PS + RUN_PS)]


def test_what_is_there_runs_first_and_every_use_is_the_most_recent():
    made, plans = carried_out("mixtral_offloading", [[[4], [1], [0]]], slots=3)
    # The order of use is 2 1 0. Hits 1 and 0; 4 comes into a spare buffer, and 2 goes.
    assert rows(plans[0]) == ["run 1", "run 0", "load 4", "run 4", "evict 2"]
    assert made.state[0].tolist() == [[1, 0, 4]]


def test_speculation_copies_ahead_and_gives_up_what_was_not_routed():
    layers, forecasts = [[[0]], [[4]]], [None, [[4], [5], [3]]]
    made, plans = carried_out("mixtral_offloading", layers, forecasts, slots=1, speculate=True)
    assert rows(plans[0]) == ["run 0", "load 4 @1 ahead", "load 5 @1 ahead"]
    assert rows(plans[1]) == ["evict 5", "run 4", "evict 0"]
    assert made.state[0].tolist() == [[0], [4]]
    assert times(made) == [RUN_PS + RUN_PS]
    plain, plans = carried_out("mixtral_offloading", layers, forecasts, slots=1)
    assert rows(plans[1]) == ["load 4", "run 4", "evict 0"]
    assert times(plain) == [RUN_PS + LOAD_PS + RUN_PS]


def test_a_spare_buffer_that_speculation_filled_is_not_free_for_misses():
    layers, forecasts = [[[0], [0]], [[4], [3]]], [None, [[4], [5]]]
    _, plans = carried_out("mixtral_offloading", layers, forecasts, slots=1, spare=1, speculate=True)
    assert rows(plans[0]) == ["run 0", "load 4 @1 ahead"]
    assert rows(plans[1]) == ["run 4", "load 3 over 0", "run 3", "evict 4"]


def test_pre_gated_copies_the_next_blocks_experts_while_this_one_computes():
    blocks = [[[0]], [[1]], [[2]]]
    made, plans = carried_out("pre_gated", blocks, blocks)
    assert [rows(plan) for plan in plans] == [
        ["load 0", "load 1 @1 ahead", "run 0", "evict 0"], ["load 2 @2 ahead", "run 1", "evict 1"],
        ["run 2", "evict 2"]]
    # Each copy hides behind the block before it, but the first.
    assert times(made) == [LOAD_PS + 3 * RUN_PS]
    without, _ = carried_out("pre_gated", blocks)
    assert times(without) == [3 * (LOAD_PS + RUN_PS)]
    assert made.ledger.peak_bytes[0] == 2 * 384


@pytest.mark.parametrize(("cache", "stays"), [("lifo", [0, 1]), ("lfu", [0, 1]), ("lru", [4, 5])])
def test_pre_gated_keeps_what_its_cache_says(cache: str, stays: list[int]):
    # Two slots, 0 and 1 at first. One step visits 0 and 1, so both are used more often; the next 4 and 5.
    of = model(moe_layers=1, experts=6, top_k=2)
    made = Scheduler(setting(slow_gpu(), of), load_policy("pre_gated", {"cache": cache, "slots": 2}), SpecEngine)
    feed = [(step(number, 1), [routing([experts])], [None]) for number, experts in enumerate(([0, 1], [0, 1], [4, 5]))]
    plans = drive(made, feed)
    assert rows(plans[0]) == ["run 0", "run 1"]
    assert rows(plans[2])[:4] == ["load 4", "load 5", "run 4", "run 5"]
    assert np.flatnonzero(made.ledger.held(0, 0)).tolist() == stays


def test_prefetch_all_copies_a_whole_block_and_keeps_two():
    made, plans = carried_out("prefetch_all", [[[2]], [[0]]], experts=3)
    assert [rows(plan) for plan in plans] == [
        ["load 2", "load 0 @1 ahead", "load 1 @1 ahead", "load 2 @1 ahead", "run 2", "evict 2"],
        ["run 0", "evict 0", "evict 1", "evict 2"]]
    assert moved(made)["back0", "demand"] == 384
    assert moved(made)["back0", "prefetch"] == 3 * 384
    # 0 is the first of the block to come: at 76.8, when block 0 still computes.
    assert times(made) == [LOAD_PS + 2 * RUN_PS]
