"""Operations a second of the timing engines, beside a SimPy model of the same plan, timed in the same run."""

import argparse
import json
import statistics
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.simpy_model import simulate
from emulation.engine.choose import make_engine
from emulation.engine.contract import Spans
from emulation.ops import END, Lane, Ops, Pool

LANES = 64
POOLS = 16
POOL_CAPACITY = 8
WINDOW = 3700
"""How far back a wait may reach: it sets how many operations are ready at a time, and so the length of queues."""


def bench_plan(ops: int, seed: int) -> tuple[list[Lane], list[Pool], Ops]:
    """A random plan: 30 % of operations on two or three lanes, 20 % with a pool, three priorities, two waits each.

    Nothing has a quantum: a process of SimPy's is not stopped midway by what comes after it. Every eighth lane
    has two servers. A take is given back at the end of its operation.
    """
    random = np.random.default_rng(seed)
    lanes = [Lane(f"lane{i}", servers=2 if i % 8 == 7 else 1) for i in range(LANES)]
    pools = [Pool(f"pool{i}", POOL_CAPACITY) for i in range(POOLS)]
    wide = random.random(ops) < 0.31
    count = np.where(wide, random.choice([2, 2, 2, 2, 3], ops), 1)
    hold_ptr = np.concatenate([[0], np.cumsum(count)])
    hold_lane = (np.repeat(random.integers(0, LANES, ops), count)
                 + (np.arange(hold_ptr[-1]) - np.repeat(hold_ptr[:-1], count)) * 7) % LANES
    length_ps = random.integers(1_000, 20_000, ops)
    waits = np.minimum(np.arange(ops), random.choice([1, 2, 2, 3], ops))
    wait_ptr = np.concatenate([[0], np.cumsum(waits)])
    waiter = np.repeat(np.arange(ops), waits)
    wait_op = np.maximum(0, waiter - 1 - random.integers(0, WINDOW, len(waiter)))
    takes = random.random(ops) < 0.2
    taker = np.flatnonzero(takes)
    take_ptr = np.concatenate([[0], np.cumsum(takes)])
    ones = np.ones(len(taker), np.int64)
    return lanes, pools, Ops(
        first=0, first_take=0, priority=random.choice([0, 5, 10], ops), quantum_ps=np.zeros(ops, np.int64),
        length_ps=length_ps, hold_ptr=hold_ptr, hold_lane=hold_lane, hold_ps=np.repeat(length_ps, count),
        wait_ptr=wait_ptr, wait_op=wait_op, wait_edge=np.full(len(wait_op), END), take_ptr=take_ptr,
        take_pool=random.integers(0, POOLS, len(taker)), take_needs=ones, take_amount=ones,
        release_take=np.arange(len(taker)), release_ptr=np.arange(len(taker) + 1), release_op=taker,
        release_edge=np.full(len(taker), END))


def statistics_of(ops: Ops, lanes: list[Lane], start_ps: np.ndarray, end_ps: np.ndarray) -> dict[str, float]:
    """What the plan is like; a queue: operations that wait for a lane when another becomes ready for it."""
    n = len(ops)
    ready = np.zeros(n, np.int64)
    np.maximum.at(ready, np.repeat(np.arange(n), np.diff(ops.wait_ptr)), end_ps[ops.wait_op])
    owner = np.repeat(np.arange(n), np.diff(ops.hold_ptr))
    queue = np.zeros(n, np.int64)
    for lane in range(len(lanes)):
        mine = owner[ops.hold_lane == lane]
        came, went = np.sort(ready[mine]), np.sort(start_ps[mine])
        at = ready[mine]
        waiting = np.searchsorted(came, at, "right") - np.searchsorted(went, at, "right") - (start_ps[mine] > at)
        np.maximum.at(queue, mine, waiting)
    return {"ops": n, "lanes": len(lanes), "multi_lane_share": float((np.diff(ops.hold_ptr) > 1).mean()),
            "pool_share": float((np.diff(ops.take_ptr) > 0).mean()), "priorities": len(np.unique(ops.priority)),
            "mean_fan_in": float(np.diff(ops.wait_ptr).mean()), "median_queue": float(np.median(queue))}


def timed(name: str, lanes: list[Lane], pools: list[Pool], ops: Ops) -> tuple[float, Spans]:
    """Seconds from columns to spans, checks included."""
    engine = make_engine(name, lanes, pools)
    began = perf_counter()
    engine.submit(ops)
    engine.run()
    spans = engine.spans()
    return perf_counter() - began, spans


def small_plans(plans: int, ops: int, seed: int) -> float:
    """Seconds a plan of `ops` operations, submitted and run to the end of its last, one plan after the other."""
    lanes, pools, like = bench_plan(ops, seed)
    engine = make_engine("compiled", lanes, pools)
    began = perf_counter()
    for k in range(plans):
        first = engine.next_serial
        engine.submit(replace(like, first=first, first_take=engine.next_take, wait_op=like.wait_op + first,
                              release_op=like.release_op + first,
                              release_take=like.release_take + engine.next_take))
        engine.run((first + ops - 1,))
        if k % 64 == 0:
            engine.retire()
    return (perf_counter() - began) / plans


def bench_engine(ops: int = 20_000, seed: int = 0, repeats: int = 5) -> dict[str, Any]:
    """Operations a second, from columns to spans with all checks on one core: compiled, specification and SimPy.

    The compiled engine and SimPy are the median of `repeats` (SimPy's at most 3), the specification is timed once;
    spans of all three are equal, or this raises.
    """
    lanes, pools, plan = bench_plan(ops, seed)
    _, mine = timed("compiled", lanes, pools, plan)
    compiled = sorted(timed("compiled", lanes, pools, plan)[0] for _ in range(repeats))
    spec_s, spec = timed("spec", lanes, pools, plan)
    simpy_s = []
    for _ in range(min(repeats, 3)):
        began = perf_counter()
        spans = simulate(plan, lanes, pools)
        simpy_s.append(perf_counter() - began)
    for name, other in (("specification", spec), ("SimPy model", spans)):
        if not all(map(np.array_equal, mine, other)):
            raise AssertionError(f"spans of the compiled engine differ from those of the {name}")
    compiled_s = statistics.median(compiled)
    small_s, empty_s = small_plans(2_000, 500, seed), small_plans(2_000, 1, seed)
    return {"ops_per_s": round(ops / compiled_s), "ops_per_s_min": round(ops / compiled[-1]),
            "ops_per_s_max": round(ops / compiled[0]),
            "spec_ratio": round(spec_s / compiled_s, 1),
            "simpy_ratio": round(statistics.median(simpy_s) / compiled_s, 1), "spans_equal": True,
            "plan_of_1_us": round(empty_s * 1e6, 1), "plan_of_500_us": round(small_s * 1e6, 1),
            "repeats": repeats, "seed": seed, "plan": statistics_of(plan, lanes, *mine)}


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--ops", type=int, default=20_000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--repeats", type=int, default=5)
    print(json.dumps(bench_engine(**vars(options.parse_args())), indent=2))
