"""Caches of experts on GPUs: evictions by hand, Belady against every other choice, switches in plan and time."""

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from actors.scheduler import Scheduler
from emulation.errors import ConfigError
from emulation.machine import Device, Link, Machine
from emulation.ops import Lane
from emulation.plan import LOAD, NOBODY, RUN
from emulation.view import Visits
from schedulers._eviction import NEVER, next_active, pass_through
from schedulers.registry import load_policy
from tests.schedulers.rig import (
    GB,
    drive,
    fast_engine,
    gpu_and_units,
    gpus,
    kernels,
    model,
    moved,
    routing,
    setting,
    step,
)

LOAD_PS, RUN_PS = 38_400, 448
"""Of an expert of the rig: 384 bytes at 10 GB/s; 448 bytes (one token's rows among them) at 1000 GB/s."""


def served(cached, active, slots, rule, *, inactive_first=False, again=None):
    """Uses in words, and what is cached behind them."""
    uses, after = pass_through(cached, active, slots, rule, inactive_first=inactive_first, again=again)
    told = [f"{use.expert}" if use.hit else f"{use.expert} over {use.victim}" if use.victim != NOBODY else
            f"{use.expert} new" for use in uses]
    return told, after


def test_lifo_with_two_slots_and_three_experts_evicts_2_and_keeps_1():
    assert served([], [1, 2, 3], 2, "lifo", inactive_first=True) == (["1 new", "2 new", "3 over 2"], [1, 3])
    # the next batch needs the same three: 1 hits, 2 replaces 3 (the last in), 3 replaces 2
    assert served([1, 3], [1, 2, 3], 2, "lifo", inactive_first=True) == (["1", "2 over 3", "3 over 2"], [1, 3])
    assert served([1, 3], [1, 2, 3], 2, "fifo") == (["1", "2 over 1", "3"], [3, 2])
    assert served([3, 2], [1, 2, 3], 2, "fifo") == (["1 over 3", "2", "3 over 2"], [1, 3])


def test_what_the_batch_does_not_need_goes_first_and_the_oldest_of_it():
    assert served([2, 9, 7], [1, 2], 3, "lifo", inactive_first=True) == (["1 over 9", "2"], [2, 7, 1])
    assert served([2, 9, 7], [1, 2], 3, "lifo") == (["1 over 7", "2"], [2, 9, 1])
    assert served([2, 9, 7], [1, 2], 3, "fifo", inactive_first=True) == (["1 over 9", "2"], [2, 7, 1])
    assert served([2, 9, 7], [1, 2], 3, "fifo") == (["1 over 2", "2 over 9"], [7, 1, 2])


def test_lru_renews_at_a_hit_and_fifo_does_not():
    assert served([4, 5], [4, 6], 2, "lru") == (["4", "6 over 5"], [4, 6])
    assert served([4, 5], [4, 6], 2, "fifo") == (["4", "6 over 4"], [5, 6])


def test_belady_evicts_what_is_used_last_from_here_on():
    # 1 is needed later in this batch, 0 in the next, 7 in the one behind: 7 goes; of the same step, the higher id
    after = {0: 1, 1: 5, 7: 2, 8: 2}.get
    assert served([0, 1, 7], [1, 3], 3, "belady", again=after)[0] == ["1", "3 over 1"]
    assert served([0, 3, 7], [1, 3], 3, "belady", again=after)[0] == ["1 over 7", "3"]
    assert served([8, 7, 0], [3], 3, "belady", again=after)[0] == ["3 over 8"]
    # what never comes again goes before all else, the oldest first
    assert served([0, 9, 4], [3], 3, "belady", again={0: 1}.get and (lambda e: 1 if e == 0 else NEVER))[0] == [
        "3 over 9"]


def test_steps_until_an_expert_is_active_again():
    active = np.array([[[1, 0]], [[0, 0]], [[1, 1]]], np.bool_)
    assert next_active(active)[:, 0].tolist() == [[2, 2], [1, 1], [NEVER, NEVER]]


