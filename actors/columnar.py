"""The scheduler in columns: for policies whose plans are plain, and routing that is known a step ahead.

It asks the policy layer by layer as the scheduler does, lowers each plan by the compiled lowering, and times a step at
once. Plans that are not plain raise `NotPlain`: the run is then taken up from its beginning by the scheduler, which
gives the same results, or tells what is wrong.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.answers import seal_step, sealed
from actors.counts import NOTHING, Since, SoFar, Tally, phase_of
from actors.scheduler import MakeEngine, Scheduler, StepTimes
from actors.sink import Sink
from emulation.bound import BoundInput
from emulation.engine.play import Program, play
from emulation.ledger import constant
from emulation.lowering.columns import ColumnLowering, NotPlain
from emulation.lowering.compiled_state import (
    AT_HOME,
    DROPPED,
    HITS,
    LOADED_BYTES,
    LOADS,
    MISSES,
    PREFETCHED,
    SUBSTITUTED,
    SUBSTITUTED_EXPERTS,
    USES,
)
from emulation.lowering.dense import Share
from emulation.lowering.emit import Labels
from emulation.plan import ALL_TOKENS, Plan, StepPlan
from emulation.trace import ReadOnce, StepRouting
from emulation.validate import ran_early
from emulation.view import PREFILL, Early, Pairs, Routing, Setting, Step, StepView, Tallied, View
from schedulers.contract import Policy, whole_steps

Ints = NDArray[np.int64]
ASKED = "the policy asks for the time"
SAYS_MORE = "the plan says more than columns can"
TALLIED = (HITS, MISSES, LOADS, LOADED_BYTES, SUBSTITUTED, DROPPED, SUBSTITUTED_EXPERTS)
"""Counts of a phase, in the order of `Tally`."""
Guess = Callable[[Step, int, StepRouting], Routing | None]
Observe = Callable[[Step, int, Routing], None]


class Serving(NamedTuple):
    """What a step serves, as `Lowered` tells what is routed; early [moe_layers, experts]: tokens of what ran before its
    layer, which counts leave out; without any where all is served as it is routed. layers: in order those that are not,
    and which of their pairs ran early."""

    counts: Ints
    distinct: Ints
    early: Ints
    layers: Sequence[tuple[Pairs, NDArray[np.bool_]]]

    @property
    def all(self) -> Ints:
        """Tokens that each expert serves, [moe_layers, experts]."""
        return self.counts + self.early if self.early.size else self.counts


class Lowered(NamedTuple):
    """A step as operations, not timed yet. before: the decision behind which its first batch comes.

    counts [moe_layers, experts]: tokens of each expert; distinct [moe_layers, 2]: tokens that visit any, and the most
    experts that one token visits. serving: what is served.
    """

    step: Step
    not_before_ps: int
    before: int
    counts: Ints
    distinct: Ints
    program: Program
    labels: Labels
    counted: Since
    serving: Serving

    def tell(self, share: dict[int, Share], served: BoundInput, asked: BoundInput) -> None:
        """Tell the bounds what is served, and what was routed where that may be something else."""
        told = self.serving
        if told.early.size:
            served.add_served(share, self.not_before_ps, told.counts, told.distinct, told.early)
            asked.add_beside(served, self.not_before_ps, self.counts, self.distinct)
        else:
            served.add_whole(share, self.not_before_ps, self.counts, self.distinct)


class ColumnScheduler(Scheduler):
    """A scheduler that is fed whole steps: `lower` and `time` each, then `finish`. What it submits goes to its sink."""

    def __init__(self, setting: Setting, policy: Policy, make_engine: MakeEngine) -> None:
        super().__init__(setting, policy, make_engine)
        self._no_early = ran_early(0, [], 1)
        self._asked, self._told = False, NOTHING
        self._stepwise, self._numbers = whole_steps(policy), constant(np.array(self._layers, np.int64))

    def watch(self, sink: Sink) -> None:
        """Hand what is submitted to a sink, from the first operation on."""
        self.sink = sink
        self._submit()
        self.lowering = ColumnLowering(self.setting.machine, self.setting.model, self.ledger, self.copies, self.pool_of,
                                       self.engine.next_serial, self.engine.next_take, exact=self.policy.exact)

    def lower(self, step: Step, share: dict[int, Share], routed: StepRouting, guess: Guess | None, observe: Observe,
              not_before_ps: int = 0) -> Lowered:
        """Decide and lower all layers of a step. No time is asked for: it may run ahead of `time`. guess: None where
        nobody guesses; a policy that answers for whole steps then does."""
        before, lowering = self._decision, self.lowering
        routed = ReadOnce(routed.experts, routed.weights, routed.forecast)
        decision = lowering.begin(step, share, routed.experts)
        counts = constant(lowering.counts)
        constant(lowering.order)
        seal_step(step)
        whole = None if guess is not None else self._whole(step)
        self._decision = decision if whole is None else lowering.step(whole)
        layers = [] if whole is not None else self._each(step, routed, guess, observe)
        self.counts.load[phase_of(step)] += counts
        of = lowering.layer_of_step
        return Lowered(step, not_before_ps, before, counts, lowering.distinct, *lowering.take(), self._since(),
                       Serving(of.counts, of.distinct, of.early, layers))

    def _whole(self, step: Step) -> StepPlan | None:
        """What the policy answers for all layers at once; None where it is to be asked layer by layer."""
        lowering, policy = self.lowering, self._stepwise
        if policy is None:
            return None
        view = StepView(self.setting, step, self._numbers, lowering.order, constant(lowering.active), lowering.counts,
                        self.ledger)
        answer = policy.plan_step(view, self.state)
        if answer is None:
            return None
        plan, self.state = answer
        return plan

    def _each(self, step: Step, routed: StepRouting, guess: Guess | None,
              observe: Observe) -> list[tuple[Pairs, NDArray[np.bool_]]]:
        """Decide and lower layer by layer; what is served otherwise than it is routed, as `Serving.layers`."""
        lowering, early = self.lowering, self._no_early
        order, counts, active = lowering.order, lowering.counts, lowering.active.tolist()
        layers: list[tuple[Pairs, NDArray[np.bool_]]] = []
        for moe in range(len(self._layers)):
            forecast = None if guess is None else guess(step, moe + 1, routed)
            if forecast is not None:
                sealed(forecast)
            routing = Tallied.of(partial(_layer_of, routed, moe), order[moe, :active[moe]], counts[moe])
            plan, columns = self._plan(step, moe, routing, forecast, early)
            if plan.served is not None:
                layers.append(lowering.serve(moe, plan.served))
            early = self._no_early
            if plan.token_sets:
                early, ends = _early(plan)
                self._decision = lowering.layer(moe, columns, plan.exchange, early.token, ends)
            else:
                self._decision = lowering.layer(moe, columns, plan.exchange)
            observe(step, moe, routing)
        return layers

    def _plan(self, step: Step, moe: int, routing: Routing, forecast: Routing | None,
              early: Early) -> tuple[Plan, Ints]:
        """What the policy answers for a layer, and its rows; early: what ran for this layer before it."""
        layer = self._layers[moe]
        view = View(self.setting, step, layer, moe, routing, forecast, self.ledger, early, self._no_time,
                    self._no_backlog, pool_free=self._no_backlog)
        answer = self.policy.plan(view, self.state)
        if self._asked:
            raise NotPlain(ASKED)
        plan, self.state = as_pair(answer)
        columns = plan.columns()
        if columns is None or plan.layer != layer:
            raise NotPlain(SAYS_MORE)
        return plan, columns

    def time(self, lowered: Lowered) -> None:
        """Time a step that was lowered; steps come in order."""
        step, program = lowered.step, lowered.program
        if lowered.not_before_ps > self.engine.now_ps:
            self.engine.advance(lowered.not_before_ps)
        begin_ps, decision = self.engine.now_ps, int(program.decisions[-1])
        at_ps = play(self.engine, program)
        prefill = int((step.phase == PREFILL).sum())
        self.steps.append(StepTimes(step.number, begin_ps, self.engine.now_ps, prefill, len(step) - prefill, decision,
                                    lowered.counted))
        assert self.sink is not None
        self.sink.batches(program, lowered.labels, at_ps, np.concatenate([[lowered.before], program.decisions[:-1]]))
        self.sink.step(begin_ps, decision)
        self.sink.flush()

    def _since(self) -> Since:
        """What the last step counted."""
        rows = self.lowering.state.phase
        now = Since(int(rows[0, HITS] + rows[1, HITS]), int(rows[0, MISSES] + rows[1, MISSES]),
                    int(rows[0, PREFETCHED]))
        more, self._told = Since(*(new - old for new, old in zip(now, self._told, strict=True))), now
        return more

    def _no_time(self) -> int:
        self._asked = True  # a policy may take the exception for its own
        raise NotPlain(ASKED)

    def _no_backlog(self, lane: int) -> int:
        return self._no_time()

    def finish(self) -> None:
        """Run what is still in flight to its end."""
        self.engine.run()
        assert self.sink is not None
        self.sink.flush()

    def so_far(self) -> SoFar:
        """What is counted so far; deciding may be some steps ahead of timing."""
        state, counts = self.lowering.state, self.counts
        phases = {name: Tally(row, *(int(state.phase[i, key]) for key in TALLIED))
                  for i, (name, row) in enumerate(zip(counts.phases, state.runs, strict=True))}
        return SoFar(phases, counts.load, self.emit.moved_bytes + state.moved, int(state.phase[0, PREFETCHED]),
                     int(state.phase[0, USES]))

    def count(self, end_ps: Ints) -> None:
        """Note in `counts` and `emit` what was counted; end_ps: when each operation ended."""
        state, counts = self.lowering.state, self.counts
        for phase, name in enumerate(("prefill", "decode")):
            tally, row = counts.phases[name], state.phase[phase]
            tally.runs[:] = state.runs[phase]
            (tally.hits, tally.misses, tally.loads, tally.loaded_bytes, tally.substituted, tally.dropped,
             tally.substituted_experts) = (int(row[key]) for key in TALLIED)
        counts.at_home |= bool(state.phase[0, AT_HOME])
        counts.prefetch_issued = int(state.phase[0, PREFETCHED])
        used = int(state.phase[0, USES])
        counts.first_uses = list(zip(state.used_op[:used].tolist(), end_ps[state.used_at[:used]].tolist(), strict=True))
        self.emit.moved_bytes += state.moved
        self.emit.worked += state.worked


def as_pair(answer: Any) -> tuple[Plan, Any]:
    """What a policy returned, if it is a plan and a state."""
    if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[0], Plan):
        raise NotPlain("the policy returned no plan")
    return answer


def _early(plan: Plan) -> tuple[Early, Ints]:
    """What a plan's early runs compute, one run after another, and where each of them ends."""
    ran = [row.expert for row in plan.rows if row.tokens != ALL_TOKENS]
    token, ends = np.concatenate(plan.token_sets), list(accumulate(map(len, plan.token_sets)))
    fed = np.empty(len(token), np.int64)
    fed.fill(plan.layer)
    expert = np.array([expert for expert, tokens in zip(ran, plan.token_sets, strict=True) for _ in range(len(tokens))])
    return Early(token, expert, fed), np.array(ends)


def _layer_of(routed: StepRouting, moe: int) -> Routing:
    """The routing of a layer, as a policy may see it."""
    return sealed(routed.layer(moe))
