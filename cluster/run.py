"""Runs and comparisons: from a run's config to results, on whichever transport it names."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from actors.scheduler import Scheduler
from cluster.behind import Behind
from cluster.config.run import RunConfig
from cluster.feed import Feed, Listed, Served, Steps, asked_of, divided, serve, told
from cluster.identity import canonical_config, versions
from cluster.kv import division
from cluster.observe.build import build_result
from cluster.observe.energy import rates_of
from cluster.observe.flight import kept_flight
from cluster.observe.journal import Journal
from cluster.observe.requests import Service
from cluster.observe.result import Result
from cluster.resolve import PolicyTarget, Setup, kv_block_bytes, resolve
from cluster.session import Progress, Record, Session, Silent, device_specs
from cluster.transports.contract import Transport
from cluster.wall.stream import OnToken
from emulation.bound_program import load_solver
from emulation.engine.choose import check_numba, make_engine
from emulation.lowering.streams import in_columns, is_straight
from schedulers.registry import load_policy
from workloads.forecasts import Forecaster

if TYPE_CHECKING:
    from cluster.observe.collect import Collector
    from cluster.observe.schema import Wall
    from moe.generate import OnLogits


def run(config: RunConfig, progress: Progress | None = None, *, one_thread: bool = False,
        on_token: OnToken | None = None) -> Result:
    """Carry out a run; its result is not written yet. one_thread: where others use the other cores. on_token: hears
    tokens at the pace of `clock: wall`."""
    return next(iter(_perform(config, Host(compare=False, one_thread=one_thread), progress, on_token).values()))


def compare(config: RunConfig, progress: Progress | None = None) -> dict[str, Result]:
    """Time `policy` and all of `against` on one record of routing and tokens.

    In `execute` the first policy runs the model and is recorded; exact policies are timed on that record, the others
    run the model themselves.
    """
    return _perform(config, Host(compare=True), progress)


def _perform(config: RunConfig, host: "Host", progress: Progress | None,
             on_token: OnToken | None = None) -> dict[str, Result]:
    heard = progress or Silent()
    if config.transport == "ray":
        from cluster.transports.ray import run_in_cluster

        resolve(config)  # what is wrong with it is told before a cluster starts
        results: dict[str, Result] = run_in_cluster(host, config, config.devices_per_actor, heard,
                                                    on_token)
        return results
    transport = transport_of(config)
    try:
        return host.run(config, transport, heard, on_token)
    finally:
        transport.close()


def transport_of(config: RunConfig) -> Transport:
    """The transport that a run names, in this process or several: Ray has its own way in."""
    if config.transport == "processes":
        from cluster.transports.processes import ProcessTransport

        return ProcessTransport(config.workers)
    from cluster.transports.local import LocalTransport

    return LocalTransport()


@dataclass(frozen=True)
class Named:
    """Progress of one policy among several."""

    name: str
    progress: Progress

    def update(self, done: int, total: int, text: str) -> None:
        self.progress.update(done, total, f"{self.name}: {text}")


@dataclass(frozen=True)
class Host:
    """What runs where the scheduler lives: this process, or a scheduler actor."""

    compare: bool
    one_thread: bool = False

    def run(self, config: RunConfig, transport: Transport, progress: Progress,
            on_token: OnToken | None = None) -> dict[str, Result]:
        """Every policy of the run in turn."""
        setup = resolve(config)
        targets = setup.policies if self.compare else setup.policies[:1]
        results: dict[str, Result] = {}
        record: Record | None = None
        for target in targets:
            named = title(target, targets, results)
            one = OneRun(setup, target, transport, Named(named, progress), one_thread=self.one_thread,
                         on_token=on_token)
            results[named] = one.execute() if setup.config.workload.work == "execute" and (
                record is None or not one.policy.exact) else one.replay(record)
            if setup.requests is None:  # served requests meet other steps under another policy
                record = record or one.session.record
        return results


def title(target: PolicyTarget, targets: Sequence[PolicyTarget], taken: Collection[str]) -> str:
    """A policy's name; with its parameters, if it has any, where the same policy is there twice."""
    twice = sum(other.name == target.name for other in targets) > 1
    if target.name not in taken and not (twice and target.parameters):
        return target.name
    return f"{target.name}({', '.join(f'{key}={value}' for key, value in sorted(target.parameters.items()))})"


