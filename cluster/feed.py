"""What a run is fed, from its config: steps with their routing, its requests."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cluster.config.serving import BatcherChoice
from cluster.config.serving import Serving as ServingConfig
from cluster.config.workload import Workload
from cluster.observe.journal import Asked
from cluster.observe.requests import Service
from cluster.resolve import Setup
from emulation.errors import ConfigError
from emulation.trace import StepRouting
from emulation.units import PS_PER_S, parse
from emulation.view import DECODE, PREFILL, Setting, Step, Visits
from schedulers._load import Registry
from schedulers.contract import Policy
from workloads import batchers
from workloads.batchers.contract import Batcher
from workloads.parking import Parking
from workloads.serving import Serving
from workloads.synthetic import Request, Router, static_steps
from workloads.walk import Walk

Clock = Callable[[], int]


class Fed(NamedTuple):
    """A step with its routing, and an instant before which it cannot start."""

    step: Step
    routed: StepRouting
    not_before_ps: int = 0


class Feed(Protocol):
    """Where steps come from, one after the other. done of total: how far it is. kept: replay may keep what it gave.

    `next` may be asked, on another thread, while the step before is still decided; it calls the clock, which waits for
    that step and tells the time at its end, only if the next step depends on it.
    """

    @property
    def done(self) -> int: ...

    @property
    def total(self) -> int: ...

    @property
    def kept(self) -> bool: ...

    @property
    def parking(self) -> Parking | None:
        """Who may hold sequences back at a layer: then every layer of a step must be shown to it before it is decided,
        and no step can be timed whole."""

    def next(self, clock: Clock) -> Fed | None:
        """The next step; None behind the last."""


class Listed:
    """Steps that are known before the run."""

    kept, parking = True, None

    def __init__(self, steps: Iterable[tuple[Step, StepRouting]], total: int) -> None:
        self._steps, self.total, self.done = iter(steps), total, 0

    def next(self, clock: Clock) -> Fed | None:
        found = next(self._steps, None)
        self.done += 1
        return None if found is None else Fed(*found)


class Routes(Protocol):
    """What routes any step."""

    def route(self, step: Step) -> StepRouting:
        """Its routing."""


class Served:
    """Steps that a batcher makes of requests as they come."""

    kept = False

    def __init__(self, serving: Serving, router: Routes, most_steps: int | None) -> None:
        self.serving, self._router, self._most = serving, router, most_steps
        self.total = len(serving.requests)
        self._kv_blocks: list[NDArray[np.int64]] = []

    @property
    def done(self) -> int:
        return self.serving.done

    @property
    def parking(self) -> Parking | None:
        return self.serving.parking

    def next(self, clock: Clock) -> Fed | None:
        if self._most is not None and self.serving.steps == self._most:
            return None
        found = self.serving.next(clock)
        if found is None:
            return None
        self._kv_blocks.append(self.serving.cache.held)
        return Fed(found[0], self._router.route(found[0]), found[1])

    def asked(self) -> Asked:
        """The requests, for the result."""
        of = self.serving.requests
        return Asked(np.arange(len(of)), of.arrival_ps, of.prompt_tokens, of.output_tokens)

    def service(self, asked: ServingConfig, block_bytes: int) -> Service:
        """How they were served, for the result."""
        serving, slo = self.serving, asked.slo
        ttft_ps, tpot_ps = (None if slo is None or text is None else int(parse(text, "time") * PS_PER_S)
                            for text in ((None, None) if slo is None else (slo.ttft, slo.tpot)))
        return Service(asked.batcher.name, serving.block_tokens, block_bytes, serving.cache.capacity,
                       serving.cache.peak, serving.preemptions, serving.recomputed_tokens, serving.cache.kept_tokens,
                       np.array(self._kv_blocks).reshape(-1, len(serving.cache.capacity)), ttft_ps, tpot_ps)


BATCHERS = Registry("batcher", "workloads.batchers", Path(batchers.__file__).parent, "Batcher", ("batch",), ("clock",),
                    ("contract",))


def load_batcher(choice: BatcherChoice, base: Path) -> Batcher:
    """The batcher that a workload names; a path is relative to the run's file."""
    name = str((base / choice.name).absolute()) if choice.name.endswith(".py") else choice.name
    made: Batcher = BATCHERS.load(name, choice.parameters)
    return made


