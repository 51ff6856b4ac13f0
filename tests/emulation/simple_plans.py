"""Plans that are simple in the compiled engine's sense, drawn from a source of randomness."""

from random import Random
from typing import Any

import numpy as np

from emulation.engine.spec import SpecEngine
from emulation.ops import Edge, Lane, OpBuilder, Ops, Pool
from tests.emulation.random_plans import flat

Machine = tuple[list[Lane], list[Pool]]


def machine(random: Random, lanes: int = 0) -> Machine:
    return ([Lane(f"lane{i}", random.choice([1, 1, 1, 2, 3])) for i in range(lanes or random.randint(1, 9))],
            [Pool(f"pool{i}", random.randint(1, 6)) for i in range(random.randint(0, 3))])


def simple_plan(random: Random, lanes: list[Lane], pools: list[Pool], ops: int) -> Ops:
    """Many ties (few lengths, none at all among them), many that wake at once, pools that are short."""
    build = OpBuilder()
    lengths = random.choice([[5], [0, 5], [0, 1, 2, 3], [7, 7, 14, 21], list(range(1, 4000))])
    priorities = random.sample(range(-20, 20), random.choice([1, 3, 3, 9]))
    reach, width = random.choice([2, 20, 400]), random.choice([1, 2, 4])
    takes, fan_in = random.choice([0.0, 0.2, 1.0]), random.choice([[0], [0, 1], [1, 2, 2, 3], [0] * 9 + [4]])
    first_lanes = [random.sample(range(len(lanes)), min(len(lanes), random.randint(1, width)))
                   for _ in range(2 * len(lanes))]
    for i in range(ops):
        length = random.choice(lengths)
        wanted = []
        if pools and random.random() < takes:
            for pool in random.choices(range(len(pools)), k=random.choice([1, 1, 2])):
                left = pools[pool].capacity - sum(amount for other, _, amount in wanted if other == pool)
                needs = random.randint(0, left)
                wanted.append((pool, needs, random.randint(0, needs)))
        after = [Edge(random.randint(max(0, i - reach), i - 1)) for _ in range(random.choice(fan_in)) if i]
        build.op(dict.fromkeys(random.choice(first_lanes), length), length_ps=length, after=after,
                 priority=random.choice(priorities), takes=wanted)
        for index in range(len(wanted)):
            build.release(build.take_handle(i, index), after=[i])
    return build.build()


def aside(kind: Any, ops: Ops, at: Machine) -> Any:
    """Of one kind of `SimplePlan`, however few the operations are."""
    servers = [0 if lane.in_order else lane.servers for lane in at[0]]
    return kind.of(ops, np.array(servers), np.array([pool.capacity for pool in at[1]], np.int64), at_least=1)


def compare(kind: Any, seed: int, most: int) -> tuple[int, bool]:
    """One plan on both; its operations, and whether it ran to its end aside."""
    random = Random(seed)
    at = machine(random)
    ops = simple_plan(random, *at, random.randint(1, most))
    plan = aside(kind, ops, at)
    assert plan is not None
    if not plan.run(0):
        return len(ops), False
    spec = SpecEngine(*at)
    spec.submit(ops)
    spec.run()
    assert flat(plan.spans()) == flat(spec.spans())
    assert flat(plan.occupancy()) == flat(spec.occupancy())
    assert plan.end_ps == spec.now_ps
    return len(ops), True
