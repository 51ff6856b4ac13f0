"""The central scheduler: asks the policy, checks its plan, lowers it and runs the engine to the next decision."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from actors.answers import as_pair, seal_step, sealed
from actors.counts import NOTHING, Counts, Since
from actors.faults import Faults
from emulation.engine.contract import Describe, Engine
from emulation.engine.play import Program
from emulation.errors import PlanError
from emulation.ledger import Ledger, constant
from emulation.lowering.copies import Copies, memory_pools
from emulation.lowering.crossing import CrossingEmitter
from emulation.lowering.dense import Dense, Hidden, shares
from emulation.lowering.emit import NO, Labels, describe
from emulation.lowering.experts import Experts, Load
from emulation.lowering.gating import Gate
from emulation.lowering.rings_columns import RingColumns
from emulation.ops import Edge, Lane, Ops, Pool
from emulation.plan import Plan, Row
from emulation.streams import bound_tokens
from emulation.validate import Assignment, Decision, as_plan, check_fragment, ran_early, validate
from emulation.view import FROM_START, PREFILL, Routing, Setting, Step, View
from schedulers.contract import Policy

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Sink(Protocol):
    """Takes what a scheduler submits, so that the scheduler need not keep it."""

    def batch(self, ops: Ops, labels: Labels, at_ps: int, after: int) -> None:
        """Operations that were submitted at an instant, behind a decision (NO: none)."""

    def batches(self, program: Program, labels: Labels, at_ps: Ints, after: Ints) -> None:
        """Several batches at once: when each was submitted, and behind which decision, [batches]."""

    def step(self, begin_ps: int, end_op: int) -> None:
        """A step is over: what has ended may be asked of the engine."""

    def flush(self) -> None:
        """Nothing more comes for now."""


MakeEngine = Callable[[Sequence[Lane], Sequence[Pool], Describe], Engine]


@dataclass(frozen=True)
class StepTimes:
    """When a step began and ended, how many of its tokens were prefill and decode, the op whose end ended it, and what
    it counted."""

    number: int
    begin_ps: int
    end_ps: int
    prefill_tokens: int
    decode_tokens: int
    end_op: int = NO
    counted: Since = NOTHING


class Batch(NamedTuple):
    """Operations of one submit: when it happened, and the decision op that it followed (NO for the first)."""

    ops: Ops
    at_ps: int
    after: int


class Scheduler:
    """Times one run, step by step and layer by layer.

    For each step: `begin`, then `decide` for each MoE layer that it passes in order (the engine stands at the decision
    op when it is called), then `end`. loads: where it is a list, every load that is issued is noted there.
    """

    def __init__(self, setting: Setting, policy: Policy, make_engine: MakeEngine) -> None:
        self.setting, self.now, self.policy = setting, setting, policy
        machine, model = setting.machine, setting.model
        constant(setting.budget_bytes)
        for told in (setting.popularity, *(setting.history or ()), *(setting.future or ())):
            if told is not None:
                constant(told)
        start, self.state = as_pair(policy.start(setting), "start", "a Start")
        ledger = Ledger(machine, model, start, setting.budget_bytes)
        pools, self.pool_of = memory_pools(ledger, len(machine.pools))
        self.sink: Sink | None = None
        self.loads: list[Load] | None = None
        self.labels: list[Labels] = []
        self._first_label = 0
        self.batches: list[Batch] = []
        self._decision = NO
        self.engine = make_engine(machine.lanes, (*machine.pools, *pools), self._describe)
        self.emit = CrossingEmitter(machine, model)
        self._dense, self._gate = Dense(self.emit, model), Gate(self.emit, model)
        self._lay_out(ledger)
        self.counts = Counts(setting, ledger)
        self.faults = Faults(self)
        self.steps: list[StepTimes] = []
        self._early: dict[int, list[tuple[int, Assignment]]] = {}
        self._layers = model.moe_layers
        self.copies.place_first()
        self._hidden: Hidden = {}

    def _lay_out(self, ledger: Ledger) -> None:
        """Experts lie where this ledger says."""
        self.ledger, model = ledger, self.setting.model
        self.copies = Copies(self.emit, ledger, self.pool_of)
        self._experts = Experts(self.emit, model, ledger, self.copies, self._gate)
        self._rings = RingColumns(self.emit, model, ledger)

    def adapt(self, setting: Setting) -> None:
        """The machine is faster or slower from the next operation on; a policy that keeps estimates makes them anew."""
        self.now, self.emit.machine = setting, setting.machine
        self._rings = RingColumns(self.emit, setting.model, self.ledger)
        again: Callable[[Setting, Any], Any] | None = getattr(self.policy, "adapt", None)
        if again is not None:
            self.state = again(setting, self.state)

    def go_on(self, setting: Setting, ledger: Ledger, state: Any) -> None:
        """Between two steps: the policy has started again, on a machine that lost something."""
        self.now, self.state = setting, state
        self._lay_out(ledger)
        self.counts.go_on(ledger, self.engine.now_ps)

    def stand_at(self, op: int) -> None:
        """Submit what was lowered, and run to the end of an operation: what follows is decided there."""
        self._submit()
        self.engine.run([op])
        self._decision = op

    def _describe(self, op: int) -> str:
        if op < self._first_label:
            return f"op {op} of an earlier step"
        return describe(self.setting.machine, self.labels, op - self._first_label)

    @property
    def gated_bytes(self) -> Ints:
        """The most activations that gatings held on each device, [devices]."""
        return self._gate.peak_bytes

    def begin(self, step: Step, not_before_ps: int = 0) -> None:
        """Start a step: everything up to the first router. It begins when the last ended, or at an arrival."""
        if not_before_ps > self.engine.now_ps:
            if self.emit.ops.next_serial > self.engine.next_serial:
                self._submit()  # copies of the start are there at time zero
            self.engine.advance(not_before_ps)
        self.emit.step = step.number
        seal_step(step)
        self._present = None if step.joins is None else step.joins == FROM_START
        model = self.setting.model
        self._step, self._share = step, shares(step, self._present)
        self._moe, self._stack = model.moe_stack(step.encoder).start, model.stack(step.encoder)
        self._begin_ps = self.engine.now_ps
        if self.faults.happened:
            self.faults.at_step()
        self._parked: list[Edge] = []
        self._hidden = {home: [] for home in self._share}
        self._to_router(self._stack.start)

    def decide(self, routing: Routing, forecast: Routing | None = None, parked: Mask | None = None) -> Decision:
        """Ask the policy about the next MoE layer, lower its plan, and run on to the decision behind it.

        parked [tokens]: those that go no further in this step. Their routing, like that of tokens that join here or
        later, names only the pairs that are due here.
        """
        layer = self._layers[self._moe]
        parts = self.ledger.start.parts
        for seen in (routing, forecast):
            if seen is not None:
                sealed(seen)
        early = ran_early(layer, self._early.pop(layer, []), parts)
        if self.faults.happened:
            self.faults.at_layer()
        view = View(self.now, self._step, layer, self._moe, routing, forecast, self.ledger, early,
                    lambda: self.engine.now_ps, self.engine.backlog_ps, pool_free=self.engine.free,
                    faults=self.faults.acting)
        self.counts.found(view)
        answer, self.state = as_pair(self.policy.plan(view, self.state), "plan", "a Plan")
        plan = as_plan(layer, answer)
        decision = validate(view, plan, parts, self.policy.exact, whole=not plan.wakes)
        for run in decision.assignments:
            if run.layer != layer:
                self._early.setdefault(run.layer, []).append((layer, run))
        part, hidden = self.setting.model.layers[layer], self._hidden
        if self._step.joins is not None:
            for home in np.unique(self._step.home[self._step.joins == self._moe]).tolist():
                hidden.setdefault(home, [Edge(self._decision)])
        shared = self._dense.ffn("shared", part.shared, self._share, hidden) if part.shared.token_flops else {}
        sums: Hidden = {home: [] for home in hidden}
        woken = self._issue(view, plan, decision, sums)
        if woken:
            decision = self._wake(view, plan, woken, sums)
        self._experts.collect_early(layer, sums)
        self.counts.served(view, decision)
        both = {home: [*shared.get(home, ()), *(sums[home] or hidden[home])] for home in hidden}
        self._leave(parked, both)
        self._hidden = self._dense.after(self._share, both)
        self._moe += 1
        self._to_router(layer + 1)
        return decision

    def _leave(self, parked: Mask | None, both: Hidden) -> None:
        """Who joined here goes on, who is parked does not: it waits for its sums, and so does the end of the step."""
        step = self._step
        if step.joins is None and parked is None:
            return
        present = np.ones(len(step), np.bool_) if self._present is None else self._present
        if step.joins is not None:
            present = present | (step.joins == self._moe)
        if parked is not None:
            present = present & ~parked
            for home in np.unique(step.home[parked]).tolist():
                self._parked += both[home]
        self._present, self._share = present, shares(step, present)

    def _issue(self, view: View, plan: Plan, decision: Decision, sums: Hidden) -> dict[int, Row]:
        """Lower a plan or fragment and count it; operation -> the row at whose end the policy is to be woken."""
        self.counts.ran(view, decision.assignments)
        issued = self._experts.issue(plan, decision.assignments, self._step, self._hidden)
        self._experts.collect(issued.visits, plan.exchange, sums, issued.gated)
        loads = self._experts.take_loads()
        self.counts.after(view, loads)
        if self.loads is not None:
            self.loads += loads
        return issued.woken if plan.streams is None else issued.woken | self._stream(view, plan, decision, sums)

    def _stream(self, view: View, plan: Plan, decision: Decision, sums: Hidden) -> dict[int, Row]:
        """Lower a plan's streams and count them; what they compute stays where its tokens lie."""
        streams, machine, experts = plan.streams, self.setting.machine, self.setting.model.experts
        assert streams is not None
        now = decision.now
        bound = bound_tokens(now.expert, self._step.home[now.token], experts, len(machine.devices))
        lowered = self._rings.issue(view.moe, streams, plan.handing, bound)
        for home, edge in lowered.ends.items():
            sums.setdefault(home, []).append(edge)
        self.counts.streamed(view, streams, lowered.runs)
        if self.loads is not None:
            self.loads += [Load(device, view.moe, expert, part, op, False) for device, expert, part, op in zip(
                streams.entries.tolist(), streams.expert.tolist(), streams.part.tolist(), lowered.loads.tolist(),
                strict=True)]
        return lowered.woken(plan)

    def _wake(self, view: View, plan: Plan, woken: dict[int, Row], sums: Hidden) -> Decision:
        """Wake the policy whenever what its plan marked has ended, until no mark is left; the plan is then whole."""
        wake: Callable[[View, Any], tuple[Plan, Any]] | None = getattr(self.policy, "wake", None)
        if wake is None:
            raise PlanError(f"the plan for layer {view.layer} marks rows with wake, and the policy has no method wake")
        parts = self.ledger.start.parts
        while woken:
            self._submit()
            ended = self.engine.run(list(woken))
            self._decision = ended[0]
            now = replace(view, ended=tuple(woken.pop(op) for op in ended))
            answer, self.state = as_pair(wake(now, self.state), "wake", "a Plan")
            fragment = as_plan(view.layer, answer)
            check_fragment(view, fragment)
            decision = validate(view, replace(fragment, served=plan.served), parts, self.policy.exact, whole=False)
            woken |= self._issue(now, fragment, decision, sums)
            plan.add(fragment)
        return validate(view, plan, parts, self.policy.exact)

    def _to_router(self, layer: int) -> None:
        """Lower the layers from here to the next router (or the stack's end) and run the engine to that decision."""
        model = self.setting.model
        while layer < self._stack.stop:
            self.emit.layer = layer
            part = model.layers[layer]
            self._hidden = self._dense.attention(layer, self._share, self._hidden)
            if part.is_moe:
                self._run_to(self._dense.router(layer, self._share, self._hidden))
                return
            dense = self._dense.ffn("dense", part.dense, self._share, self._hidden)
            self._hidden = self._dense.after(self._share, dense)
            layer += 1
        self.emit.layer = NO
        end = (self._dense.encoded if self._step.encoder else self._dense.head)(self._share, self._hidden)
        self._run_to(self.emit.join([Edge(end), *self._parked]) if self._parked else end)

    def _run_to(self, decision: int) -> None:
        self.stand_at(decision)
        self._hidden = {home: [Edge(decision)] for home in self._hidden}

    def end(self) -> StepTimes:
        """Close the step: the engine stands at its end."""
        joins, phase = self._step.joins, self._step.phase
        phase = phase if joins is None else phase[joins == FROM_START]  # a token counts in the step that begins it
        prefill = int((phase == PREFILL).sum())
        times = StepTimes(self._step.number, self._begin_ps, self.engine.now_ps, prefill, len(phase) - prefill,
                          self._decision, self.counts.since())
        self.steps.append(times)
        if self.sink is not None:
            self.sink.step(times.begin_ps, times.end_op)
            self.sink.flush()
            self.labels, self._first_label = [], self.engine.next_serial
        return times

    def finish(self) -> None:
        """Run what is still in flight to its end."""
        if self.emit.ops.next_serial > self.engine.next_serial:
            self._submit()
        self.engine.run()
        if self.sink is not None:
            self.sink.flush()

    def _submit(self) -> None:
        ops, labels = self.emit.finish()
        self.labels.append(labels)
        if self.sink is None:
            self.batches.append(Batch(ops, self.engine.now_ps, self._decision))
        else:
            self.sink.batch(ops, labels, self.engine.now_ps, self._decision)
        self.engine.submit(ops)