def serve(setup: Setup, capacity_blocks: NDArray[np.int64]) -> Served:
    """The served workload of a run, from its first step."""
    config, asked, requests = setup.config, setup.config.workload.serving, setup.requests
    assert asked is not None
    assert requests is not None
    serving = Serving(requests, load_batcher(asked.batcher, config.folder), setup.machine.homes,
                      max_batch=asked.max_batch, token_budget=asked.token_budget,
                      block_tokens=asked.kv.block_tokens, capacity_blocks=capacity_blocks)
    router = Walk(setup.routing, len(requests), config.seed) if setup.routing is not None else router_of(setup)
    return Served(serving, router, config.limits.steps)


def router_of(setup: Setup) -> Router:
    """The generator that the workload names."""
    assert setup.generator is not None
    return Router(setup.model, setup.generator, setup.config.seed)


def static_batches(work: Workload) -> list[list[Request]]:
    """The requests of a generated workload, batch by batch."""
    count = work.requests or work.batch
    one = Request(work.prompt_tokens or 1, work.output_tokens or 1)
    return [[one] * min(work.batch, count - at) for at in range(0, count, work.batch)]


Steps = list[tuple[Step, StepRouting]]


def divided(setup: Setup) -> tuple[Steps, Steps]:
    """The steps that a workload sets aside as history, and those to run, with their routing: recorded or generated."""
    share, most = setup.config.workload.history, setup.config.limits.steps
    if share is None:
        return [], _steps(setup, most)
    steps = _steps(setup, None)
    first = int(len(steps) * share)
    if not first:
        raise ConfigError(f"workload.history is {share}, and of {len(steps)} steps that is none")
    return steps[:first], steps[first:None if most is None else first + most]


def _steps(setup: Setup, most: int | None) -> Steps:
    """The first steps that the workload names."""
    config, machine = setup.config, setup.machine
    if setup.routing is not None:
        shift = config.workload.context_tokens
        steps = ((replace(step, position=step.position + shift), routed)
                 for step, routed in setup.routing.steps(machine.homes, encoder=bool(setup.model.encoder_layers)))
        return list(islice(steps, most))
    router = router_of(setup)
    out: Steps = []
    sequences = 0
    for batch in static_batches(config.workload):
        for step in static_steps(batch, machine.homes, encoder=bool(setup.model.encoder_layers)):
            if len(out) == most:
                return out
            moved = replace(step, number=len(out), sequence=step.sequence + sequences)
            out.append((moved, router.route(moved)))
        sequences += len(batch)
    return out


def visits_of(steps: Steps, experts: int) -> Visits:
    """Tokens by expert, layer and step."""
    counts = [[routed.layer(moe).counts(experts) for moe in range(routed.experts.shape[1])] for _, routed in steps]
    return Visits(np.array([step.number for step, _ in steps], np.int64), np.array(counts, np.int64))


def told(setup: Setup, policy: Policy, name: str, setting: Setting,
         parts: Callable[[], tuple[Steps, Steps]]) -> Setting:
    """What a policy is told beside that: the history that is set aside, and of a clairvoyant one, what is to come.

    parts: the workload, divided; asked where there is something to tell.
    """
    foresees = bool(getattr(policy, "clairvoyant", False))
    work, experts = setup.config.workload, setup.model.experts
    if foresees and (work.work == "execute" or work.serving is not None):
        raise ConfigError(f"{name} sees the steps to come: it needs routing and steps that are known "
                          "before the run (replay or synthetic, in static batches)")
    if work.history is None and not foresees:
        return setting
    before, coming = parts()
    if before:
        history = visits_of(before, experts)
        setting = replace(setting, history=history, popularity=history.counts.sum(axis=0))
    return replace(setting, future=visits_of(coming, experts)) if foresees else setting


def asked_of(steps: list[Step]) -> Asked:
    """The sequences of static batches: prompt tokens as prefilled, output tokens as made. A prefill makes one, too, but
    for one that passes an encoder."""
    if not steps:
        none = np.zeros(0, np.int64)
        return Asked(none, none, none, none)
    sequence, phase = (np.concatenate([getattr(step, key) for step in steps]) for key in ("sequence", "phase"))
    names, who = np.unique(sequence, return_inverse=True)
    prompt, made = (np.bincount(who[phase == key], minlength=len(names)) for key in (PREFILL, DECODE))
    return Asked(names, np.zeros(len(names), np.int64), prompt,
                 made + (prompt > 0) * (not any(step.encoder for step in steps)))


def blind(setup: Setup, policy: object) -> tuple[str, ...]:
    """What a policy says of itself where no forecast is asked for, if it says anything."""
    said = getattr(policy, "without_forecast", None) if setup.config.forecast.name == "none" else None
    return () if said is None else (str(said),)
