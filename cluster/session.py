"""One run from its first step to its last: feeds the scheduler, and in `execute` the devices and the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from actors.messages import DeviceSpec, Move, Placed, Run, Work
from actors.scheduler import Scheduler
from cluster.behind import Ahead, Behind
from cluster.feed import Feed, Listed
from cluster.observe.journal import Journal
from cluster.transports.contract import Transport
from emulation.bound import BoundInput
from emulation.bound_program import load_solver
from emulation.ledger import Ledger
from emulation.lowering.dense import shares
from emulation.plan import ALL_PARTS, LOAD, NOBODY, RUN
from emulation.trace import NO_EXPERT, StepRouting, Trace
from emulation.validate import Assignment, Decision
from emulation.view import Routing, Step
from workloads.forecasts import Forecaster

if TYPE_CHECKING:
    from actors.columnar import ColumnScheduler  # which needs numba
    from cluster.wall.conductor import Conductor
    from cluster.wall.stream import Made

Ints = NDArray[np.int64]

TASKS_BEHIND = 12  # how far timing, or noting, may be behind deciding


class Progress(Protocol):
    """Hears how far a run is."""

    def update(self, done: int, total: int, text: str) -> None: ...


class Silent:
    """Nobody listens."""

    def update(self, done: int, total: int, text: str) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class Named:
    """Progress of one policy among several."""

    name: str
    progress: Progress

    def update(self, done: int, total: int, text: str) -> None:
        self.progress.update(done, total, f"{self.name}: {text}")


@dataclass
class Record:
    """The routing that a run met, step by step, and the tokens that it produced."""

    steps: list[Step] = field(default_factory=list)
    routed: list[StepRouting] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=list)
    answers: list[list[int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def trace(self, model: str, num_experts: int, layer_ids: Sequence[int]) -> Trace:
        """The record as a trace."""
        forecasts = [r.forecast if r.forecast is not None else np.full_like(r.experts, NO_EXPERT) for r in self.routed]
        column = {name: np.concatenate([getattr(s, name) for s in self.steps]).astype(np.int32)
                  for name in ("sequence", "position", "phase")}
        return Trace(model, num_experts, np.array(layer_ids, np.uint16),
                     np.concatenate([r.experts for r in self.routed]), np.concatenate([r.weights for r in self.routed]),
                     np.concatenate([np.full(len(s), s.number) for s in self.steps]).astype(np.int32),
                     column["sequence"], column["position"], column["phase"].astype(np.uint8),
                     np.concatenate(forecasts))


def device_specs(ledger: Ledger, folder: str | None) -> list[DeviceSpec]:
    """What each computing device is told at the start: which shards it holds."""
    return [DeviceSpec(number, device.name, ledger.start.parts, held_at_start(ledger, number), folder)
            for number, device in enumerate(ledger.machine.devices) if device.computes]


def held_at_start(ledger: Ledger, device: int) -> Ints:
    """The (moe, expert, part) rows [n, 3] that a device starts with."""
    held = ledger.start.rest == device
    if device in ledger.start.copies:
        held = held | ledger.start.copies[device][:, :, None]
    return np.argwhere(held)


def place_anew(scheduler: Scheduler, transport: Transport | None) -> None:
    """Tell every device what it holds from now on: experts were placed anew."""
    ledger, scheduler.faults.relaid = scheduler.ledger, False
    if transport is not None:
        devices = [i for i, device in enumerate(scheduler.setting.machine.devices) if device.computes]
        transport.exchange({i: Work(None, [Placed(ledger.start.parts, held_at_start(ledger, i))]) for i in devices})


def messages(decision: Decision, moe_of: dict[int, int], parts: int,
             hidden: NDArray[np.float32] | None) -> tuple[dict[int, Work], dict[int, list[int]]]:
    """A decision as one message for each device with work, and which assignments each message carries."""
    work: dict[int, Work] = {}
    carried: dict[int, list[int]] = {}
    streamed = decision.streamed()
    needed = _needed([*decision.assignments, *streamed])
    runs = iter(enumerate(decision.assignments))
    for row in decision.plan.rows:
        listed = next(runs) if row.verb == RUN else None
        if listed is not None and not len(listed[1].tokens):
            continue  # a capacity that nobody fills: there is nothing to compute
        if row.device not in work:
            tokens = needed.get(row.device)
            work[row.device] = Work(None if hidden is None or tokens is None else hidden[tokens])
        items, moe = work[row.device].items, moe_of[row.layer]
        if listed is not None:
            i, of = listed
            carried.setdefault(row.device, []).append(i)
            items.append(Run(moe, of.expert, of.part, np.searchsorted(needed[row.device], of.tokens),
                             of.weights.astype(np.float32)))
            continue
        for part in range(parts) if row.part == ALL_PARTS else (row.part,):
            if row.victim != NOBODY:
                items.append(Move(moe, row.victim, part, comes=False))
            items.append(Move(moe, row.expert, part, comes=row.verb == LOAD))
    for i, run in enumerate(streamed, len(decision.assignments)):
        if run.device not in work:
            work[run.device] = Work(None if hidden is None else hidden[needed[run.device]])
        carried.setdefault(run.device, []).append(i)
        moe = moe_of[run.layer]
        rows = np.searchsorted(needed[run.device], run.tokens)
        work[run.device].items.extend([
            Move(moe, run.expert, run.part, comes=True),
            Run(moe, run.expert, run.part, rows, run.weights.astype(np.float32)),
            Move(moe, run.expert, run.part, comes=False)])
    return work, carried


def _needed(runs: Sequence[Assignment]) -> dict[int, Ints]:
    """The token rows that each device needs, ascending."""
    tokens: dict[int, list[Ints]] = {}
    for run in runs:
        tokens.setdefault(run.device, []).append(run.tokens)
    return {device: np.flatnonzero(np.bincount(np.concatenate(lists))) for device, lists in tokens.items()}


class Session:
    """Drives a scheduler through a workload whose routing is known: recorded or generated."""

    def __init__(self, scheduler: Scheduler, forecaster: Forecaster, journal: Journal,
                 progress: Progress | None = None, room_bytes: Ints | None = None) -> None:
        """room_bytes [devices]: room for experts that the bound supposes; by default the scheduler's."""
        self.scheduler, self.forecaster, self.journal = scheduler, forecaster, journal
        self.transport: Transport | None = None
        self.conductor: Conductor | None = None
        self.look: Callable[[], None] | None = None
        self.progress = progress or Silent()
        setting = scheduler.setting
        room = setting.budget_bytes if room_bytes is None else room_bytes
        self.served_work = BoundInput(setting.machine, setting.model, room)
        self.true_work = BoundInput(setting.machine, setting.model, room)
        self.record = Record()
        model = scheduler.setting.model
        self.moe_of = {layer: moe for moe, layer in enumerate(model.moe_layers)}
        self.bounded = model.is_one_stack

    def begin(self, step: Step, not_before_ps: int = 0) -> None:
        """Start a step, not before its requests are there, and note it."""
        self.scheduler.begin(step, not_before_ps)
        self.journal.begin(step)
        if self.scheduler.faults.relaid:
            place_anew(self.scheduler, self.transport)
        if self.bounded:
            self.served_work.add_step(step, not_before_ps)
            if not self.scheduler.policy.exact:
                self.true_work.add_step(step, not_before_ps)

    def open(self) -> None:
        """The devices are there: at the wall clock their players meet."""
        if self.conductor is not None:
            self.conductor.open()

    def end(self, total: int, made: "Sequence[Made]" = ()) -> None:
        """End the step; at the wall clock, hand it out to be played. total: steps of the run, where known (0: not).
        made: its new tokens."""
        self.scheduler.end()
        if self.conductor is not None:
            self.conductor.step(made, total)
        if self.look is not None:
            self.look()

    def clock(self) -> int:
        """The engine's time: when the next step would start."""
        return self.scheduler.engine.now_ps

    def decide(self, step: Step, moe: int, routing: Routing, forecast: Routing | None,
               parked: NDArray[np.bool_] | None = None) -> Decision:
        """Decide a layer, note it, and learn from its true routing. parked: tokens that go no further in this step."""
        decision = self.scheduler.decide(routing, forecast, parked)
        self.journal.decide(routing, forecast, decision)
        self.forecaster.observe(step, moe, routing)
        if self.bounded:
            self._count(moe, routing, decision)
        return decision

    def _count(self, moe: int, routing: Routing, decision: Decision) -> None:
        """Tell the bounds what was served, and what was routed."""
        if decision.plan.gating is not None:
            self.served_work.gate()
            self.true_work.gate()
        self.served_work.add_layer(moe, decision.served, decision.early)
        if not self.scheduler.policy.exact:
            self.true_work.add_layer(moe, routing.pairs)

    def bound(self) -> dict[str, object] | None:
        """The lower bound of the work done; and, where a policy serves another routing, of the true one. None of models
        with an encoder, or without experts: it supposes that every step passes all layers, and routers among them.

        Where experts rest is taken as free: a bound for every placement that fits, not only for the policy's.
        """
        if not self.bounded:
            return None
        done = self.served_work.bound()
        told: dict[str, object] = {"lb_ps": done.lb_ps, "binds": done.binding, "path_ps": done.path_ps,
                                   "relaxation_ps": done.relaxation_ps}
        return told if self.scheduler.policy.exact else {**told, "true_routing_ps": self.true_work.bound().lb_ps}

    def replay(self, feed: Feed) -> None:
        """Time every step of a feed; devices get one message a step."""
        while (fed := feed.next(self.clock)) is not None:
            step, routed = fed.step, fed.routed
            self.begin(step, fed.not_before_ps)
            guesses = np.full_like(routed.experts, NO_EXPERT)
            batch: dict[int, Work] = {}
            passed = self.scheduler.setting.model.moe_stack(step.encoder)
            for moe in passed:
                routing, parked = routed.layer(moe), None
                if feed.parking is not None:
                    routing, parked = feed.parking.at_layer(moe, routing)
                forecast = self.forecaster.guess(step, moe + 1, routed) if moe + 1 in passed else None
                if forecast is not None and feed.parking is not None:
                    forecast = feed.parking.ahead(moe + 1, forecast)
                if forecast is not None:
                    guesses[:, moe + 1] = narrow(forecast.experts, routed.experts.shape[2])
                decision = self.decide(step, moe, routing, forecast, parked)
                if self.transport is not None:
                    work, _ = messages(decision, self.moe_of, self.scheduler.ledger.start.parts, None)
                    merge(batch, work)
            if self.transport is not None:
                self.transport.exchange(batch)
            self.end(feed.total if isinstance(feed, Listed) else 0)
            if feed.parking is not None:
                self.journal.activities[-1].step = replace(step, ends=feed.parking.ends())
            if feed.kept:
                self.record.steps.append(step)
                self.record.routed.append(StepRouting(routed.experts, routed.weights, guesses))
            self.progress.update(feed.done, feed.total, f"step {step.number}")
        self.scheduler.finish()

    def replay_columns(self, feed: Feed, scheduler: "ColumnScheduler", *, one_thread: bool = False) -> None:
        """The same by a scheduler that is fed whole steps, with no device to tell. The next step is made while one is
        decided; behind that, steps are timed and, beside it, noted, up to where the feed asks for the time."""

        def clock() -> int:
            ahead.until_handed_on()
            behind.wait()
            return self.clock()

        with Behind(0 if one_thread else TASKS_BEHIND) as behind, \
                Behind(0 if one_thread else TASKS_BEHIND) as beside, \
                Ahead(lambda: feed.next(clock), one_thread=one_thread) as ahead:
            noting = beside if self.look is None else behind  # who looks must find what was noted
            noting.do(load_solver)
            while (fed := ahead.take()) is not None:
                step, routed = fed.step, fed.routed
                self.journal.begin(step)
                guesses = np.full_like(routed.experts, NO_EXPERT) if feed.kept else None

                def guess(step: Step, moe: int, routed: StepRouting) -> Routing | None:
                    forecast = self.forecaster.guess(step, moe, routed)
                    if forecast is not None:
                        self.journal.forecast(forecast)
                        if guesses is not None:  # noqa: B023
                            guesses[:, moe] = narrow(forecast.experts, routed.experts.shape[2])  # noqa: B023
                    return forecast

                share = shares(step)
                lowered = scheduler.lower(step, share, routed, None if self.forecaster.kind == "none" else guess,
                                          self.forecaster.observe, fed.not_before_ps)
                behind.do(scheduler.time, lowered)
                noting.do(lowered.tell, share, self.served_work, self.true_work)
                noting.do(self.journal.served_otherwise, len(self.journal.activities), lowered.serving.layers)
                noting.do(self.journal.whole, self.journal.activities[-1], routed, lowered.serving.all)
                if self.look is not None:
                    behind.do(self.look)
                ahead.hand_on()
                if guesses is not None:
                    self.record.steps.append(step)
                    self.record.routed.append(StepRouting(routed.experts, routed.weights, guesses))
                self.progress.update(feed.done, feed.total, f"step {step.number}")
        scheduler.finish()


def merge(batch: dict[int, Work], work: dict[int, Work]) -> None:
    """Append a layer's messages to those of the step."""
    for device, item in work.items():
        batch.setdefault(device, Work()).items.extend(item.items)


def narrow(experts: Ints, top_k: int) -> NDArray[np.uint16]:
    """Expert ids of a forecast as a column of a trace."""
    out = np.full((len(experts), top_k), NO_EXPERT, np.uint16)
    width = min(top_k, experts.shape[1])
    out[:, :width] = np.where(experts[:, :width] < 0, NO_EXPERT, experts[:, :width])
    return out