def misses(batches, slots, rule, *, inactive_first, experts=5):
    active = np.zeros((len(batches), 1, experts), np.bool_)
    for at, batch in enumerate(batches):
        active[at, 0, batch] = True
    again, cached, missed = next_active(active), list(range(slots)), 0
    for at, batch in enumerate(batches):
        uses, cached = pass_through(cached, batch, slots, rule, inactive_first=inactive_first,
                                    again=again[at, 0].__getitem__)
        assert len(cached) == slots
        missed += sum(not use.hit for use in uses)
    return missed


def fewest(batches, slots):
    """Misses of the best choice of victims, by trying all."""
    order = [expert for batch in batches for expert in batch]

    @cache
    def best(at: int, cached: frozenset[int]) -> int:
        if at == len(order):
            return 0
        if order[at] in cached:
            return best(at + 1, cached)
        return 1 + min(best(at + 1, cached - {victim} | {order[at]}) for victim in sorted(cached))

    return best(0, frozenset(range(slots)))


@drawn(batches=st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4, unique=True).map(sorted), min_size=1,
                        max_size=5), slots=st.integers(1, 3))
def test_no_eviction_beats_belady_and_no_choice_at_all(batches, slots):
    belady = misses(batches, slots, "belady", inactive_first=False)
    assert belady == fewest(batches, slots)
    for rule in ("lifo", "fifo", "lru"):
        for inactive_first in (False, True):
            assert belady <= misses(batches, slots, rule, inactive_first=inactive_first)


def pair_beside_host() -> Machine:
    """Two GPUs of 1000 GB/s, both homes and joined by links of 100 GB/s, and a host's memory at 10 GB/s from each."""
    lanes = [Lane(name) for name in ("sm0", "sm1", "down0", "down1", "0>1", "1>0")]
    gpu = [Device(f"gpu{i}", "gpu", 10**9, (i,), (), kernels(1000 * GB, ("expert", "reduce"))) for i in range(2)]
    host = Device("host", "cpu", 10**12, rests=True)
    links = (Link("down0", 2, 0, 2, 10 * GB), Link("down1", 2, 1, 3, 10 * GB), Link("0>1", 0, 1, 4, 100 * GB),
             Link("1>0", 1, 0, 5, 100 * GB))
    return Machine("pair", (*gpu, host), links, tuple(lanes), homes=(0, 1), quantum_bytes=64)


def timed(parameters, batches, *, machine=None, experts=4, future=False, popularity=None):
    """A run of one MoE layer, a step a batch, whose tokens visit one expert each: rows by step, loads, ps, run."""
    of = model(moe_layers=1, experts=experts, top_k=1)
    counts = np.stack([[np.bincount(batch, minlength=experts)] for batch in batches])
    given = replace(setting(machine or gpu_and_units(1), of, popularity=popularity),
                    future=Visits(np.arange(len(batches)), counts) if future else None)
    done = Scheduler(given, load_policy("expert_buffering", parameters), fast_engine())
    homes = done.setting.machine.homes
    steps = [(step(at, len(batch), homes), [routing([[e] for e in batch])], [None]) for at, batch in enumerate(batches)]
    decisions = drive(done, steps)
    rows = [[(row.verb, row.expert, row.device, row.victim) for row in one.plan.rows] for one in decisions]
    return rows, sum(row[0] == LOAD for one in rows for row in one), done.steps[-1].end_ps, done


def test_misses_come_over_victims_and_experts_run_in_increasing_id():
    rows, loads, end_ps, done = timed({"slots": 2}, [[3, 1, 2]])
    assert rows == [[(RUN, 1, 0, NOBODY), (LOAD, 2, 0, 0), (RUN, 2, 0, NOBODY), (LOAD, 3, 0, 2), (RUN, 3, 0, NOBODY)]]
    # two copies, the second behind the run of its victim; three results of 16 bytes are added up at 1000 GB/s
    assert end_ps == 2 * (LOAD_PS + RUN_PS) + 144
    assert moved(done) == {("back0", "demand"): 2 * 384}
    assert loads == 2


