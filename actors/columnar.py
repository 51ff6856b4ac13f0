"""The scheduler in columns: for policies whose plans are plain, and routing that is known a step ahead.

It asks the policy layer by layer as the scheduler does, lowers each plan by the compiled lowering, and lets the engine
run behind: only who asks for the time waits for it. Plans that are not plain raise `NotPlain`, and the run is taken up
from its beginning by the scheduler, which gives the same results.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.scheduler import Batch, MakeEngine, Scheduler, StepTimes
from emulation.engine.play import play
from emulation.ledger import constant
from emulation.lowering.columns import ColumnLowering, NotPlain
from emulation.lowering.compiled_state import AT_HOME, HITS, LOADED_BYTES, LOADS, MISSES, PREFETCHED, USES
from emulation.lowering.dense import shares
from emulation.lowering.emit import NO, Labels
from emulation.plan import Plan
from emulation.trace import StepRouting
from emulation.validate import ran_early
from emulation.view import PREFILL, Routing, Setting, Step, Tallied, View
from schedulers.contract import Policy

Guess = Callable[[Step, int, StepRouting], Routing | None]
Observe = Callable[[Step, int, Routing], None]


class ColumnScheduler(Scheduler):
    """A scheduler that is fed whole steps: `step`, then `finish`."""

    def __init__(self, setting: Setting, policy: Policy, make_engine: MakeEngine) -> None:
        super().__init__(setting, policy, make_engine)
        if not policy.exact or hasattr(policy, "wake"):
            raise NotPlain("the policy may do more than plans in columns can say")
        self._submit()
        self._decision_before = NO
        self.lowering = ColumnLowering(setting.machine, setting.model, self.ledger, self.copies, self.pool_of,
                                       self.engine.next_serial, self.engine.next_take)
        self._no_early = ran_early(0, [], 1)
        self._untimed: list[tuple[Step, int, int]] = []

    def step(self, step: Step, routed: StepRouting, guess: Guess, observe: Observe) -> None:
        """Decide and lower all layers of a step."""
        lowering, setting, layers = self.lowering, self.setting, self._layers
        begin = self._decision
        decision = lowering.begin(step, shares(step), routed.experts)
        order, counts, active = lowering.order, lowering.counts, lowering.active.tolist()
        constant(order)
        policy, state, ledger = self.policy, self.state, self.ledger
        for moe, layer in enumerate(layers):
            forecast = guess(step, moe + 1, routed)
            routing = Tallied(lambda moe=moe: routed.layer(moe),  # type: ignore[misc]
                              order[moe, :active[moe]], counts[moe])
            view = View(setting, step, layer, moe, routing, forecast, ledger, self._no_early, self._now, self._backlog)
            answer = policy.plan(view, state)
            if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[0], Plan):
                raise NotPlain("the policy returned no plan")
            plan, state = answer
            columns = plan.columns()
            if columns is None or plan.layer != layer:
                raise NotPlain("the plan says more than columns can")
            self._decision = decision
            decision = lowering.layer(moe, columns, plan.exchange)
            observe(step, moe, routing)
        self.state = state
        self._decision = decision
        self._untimed.append((step, begin, decision))
        self._play()

    def _play(self) -> None:
        """Let the engine run through what was lowered."""
        program, labels = self.lowering.take()
        after = self._decision_before
        at_ps = play(self.engine, program)
        bounds = program.ops.tolist()
        for i, (low, high) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
            self.labels.append(Labels(*(column[low:high] for column in labels)))
            self.batches.append(Batch(program.batch(i), at_ps[i], after))
            after = int(program.decisions[i])
        self._decision_before = after

    def _now(self) -> int:
        raise NotPlain("the policy asks for the time")

    def _backlog(self, lane: int) -> int:
        raise NotPlain("the policy asks for the time")

    def finish(self) -> None:
        self.engine.run()
        end_ps = self.engine.spans().end_ps
        for step, begin, end in self._untimed:
            prefill = int((step.phase == PREFILL).sum())
            self.steps.append(StepTimes(step.number, 0 if begin == NO else int(end_ps[begin]), int(end_ps[end]), prefill,
                                        len(step) - prefill, end))
        self._count(end_ps)

    def _count(self, end_ps: NDArray[np.int64]) -> None:
        """Counts as the scheduler keeps them."""
        state, counts = self.lowering.state, self.counts
        for phase, name in enumerate(("prefill", "decode")):
            tally, row = counts.phases[name], state.phase[phase]
            tally.runs[:] = state.runs[phase]
            tally.hits, tally.misses = int(row[HITS]), int(row[MISSES])
            tally.loads, tally.loaded_bytes = int(row[LOADS]), int(row[LOADED_BYTES])
        counts.load[:] = state.load
        counts.at_home |= bool(state.phase[0, AT_HOME])
        counts.prefetch_issued = int(state.phase[0, PREFETCHED])
        used = int(state.phase[0, USES])
        counts.first_uses = list(zip(state.used_op[:used].tolist(), end_ps[state.used_at[:used]].tolist(), strict=True))
        self.emit.moved_bytes += state.moved