class OneRun:
    """One policy on one workload."""

    def __init__(self, setup: Setup, target: PolicyTarget, transport: Transport, progress: Progress, *,
                 one_thread: bool = False, on_token: OnToken | None = None,
                 on_logits: "OnLogits | None" = None) -> None:
        self.setup, self.target, self.transport, self.one_thread = setup, target, transport, one_thread
        self.on_logits = on_logits
        self.on_token, self.is_wall = on_token, setup.config.clock == "wall"
        self.wall: Wall | None = None
        self.policy, self.progress = load_policy(target.target, target.parameters), progress
        self.setting = setup.setting
        self.kv_blocks: NDArray[np.int64] | None = None
        if setup.requests is not None:
            self.setting, self.kv_blocks = division(setup, self.policy)
        self.setting = told(setup, self.policy, target.name, self.setting, lambda: self.parts)
        self.served: Served | None = None

    @cached_property
    def parts(self) -> tuple[Steps, Steps]:
        """The steps of static batches that are set aside as history, and those to run."""
        return divided(self.setup)

    def begin(self) -> None:
        """A scheduler for any plan; also from the beginning again."""
        self._begin(Scheduler, self.setup.config.engine)

    def _begin(self, kind: type[Scheduler], engine: str) -> None:
        """A scheduler, and what notes its run, from the beginning."""
        setup, config, model = self.setup, self.setup.config, self.setup.model
        self.scheduler = kind(self.setting, self.policy,
                              lambda lanes, pools, describe: make_engine(engine, lanes, pools, describe))
        self.collector: Collector | None = None
        if engine != "spec" and not self.is_wall:  # the first needs no numba, the second every operation by name
            from cluster.observe import collect

            self.collector = collect.Collector(self.scheduler.engine, config.timeline.max_ops, len(setup.machine.pools))
        self.scheduler.sink = self.collector
        self.forecaster = Forecaster(config.forecast.name, len(model.moe_layers), model.experts, model.top_k,
                                1.0 if config.forecast.accuracy is None else config.forecast.accuracy, config.seed)
        self.journal = Journal()
        self.session = Session(self.scheduler, self.forecaster, self.journal,
                               Silent() if self.is_wall else self.progress, setup.setting.budget_bytes)

    def replay(self, record: Record | None) -> Result:
        """Time a record, or the routing that the workload names. Devices in this process would compute nothing."""
        if not self._in_columns(record):
            self.begin()
            if self.transport.name != "local" or self.is_wall:
                self.transport.open(device_specs(self.scheduler.ledger, None))
                self.transport.wait()
            if self.transport.name != "local":
                self.session.transport = self.transport
            self._expect(record)
            self._carry_out(lambda: self._replay(record))
        if record is not None:
            mine = self.session.record
            mine.prompts, mine.answers, mine.texts = record.prompts, record.answers, record.texts
        return self._result()

    def _replay(self, record: Record | None) -> None:
        self.session.open()
        with Behind(int(not self.one_thread)) as behind:
            behind.do(load_solver)
            self.session.replay(self._feed(record))

    def _carry_out(self, work: Callable[[], None]) -> None:
        """Do the work of the session; at the wall clock it is played meanwhile, and judged."""
        if not self.is_wall:
            work()
            return
        from cluster.wall.conductor import Conductor

        conductor = Conductor(self.scheduler, self.transport, self.setup.config.wall, self.progress, self.on_token)
        self.session.conductor = conductor
        try:
            work()
            self.wall = conductor.finish()
        finally:
            conductor.close()

    def _expect(self, record: Record | None) -> None:
        if record is not None and self.forecaster.kind == "next_gate":
            self.forecaster.kind = "recorded"

    def _in_columns(self, record: Record | None) -> bool:
        """Time the run in columns, where that can say it; otherwise it is to be taken up from its beginning."""
        policy = self.policy
        if self.is_wall or self.transport.name != "local" or self.setup.config.engine == "spec" or (
                not (policy.exact and getattr(policy, "plain", True))
                or not in_columns(self.setting.machine, self.setting.model)):
            return False
        check_numba()
        from actors.columnar import ColumnScheduler
        from emulation.engine.straight import NotStraight
        from emulation.lowering.columns import NotPlain

        for engine in ("straight", "compiled") if is_straight(self.setting.machine) else ("compiled",):
            try:
                self._begin(ColumnScheduler, engine)
                assert isinstance(self.scheduler, ColumnScheduler)
                assert self.collector is not None
                self.scheduler.watch(self.collector)
                self._expect(record)
                feed = self._feed(record)
                if feed.parking is not None:
                    break
                self.session.replay_columns(feed, self.scheduler, one_thread=self.one_thread)
                self.scheduler.count(self.collector.end_ps)
            except NotStraight:
                continue
            except NotPlain:
                break
            else:
                return True
        return False

    def _feed(self, record: Record | None) -> Feed:
        """The steps to time: those of a record, of served requests, or static batches."""
        if record is not None:
            return Listed(zip(record.steps, record.routed, strict=True), len(record.steps))
        if self.kv_blocks is not None:
            self.served = serve(self.setup, self.kv_blocks)
            return self.served
        steps = self.parts[1]
        return Listed(steps, len(steps))

    def execute(self) -> Result:
        """Let the model answer, its experts computed by the devices."""
        from moe.lean import import_torch

        assert self.setup.checkpoint is not None
        self.begin()
        self.transport.open(device_specs(self.scheduler.ledger, str(self.setup.checkpoint)))
        self.session.transport = self.transport
        import_torch()  # while the devices start
        from cluster.execute import answer_all

        self._carry_out(lambda: answer_all(self.setup, self.session, self.on_logits))
        return self._result()

    def _result(self) -> Result:
        setup, record = self.setup, self.session.record
        text = [{"sequence": i, "token_ids": tokens, "text": words}
                for i, (tokens, words) in enumerate(zip(record.answers, record.texts, strict=True))]
        timed, flight = self.collector, None
        if timed is not None and timed.kept.ops:
            flight = kept_flight(timed.kept, self.setting.machine, self.scheduler.engine.pools, timed.keeps_all)
        constants = [{key: row.get(key) for key in ("path", "value", "kind", "source", "range")}
                     for row in setup.provenance]
        return build_result(scheduler=self.scheduler, journal=self.journal, config=canonical_config(setup, self.target),
                            policy=self.target.name, provenance=constants, hashes=setup.hashes,
                            requests=asked_of(record.steps) if self.served is None else self.served.asked(),
                            approximations=self._approximations(), bound=self._bound(), text=text or None,
                            service=self._service(), timed=timed, flight=flight,
                            rates=rates_of(setup.hardware, setup.options, setup.machine),
                            host={**self.transport.describe(), "versions": versions(),
                                  "operations": self.scheduler.engine.next_serial, "wall": self.wall})

    def _bound(self) -> dict[str, object] | None:
        """The lower bound; of served requests one for any schedule of experts, in these steps. None: not supposed."""
        if self._parks or self.setup.machine.actions is not None:
            return None
        found = self.session.bound()
        return found if self.served is None or found is None else {**found, "steps": "as the batcher made them"}

    @property
    def _parks(self) -> bool:
        return self.served is not None and self.served.parking is not None

    def _approximations(self) -> tuple[str, ...]:
        """What the machine, the model and the batcher leave out, and what a policy should not know."""
        foreseen = (CLAIRVOYANT,) if self.setting.future is not None else ()
        unbounded = (*(() if self.session.bounded else UNBOUNDED), *(ACTED if self.setup.machine.actions else ()))
        return (*self.setup.approximations, *foreseen, *(PARKED if self._parks else ()), *unbounded)

    def _service(self) -> Service | None:
        serving = self.setup.config.workload.serving
        if self.served is None or serving is None:
            return None
        return self.served.service(serving, kv_block_bytes(self.setup))


PARKED = ("There is no lower bound: the batcher may park sequences at a layer, and the bound supposes whole steps.",
          "The dense work of a parked token counts in S-MBU and S-MFU of each step in which it runs.")
UNBOUNDED = ("There is no lower bound: it supposes steps that pass all layers of a model, and experts among them.",)
ACTED = ("There is no lower bound: it counts bytes and flops, and this machine counts in action times.",)
CLAIRVOYANT = "The policy is clairvoyant: it is told the routing of all steps to come."