CYCLE = [[1, 2, 3]] * 4
"""Two slots hold 0 and 1 at first; then LIFO keeps 1, and FIFO evicts what is needed soonest."""


@pytest.mark.parametrize(("better", "worse", "batches"), [
    ({"eviction": "lifo"}, {"eviction": "fifo", "inactive_first": False}, CYCLE),
    ({"eviction": "belady"}, {"eviction": "lru", "inactive_first": False}, CYCLE),
    ({"inactive_first": True}, {"inactive_first": False}, [[0, 1], [1, 2], [1, 2], [1, 2]]),
    ({"slots": 3}, {"slots": 2}, CYCLE)])
def test_a_switch_changes_plan_and_time(better, worse, batches):
    good, bad = (timed({"slots": 2, **one}, batches, future="belady" in one.values()) for one in (better, worse))
    assert good[0] != bad[0]
    assert good[1] < bad[1]
    assert good[2] < bad[2]


def test_a_placement_by_history_spreads_what_is_active_together():
    history = np.array([[9, 8, 1, 1]])
    batches = [[0, 1], [0, 1], [0, 1]]
    original, greedy = (timed({"slots": 1, "placement": one}, batches, machine=pair_beside_host(), popularity=history)
                        for one in ("contiguous", "greedy"))
    # both hot experts on one GPU take turns in its only slot; one on each GPU, they come once at most
    assert [sum(row[0] == LOAD for row in rows) for rows in original[0]] == [1, 1 + 1, 1 + 1]
    assert [sum(row[0] == LOAD for row in rows) for rows in greedy[0]] == [0, 0, 0]
    assert greedy[2] < original[2]


def test_each_gpu_has_a_cache_of_its_own_and_copies_over_its_own_link():
    rows, _, _, done = timed({"slots": 1}, [[1, 3]], machine=pair_beside_host())
    assert rows == [[(LOAD, 1, 0, 0), (RUN, 1, 0, NOBODY), (LOAD, 3, 1, 2), (RUN, 3, 1, NOBODY)]]
    assert moved(done)[("down0", "demand")] == moved(done)[("down1", "demand")] == 384


def test_a_miss_is_copied_while_tokens_travel_behind_the_sizes():
    """Token 0 lies on gpu0 and visits gpu1's expert 3, token 1 the other way round."""
    _, _, end_ps, _ = timed({"slots": 1}, [[3, 1]], machine=pair_beside_host())
    size_ps, row_ps = 80, 160  # a count of 8 bytes and a row of 16, at 100 GB/s
    reduced_ps = 48  # three times a row at 1000 GB/s
    assert end_ps == size_ps + LOAD_PS + RUN_PS + row_ps + reduced_ps  # a row goes out while the expert comes


def test_more_slots_never_miss_more_under_belady():
    rng = np.random.default_rng(3)
    batches = [sorted(rng.permutation(5)[:3].tolist()) for _ in range(12)]
    found = [misses(batches, slots, "belady", inactive_first=False) for slots in range(1, 6)]
    assert all(more <= fewer for fewer, more in pairwise(found))
    assert found[-1] == 0


def test_machines_without_a_memory_beside_the_homes_are_refused_and_so_is_belady_in_the_dark():
    of = model(moe_layers=1, experts=4, top_k=1)
    with pytest.raises(ConfigError, match=r"expert_buffering needs homes .* 'gpus' has no such memory"):
        load_policy("expert_buffering", {}).start(setting(gpus(2), of))
    with pytest.raises(ConfigError, match="needs to be told the steps to come"):
        load_policy("expert_buffering", {"eviction": "belady"}).start(setting(pair_beside_host(), of))
