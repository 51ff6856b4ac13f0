"""One policy on one workload: from what a run resolves to, to its result."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from actors.scheduler import Scheduler
from cluster.behind import Behind
from cluster.faults import effects, left_out, marks, moved, tell
from cluster.feed import Feed, Listed, Served, Steps, asked_of, blind, divided, serve, told
from cluster.identity import canonical_config, versions
from cluster.kv import division
from cluster.observe.build import build_result
from cluster.observe.energy import rates_of
from cluster.observe.flight import kept_flight
from cluster.observe.journal import Journal
from cluster.observe.metrics.watch import Watch
from cluster.observe.requests import Service
from cluster.observe.result import Result
from cluster.observe.series.slices import rows_of
from cluster.resolve import PolicyTarget, Setup, kv_block_bytes
from cluster.safe import Safe
from cluster.session import Progress, Record, Session, Silent, device_specs
from cluster.transports.contract import Transport
from cluster.wall.stream import OnToken
from emulation.bound_program import load_solver
from emulation.engine.choose import check_numba, make_engine
from emulation.lowering.streams import crossings, in_columns, is_straight
from schedulers.registry import load_policy
from workloads.forecasts import Forecaster

if TYPE_CHECKING:
    from actors.columnar import ColumnScheduler
    from cluster.observe.collect import Collector
    from cluster.observe.schema import Wall
    from moe.generate import OnLogits
    from workloads.serving import Serving


@dataclass(frozen=True)
class Heard:
    """Progress that somebody else hears, too."""

    progress: Progress
    other: Callable[[int, int], None]

    def update(self, done: int, total: int, text: str) -> None:
        self.other(done, total)
        self.progress.update(done, total, text)


class OneRun:
    """One policy on one workload."""

    def __init__(self, setup: Setup, target: PolicyTarget, transport: Transport, progress: Progress, *,
                 one_thread: bool = False, on_token: OnToken | None = None,
                 on_logits: "OnLogits | None" = None, safe: Safe | None = None,
                 bounded: bool = True) -> None:
        self.bounded = bounded
        self.setup, self.target, self.transport, self.one_thread = setup, target, transport, one_thread
        self.on_logits, self.safe = on_logits, safe
        self.on_token, self.is_wall = on_token, setup.config.clock == "wall"
        self.wall: Wall | None = None
        self.policy, self.progress = load_policy(target.target, target.parameters), progress
        self.setting = setup.setting
        self.kv_blocks: NDArray[np.int64] | None = None
        if setup.requests is not None:
            self.setting, self.kv_blocks = division(setup, self.policy)
        self.setting = told(setup, self.policy, target.name, self.setting, lambda: self.parts)
        self.served: Served | None = None
        self.watch: Watch | None = None

    def watched_by(self, watch: Watch, name: str) -> None:
        """Let somebody have its metrics while it runs."""
        self.watch, self.progress = watch, Heard(self.progress, watch.far)
        watch.begin(name, self)

    @property
    def who(self) -> dict[str, str]:
        """What is run, as a metric tells it."""
        config = self.setup.config
        return {"machine": self.setup.machine.name, "model": self.setup.model.name, "precision": config.precision,
                "transport": self.transport.name, "version": versions()["moelab"]}

    @property
    def serving(self) -> "Serving | None":
        """The requests, where they are batched continuously."""
        return None if self.served is None else self.served.serving

    @property
    def restarts(self) -> int:
        """Actors or processes that were started again so far."""
        return int(str(self.transport.describe().get("restarts", 0)))

    @property
    def dilation(self) -> float | None:
        """Real seconds for an emulated one, at the wall clock."""
        conductor = self.session.conductor
        return None if conductor is None else conductor.dilation

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
        tell(self.scheduler, setup)
        self.collector: Collector | None = None
        if engine != "spec" and not self.is_wall:  # the first needs no numba, the second every operation by name
            from cluster.observe import collect

            plain = kind is Scheduler
            self.collector = collect.Collector(
                self.scheduler.engine, config.timeline.max_ops, len(setup.machine.pools), rows_of(setup.machine),
                self.scheduler.emit.take_crossed if plain else crossings(setup.machine))
        self.scheduler.sink = self.collector
        self.forecaster = Forecaster(config.forecast.name, len(model.moe_layers), model.experts, model.top_k,
                                1.0 if config.forecast.accuracy is None else config.forecast.accuracy, config.seed)
        self.journal = Journal()
        self.session = Session(self.scheduler, self.forecaster, self.journal,
                               Silent() if self.is_wall else self.progress, setup.setting.budget_bytes)
        self.session.look = None if self.watch is None else self.watch.step

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

    @property
    def _may_be_plain(self) -> bool:
        """Whether columns may say all that the run asks of them; its plans tell."""
        return not (self.is_wall or self.setup.config.engine == "spec" or self.setup.faults) and getattr(
            self.policy, "plain", True) and in_columns(self.setting.machine, self.setting.model)

    def _in_columns(self, record: Record | None) -> bool:
        """Time the run in columns, where that can say it; otherwise it is to be taken up from its beginning."""
        if self.transport.name != "local" or not self._may_be_plain:
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
        if not self._answer_in_columns():
            self.begin()
            self._answer()
        return self._result()

    def _answer(self) -> None:
        """Answer all prompts, by the scheduler that has begun."""
        from moe.lean import import_torch

        assert self.setup.checkpoint is not None
        self.transport.open(device_specs(self.scheduler.ledger, str(self.setup.checkpoint)))
        self.session.transport = self.transport
        import_torch()  # while the devices start
        from cluster.execute import answer_all

        safe = None if self.is_wall else self.safe
        self._carry_out(lambda: answer_all(self.setup, self.session, self.on_logits, safe))

    def _answer_in_columns(self) -> bool:
        """Answer in columns where they can say it. Else it is begun again, and who hears logits would do so twice."""
        if self.on_logits is not None or not self.policy.exact or not self._may_be_plain:
            return False
        check_numba()
        from emulation.lowering.columns import NotPlain

        try:
            self.begin_live()
            self._answer()
        except NotPlain:
            return False
        assert self.collector is not None
        cast("ColumnScheduler", self.scheduler).count(self.collector.end_ps)
        return True

    def begin_live(self) -> None:
        """A scheduler in columns for routing that comes layer by layer; NotPlain where that cannot be."""
        from actors.columnar_live import LiveColumnScheduler

        self._begin(LiveColumnScheduler, self.setup.config.engine)
        assert isinstance(self.scheduler, LiveColumnScheduler)
        assert self.collector is not None
        self.scheduler.watch(self.collector)

    def _result(self) -> Result:
        setup, record = self.setup, self.session.record
        text = [{"sequence": i, "token_ids": tokens, "text": words}
                for i, (tokens, words) in enumerate(zip(record.answers, record.texts, strict=True))]
        timed, flight = self.collector, None
        if timed is not None and timed.kept.ops:
            flight = kept_flight(timed.kept, self.setting.machine, self.scheduler.engine.pools, timed.keeps_all)
        if flight is not None and self.setup.faults:
            flight = replace(flight, marks=marks(self.scheduler))
        constants = [{key: row.get(key) for key in ("path", "value", "kind", "source", "range")}
                     for row in setup.provenance]
        return build_result(scheduler=self.scheduler, journal=self.journal, config=canonical_config(setup, self.target),
                            policy=self.target.name, provenance=constants, hashes=setup.hashes,
                            requests=asked_of(record.steps) if self.served is None else self.served.asked(),
                            approximations=self._approximations(), bound=self._bound(), text=text or None,
                            service=self._service(), timed=timed, flight=flight,
                            rates=rates_of(setup.hardware, setup.options, setup.machine),
                            faults=effects(self.scheduler),
                            host={**self.transport.describe(), "versions": versions(),
                                  "operations": self.scheduler.engine.next_serial, "wall": self.wall})

    def _bound(self) -> dict[str, object] | None:
        """The lower bound; of served requests one for any schedule of experts, in these steps. None: not supposed,
        or not wanted."""
        if not self.bounded or self._parks or self.setup.machine.actions is not None or moved(self.scheduler):
            return None
        found = self.session.bound()
        return found if self.served is None or found is None else {**found, "steps": "as the batcher made them"}

    @property
    def _parks(self) -> bool:
        return self.served is not None and self.served.parking is not None

    def _approximations(self) -> tuple[str, ...]:
        """What the machine, the model and the batcher leave out, and what a policy should not know."""
        foreseen = (CLAIRVOYANT,) if self.setting.future is not None else blind(self.setup, self.policy)
        unbounded = (*(() if self.session.bounded else UNBOUNDED), *(ACTED if self.setup.machine.actions else ()))
        return (*self.setup.approximations, *foreseen, *(PARKED if self._parks else ()), *unbounded,
                *left_out(self.scheduler))

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
