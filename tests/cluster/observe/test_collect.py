"""Figures while a run runs are those of the whole run read at its end, wherever its chunks are cut."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.scheduler import Batch, StepTimes
from cluster.observe.attribution import Walked
from cluster.observe.collect import Collector
from cluster.observe.flight import flight_of
from cluster.observe.series.slices import rows_of
from cluster.observe.submitted import Sliced
from emulation.engine.choose import make_engine
from emulation.engine.contract import Engine
from emulation.engine.spec import SpecEngine
from emulation.errors import DeadlockError, PlanError
from emulation.lowering.emit import CAUSES, KINDS, Labels
from emulation.lowering.streams import crossings
from emulation.ops import START, Edge, Lane, Ops, Pool
from tests.emulation import random_plans

from .conftest import feed, policy_of, run
from .test_attribution import Story, lanes, stories

ENGINES = ("spec", "compiled")


def again(engine: Engine, batches: Sequence[Batch], labels: Sequence[Labels], steps: Sequence[StepTimes],
          flushes: Callable[[], bool], *of: Any) -> Collector:
    """The same operations once more on a fresh engine, collected; `flushes` says where a flush is tried."""
    collector = Collector(engine, 0, 0, *of)
    waiting = sorted(steps, key=lambda step: step.end_op)

    def told() -> None:
        ended = engine.next_serial
        while waiting and waiting[0].end_op < ended:
            step = waiting.pop(0)
            collector.step(step.begin_ps, step.end_op)

    for batch, label in zip(batches, labels, strict=True):
        if batch.after >= 0:
            engine.run([batch.after])
        engine.advance(max(batch.at_ps, engine.now_ps))
        told()
        if flushes():
            collector.flush()
        collector.batch(batch.ops, label, batch.at_ps, batch.after)
        engine.submit(batch.ops)
    engine.run()
    told()
    collector.flush()
    return collector


def as_lists(of: Sliced) -> list[Any]:
    return [of.width, *(part.tolist() for part in of[1:])]


def same(lane: Sequence[Lane], pools: Sequence[Pool], first: Engine, batches: Sequence[Batch],
         labels: Sequence[Labels], engine: str, flushes: Callable[[], bool]) -> None:
    """Compare everything that is collected with what the whole flight gives, with each operation ending a step."""
    flight = flight_of(first, batches, labels, ["dev"] * len(lane), 0)
    n = len(flight.end_ps)
    steps = [StepTimes(op, begin_ps, int(flight.end_ps[op]), 0, 1, op) for op in range(n)
             for begin_ps in (0, int(flight.end_ps[op]) // 2)]
    found = again(make_engine(engine, lane, pools), batches, labels, steps, flushes)
    wanted = Walked(flight, steps)
    assert found.horizon_ps == wanted.horizon_ps
    assert found.end_ps.tolist() == wanted.end_ps.tolist()
    assert found.spans_digest == wanted.spans_digest
    assert found.use().busy_ps.tolist() == wanted.use().busy_ps.tolist()
    assert found.use().stall_ps.tolist() == wanted.use().stall_ps.tolist()
    assert found.latency_ps.tolist() == wanted.latency_ps.tolist()
    assert as_lists(found.sliced()) == as_lists(wanted.sliced())


def told_again(story: Story, engine: str, flushes: Callable[[], bool]) -> None:
    if story._rows:
        story.then()
    story.engine.run()
    same(story.engine.lanes, story.engine.pools, story.engine, story.batches, story.labels, engine, flushes)


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=150, deadline=None)
@given(story=stories(), flushes=st.randoms(use_true_random=False))
def test_a_random_story_in_any_chunks(engine: str, story: Story, flushes: Random) -> None:
    told_again(story, engine, lambda: flushes.random() < 0.7)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_lane_left_at_an_instant_at_which_two_chunks_end(engine: str) -> None:
    # gpu is left at 10; at 10 too an op of no length is a chunk of its own; then gpu goes on at 10
    story = Story(lanes("gpu", "host"))
    story.then(story.op("router", {"gpu": 10}))
    story.then(story.op("sync", {"host": 0}))
    story.then(story.op("sync", {"host": 0}))
    story.op("copy", {"host": 5}, cause="demand")
    story.op("expert", {"gpu": 10})
    told_again(story, engine, lambda: True)


@pytest.mark.parametrize("engine", ENGINES)
def test_idleness_before_an_operation_that_holds_its_lane_for_no_time(engine: str) -> None:
    # a touches gpu for no time at 20, when the load ends; b comes there at 50 behind another load
    story = Story(lanes("gpu", "link", "slow"))
    load = story.op("copy", {"link": 20}, cause="demand")
    late = story.op("copy", {"slow": 50}, cause="return")
    story.op("expert", {"gpu": 0}, [load])
    story.op("expert", {"gpu": 10}, [late])
    told_again(story, engine, lambda: True)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_in_order_lane_of_two_servers_that_goes_on_after_a_stop(engine: str) -> None:
    story = Story([Lane("pair", 2, True), Lane("x"), Lane("y")])
    story.op("copy", {"pair": 40, "x": 40}, cause="prefetch", priority=10, quantum_ps=4)
    gate = story.op("router", {"y": 6})
    story.op("copy", {"x": 11}, [gate], cause="demand")
    story.op("expert", {"pair": 9})
    story.op("copy", {"pair": 7, "x": 7}, cause="demand")
    story.op("expert", {"pair": 3})
    story.op("expert", {"y": 3}, [Edge(4, START)])
    told_again(story, engine, lambda: True)


def labelled(ops: Ops, random: Random) -> Labels:
    """Labels for a plan that has none."""
    rows = [(KINDS.index(kind), CAUSES.index(random.choice(CAUSES) if kind == "copy" else "none"), 0, 0, 0, -1, 0)
            for kind in (random.choice(["copy", "expert", "sync"]) for _ in range(len(ops)))]
    return Labels(*np.array(rows, np.int64).reshape(-1, 7).T)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", range(60))
def test_random_plans_in_any_chunks(engine: str, seed: int) -> None:
    random = Random(seed)
    at = random_plans.world(random)
    first, batches, labels, after = SpecEngine(at.lanes, at.pools), [], [], -1
    for _ in range(random.randint(1, 6)):
        ops, unreleased = random_plans.plan(at, 12)
        try:
            first.submit(ops)
        except PlanError:
            continue
        # an edge of the same instant may be a later operation's: nothing is left in flight by a run that deadlocks
        batches.append(Batch(ops, first.now_ps, after))
        labels.append(labelled(ops, random))
        at.next_serial, at.next_take, at.unreleased = at.next_serial + len(ops), at.next_take + ops.takes, unreleased
        try:
            if random.random() < 0.6:
                after = random.randrange(at.next_serial)
                first.run([after])
        except DeadlockError:
            return
    try:
        first.run()
    except DeadlockError:
        return
    same(at.lanes, at.pools, first, batches, labels, engine, lambda: random.random() < 0.7)


@pytest.mark.parametrize(("policy", "parameters"), [
    ("resident", {}), ("on_demand", {}), ("lru", {"slots": 2}), ("lru_prefetch", {"slots": 4}),
    ("cpu_static", {"slots": 3}), ("cpu_precalc", {"slots": 3})])
def test_a_small_run_of_a_policy(policy: str, parameters: dict[str, Any]) -> None:
    scheduler, _ = run(policy_of(policy, **parameters), feed(1, (0, 10**10)))
    flight = flight_of(scheduler.engine, scheduler.batches, scheduler.labels,
                       ["dev"] * len(scheduler.engine.lanes), 0)
    rows = rows_of(scheduler.setting.machine)
    found = again(make_engine("compiled", scheduler.engine.lanes, scheduler.engine.pools), scheduler.batches,
                  scheduler.labels, scheduler.steps, lambda: True, rows, crossings(scheduler.setting.machine))
    wanted = Walked(flight, scheduler.steps, rows, scheduler.emit.take_crossed())
    assert as_lists(found.sliced()) == as_lists(wanted.sliced())
    assert found.sliced().moved.sum(axis=2).tolist() == scheduler.emit.moved_bytes.tolist()
    assert found.spans_digest == wanted.spans_digest
    assert found.use().stall_ps.tolist() == wanted.use().stall_ps.tolist()
    assert found.latency_ps.tolist() == wanted.latency_ps.tolist()
