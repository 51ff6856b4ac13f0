"""What the ledger accepts never starves: whatever is loaded ahead, given up and overwritten in tight memory, ends."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.scheduler import Scheduler
from emulation.engine.spec import SpecEngine
from emulation.ops import DEMAND, PREFETCH
from emulation.plan import Plan
from emulation.view import Setting, View
from tests.schedulers.rig import Scripted, drive, gpu_and_units, model, resting, routing, step

GPU, EXPERTS = 0, 5
MOVES = st.lists(st.tuples(st.integers(0, EXPERTS - 1), st.integers(0, 2), st.sampled_from([DEMAND, PREFETCH]),
                           st.booleans()), max_size=12)


@given(st.lists(MOVES, min_size=2, max_size=4), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_loads_that_the_ledger_accepts_all_end(plans, copies):
    """Parts of 144, 144 and 96 bytes; room for one to three of the largest."""
    budget = copies * 144

    def answer(moves):
        def plan(view: View) -> Plan:
            plan, parts = Plan(view.layer), view.ledger.part_bytes.tolist()
            held = {(e, p) for e in range(EXPERTS) for p in range(3) if view.ledger.has(GPU, 0, e, p)}
            for part, unit in enumerate((1, 2, 1)):
                plan.run(0, on=unit, part=part)
            for expert, part, priority, over in moves:
                mates = sorted(e for e, p in held if p == part and e != expert)
                if (expert, part) in held:
                    plan.evict(expert, of=GPU, part=part)
                    held.remove((expert, part))
                elif over and mates:
                    plan.load(expert, to=GPU, part=part, over=mates[0], priority=priority)
                    held = held - {(mates[0], part)} | {(expert, part)}
                elif sum(parts[p] for _, p in held) + parts[part] <= budget:
                    plan.load(expert, to=GPU, part=part, priority=priority)
                    held.add((expert, part))
            return plan
        return plan

    given_ = Setting(gpu_and_units(2), model(moe_layers=1, experts=EXPERTS, top_k=1), np.array([budget, 10**9, 10**9]))
    policy = Scripted(resting(1, [[1, 2, 1]] * EXPERTS), [answer(moves) for moves in plans])
    run = Scheduler(given_, policy, SpecEngine)
    drive(run, [(step(n, 1), [routing([[0]])], [None]) for n in range(len(plans))])
    assert run.engine.free(GPU) == budget - run.ledger.used_bytes[GPU]
    assert run.ledger.peak_bytes[GPU] <= budget
