"""One emulated machine, driven step by step: what a step's tokens are, and when it began and ended."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from actors.scheduler import Scheduler, StepTimes
from cluster.faults import inject, tell
from cluster.feed import Routes, load_batcher, router_of, told
from cluster.kv import division
from cluster.resolve import Setup
from cluster.serve.contract import Ask
from cluster.serve.tally import Meter
from cluster.session import place_anew
from cluster.transports.contract import Transport
from emulation.engine.choose import make_engine
from emulation.errors import ConfigError
from emulation.trace import StepRouting
from emulation.validate import Decision
from emulation.view import DECODE, PREFILL, Routing, Step
from schedulers.registry import load_policy
from workloads.forecasts import Forecaster
from workloads.live import LiveServing
from workloads.walk import Walk

MOST_FAULTS = 1000
WALKS = 1 << 16
"""Requests after which walks along a trace repeat."""


class Done(NamedTuple):
    """A step: when it was, and the new token of each request that got one."""

    times: StepTimes
    made: Mapping[int, int]


class Tokens(Protocol):
    """Where the tokens of a step come from; it has every layer of the step decided."""

    def begin(self, number: int, ask: Ask) -> None:
        """A request has come."""

    def prepare(self, step: Step) -> None:
        """A step is about to begin."""

    def make(self, step: Step) -> Mapping[int, int]:
        """Carry a step that has begun through its layers; the new token of each request that gets one."""

    def drop(self, number: int) -> None:
        """A request is over."""


class Driver:
    """A scheduler, and what decides each layer: it stands where a run's session does, and keeps nothing of the past."""

    def __init__(self, setup: Setup, max_open: int) -> None:
        """max_open: how many requests may wait and run at once."""
        config, target, serving = setup.config, setup.policies[0], setup.config.workload.serving
        assert serving is not None
        self.setup, self.transport = setup, None
        policy = load_policy(target.target, target.parameters)
        setting, blocks = division(setup, policy)
        setting = told(setup, policy, target.name, setting, lambda: ([], []))
        self.scheduler = Scheduler(setting, policy, lambda lanes, pools, describe: make_engine(
            config.engine, lanes, pools, describe))
        self.meter = Meter(self.scheduler)
        self.scheduler.sink = self.meter
        tell(self.scheduler, setup)
        model = setup.model
        self.forecaster = Forecaster(config.forecast.name, len(model.moe_layers), model.experts, model.top_k,
                                     1.0 if config.forecast.accuracy is None else config.forecast.accuracy, config.seed)
        self.moe_of = {layer: moe for moe, layer in enumerate(model.moe_layers)}
        self.serving = LiveServing(load_batcher(serving.batcher, config.folder), setup.machine.homes, max_open=max_open,
                                   max_batch=serving.max_batch, token_budget=serving.token_budget,
                                   block_tokens=serving.kv.block_tokens, capacity_blocks=blocks)
        self.tokens: Tokens = Filler(self)

    transport: Transport | None

    @property
    def now_ps(self) -> int:
        """The emulated machine's time."""
        return self.scheduler.engine.now_ps

    def add(self, arrival_ps: int, ask: Ask) -> int:
        """Take a request up; its number."""
        number = self.serving.add(arrival_ps, len(ask.prompt), ask.max_tokens)
        self.tokens.begin(number, ask)
        return number

    def drop(self, number: int) -> None:
        """A request is over, or nobody waits for it any more: what it holds is free at once."""
        self.serving.cancel(number)
        self.tokens.drop(number)

    def next(self) -> tuple[Step, int] | None:
        """The next step, and an instant before which it cannot start; None while nobody is there."""
        return self.serving.next(lambda: self.now_ps)

    def perform(self, step: Step, not_before_ps: int) -> Done:
        """Carry out a step."""
        self.tokens.prepare(step)
        self.scheduler.begin(step, not_before_ps)
        if self.scheduler.faults.relaid:
            place_anew(self.scheduler, self.transport)
        made = self.tokens.make(step)
        return Done(self.scheduler.end(), made)

    def inject(self, fault: Mapping[str, object]) -> str:
        """Let a fault happen; a sentence that tells it."""
        if len(self.scheduler.faults.happened) >= MOST_FAULTS:
            raise ConfigError(f"{MOST_FAULTS} faults have happened to this machine: start another")
        return inject(self.scheduler, fault)

    @property
    def faults(self) -> tuple[str, ...]:
        """The faults that are not over, in sentences."""
        happened = self.scheduler.faults.happened
        return tuple(each.fault.told(self.setup.machine) for each in happened if each.over_ps is None)

    def experts(self) -> dict[str, object]:
        """Routed tokens by phase, layer and expert; bytes of experts that each device holds, and its room for them."""
        setting, ledger, load = self.scheduler.setting, self.scheduler.ledger, self.scheduler.counts.load
        return {"load": {"layers": list(setting.model.moe_layers), "prefill": load[PREFILL].tolist(),
                         "decode": load[DECODE].tolist()},
                "experts_bytes": {device.name: (int(used), int(budget)) for device, used, budget in zip(
                    setting.machine.devices, ledger.used_bytes, ledger.budget_bytes, strict=True)}}

    def decide(self, step: Step, moe: int, routing: Routing, forecast: Routing | None) -> Decision:
        """Decide a layer of the step, and learn from its true routing."""
        decision = self.scheduler.decide(routing, forecast)
        self.forecaster.observe(step, moe, routing)
        return decision


class Filler:
    """Tokens that mean nothing, for a shape without weights: what they cost is that of replayed or generated routing.
    """

    def __init__(self, driver: Driver) -> None:
        setup = driver.setup
        self._driver = driver
        self._router: Routes | None = None
        if setup.routing is not None:
            self._router = Walk(setup.routing, WALKS, setup.config.seed)
        elif setup.generator is not None:
            self._router = router_of(setup)
        self._made: dict[int, int] = {}
        self._routed: StepRouting | None = None

    def begin(self, number: int, ask: Ask) -> None:
        self._made[number] = 0

    def prepare(self, step: Step) -> None:
        assert self._router is not None
        self._routed = self._router.route(step)

    def make(self, step: Step) -> Mapping[int, int]:
        """The n-th token of every answer is n."""
        assert self._routed is not None
        self._decide(step, self._routed)
        made = {}
        for number in step.sequence[step.ends].tolist():
            made[number] = self._made[number]
            self._made[number] += 1
        return made

    def _decide(self, step: Step, routed: StepRouting) -> None:
        driver = self._driver
        passed = driver.scheduler.setting.model.moe_stack(step.encoder)
        for moe in passed:
            forecast = driver.forecaster.guess(step, moe + 1, routed) if moe + 1 in passed else None
            driver.decide(step, moe, routed.layer(moe), forecast)

    def drop(self, number: int) -> None:
        self._made.pop(number, None)
