"""Where time goes, on timelines worked out by hand and as a law over random plans."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.scheduler import Batch
from cluster.observe.attribution import LABELS, Walker, lane_use, step_latency
from cluster.observe.flight import Flight, flight_of
from emulation.engine.spec import SpecEngine
from emulation.lowering.emit import CAUSES, KINDS, Labels
from emulation.ops import START, Edge, Lane, OpBuilder, Pool

from .conftest import feed, policy_of, run


class Story:
    """Operations with a kind, written as a timeline; `then` runs up to a decision before more is told."""

    def __init__(self, lanes: Sequence[Lane], pools: Sequence[Pool] = ()) -> None:
        self.engine = SpecEngine(lanes, pools)
        self.lane = {lane.name: i for i, lane in enumerate(lanes)}
        self.ops = OpBuilder()
        self.batches: list[Batch] = []
        self.labels: list[Labels] = []
        self._rows: list[tuple[int, ...]] = []
        self._decision = -1

    def op(self, kind: str, holds: dict[str, int], after: Iterable[Edge | int] = (), cause: str = "none",
           **more: Any) -> int:
        self._rows.append((KINDS.index(kind), CAUSES.index(cause), 0, 0, 0, -1, 0))
        return self.ops.op({self.lane[name]: ps for name, ps in holds.items()}, after=after, **more)

    def then(self, decision: int | None = None, not_before_ps: int = 0) -> None:
        columns = np.array(self._rows, np.int64).reshape(-1, 7)
        self.labels.append(Labels(*columns.T))
        ops = self.ops.build()
        self.batches.append(Batch(ops, self.engine.now_ps, self._decision))
        self.engine.submit(ops)
        self.engine.run([] if decision is None else [decision])
        if decision is not None:
            self._decision = decision
            self.engine.advance(max(not_before_ps, self.engine.now_ps))
        self._rows = []
        self.ops = OpBuilder(self.engine.next_serial, self.engine.next_take)

    def flight(self) -> Flight:
        if self._rows:
            self.then()
        return flight_of(self.engine, self.batches, self.labels, ["dev"] * len(self.lane), 0)

    def stall(self) -> dict[str, dict[str, int]]:
        flight = self.flight()
        use = lane_use(Walker(flight), flight.horizon_ps)
        return {lane.name: named(row) for lane, row in zip(flight.lanes, use.stall_ps, strict=True)}


def named(row: np.ndarray) -> dict[str, int]:
    return {LABELS[i]: int(row[i]) for i in np.flatnonzero(row)}


def lanes(*names: str) -> list[Lane]:
    return [Lane(name) for name in names]


def test_a_kernel_waits_for_its_demand_load_behind_another() -> None:
    # link: | demand 30 | demand 20 |        gpu waits 50 for both loads, then computes to 60
    story = Story(lanes("gpu", "link"))
    first = story.op("copy", {"link": 30}, cause="demand")
    second = story.op("copy", {"link": 20}, cause="demand")
    story.op("expert", {"gpu": 10}, [first, second])
    assert story.stall() == {"gpu": {"demand load": 50}, "link": {"no work": 10}}


def test_a_late_prefetch_is_told_from_one_that_keeps_the_link() -> None:
    # link: | prefetch 40 | demand 20 |; gpu runs a to 5; b needs the demand load; c the prefetch, on another lane
    story = Story(lanes("gpu", "npu", "link"))
    early = story.op("copy", {"link": 40}, cause="prefetch", priority=10)
    gate = story.op("router", {"gpu": 5})
    load = story.op("copy", {"link": 20}, [gate], cause="demand")
    story.op("expert", {"gpu": 10}, [load])
    story.op("expert", {"npu": 10}, [early])
    assert story.stall() == {"gpu": {"behind prefetch": 35, "demand load": 20},
                             "npu": {"prefetch": 40, "no work": 20}, "link": {"no work": 10}}


def test_memory_that_is_given_back_late_is_a_stall_of_the_link() -> None:
    # the second load needs the slot of the first until its user ends at 30
    story = Story(lanes("gpu", "link"), [Pool("slot", 1)])
    first = story.op("copy", {"link": 10}, cause="demand", takes=[(0, 1, 1)])
    use = story.op("expert", {"gpu": 20}, [first])
    story.ops.release(story.ops.take_handle(first), after=[use])
    story.op("copy", {"link": 10}, cause="demand", takes=[(0, 1, 1)])
    assert story.stall()["link"] == {"memory": 20}
    assert story.stall()["gpu"] == {"demand load": 10, "no work": 10}


def test_a_lane_taken_elsewhere_is_a_stall_of_the_idle_lane() -> None:
    # a copy needs link and engine; the engine is busy with another copy until 25
    story = Story(lanes("link", "engine"))
    story.op("copy", {"engine": 25}, cause="return")
    story.op("copy", {"link": 10, "engine": 10}, cause="demand")
    assert story.stall() == {"link": {"lane": 25}, "engine": {}}


def test_what_made_way_and_waits_for_its_other_lane_is_held_up_by_a_lane() -> None:
    # a prefetch over a and b gives both up at its quantum (10) to a demand load on b, and resumes at 30
    story = Story(lanes("a", "b", "other"))
    story.op("copy", {"a": 40, "b": 40}, cause="prefetch", priority=10, quantum_ps=10)
    gate = story.op("router", {"other": 5})
    story.op("copy", {"b": 20}, [gate], cause="demand")
    assert story.stall() == {"a": {"lane": 20}, "b": {}, "other": {"no work": 55}}


def test_a_stall_spans_decisions_and_arrivals() -> None:
    # gpu: router 10 | ... a request comes at 50: sync 5 on the host, then gpu again from 55
    story = Story(lanes("gpu", "host"))
    story.then(story.op("router", {"gpu": 10}), not_before_ps=50)
    sync = story.op("sync", {"host": 5})
    story.op("expert", {"gpu": 10}, [sync])
    assert story.stall() == {"gpu": {"arrival": 40, "sync": 5}, "host": {"router": 10, "arrival": 40, "no work": 10}}


def test_a_first_arrival_is_an_arrival() -> None:
    story = Story(lanes("gpu"))
    story.engine.advance(70)
    story.op("expert", {"gpu": 10})
    assert story.stall() == {"gpu": {"arrival": 70}}


def test_waiting_for_a_start_goes_on_to_what_let_that_start() -> None:
    # b waits for the start of a, which waits for the load: b's 30 ps are the load's
    story = Story(lanes("x", "y", "link"))
    load = story.op("copy", {"link": 30}, cause="demand")
    a = story.op("attention", {"x": 50}, [load])
    story.op("reduce", {"y": 10}, [Edge(a, START)])
    assert story.stall()["y"] == {"demand load": 30, "no work": 40}


def test_each_server_of_a_lane_counts() -> None:
    # two servers: 0 runs to 30; 1 runs 10, waits for the load until 20, runs 10
    story = Story([Lane("worker", servers=2), Lane("link")])
    story.op("expert", {"worker": 30})
    story.op("expert", {"worker": 10})
    load = story.op("copy", {"link": 20}, cause="demand")
    story.op("expert", {"worker": 10}, [load])
    assert story.stall() == {"worker": {"demand load": 10}, "link": {"no work": 10}}


def test_an_in_order_lane_waits_for_its_head() -> None:
    # the head waits for a load until 20 and holds its lane for no time; what is behind it starts with it
    story = Story([Lane("stream", in_order=True), Lane("link")])
    load = story.op("copy", {"link": 20}, cause="demand")
    story.op("expert", {"stream": 0}, [load])
    story.op("expert", {"stream": 10})
    assert story.stall()["stream"] == {"demand load": 20}


def test_latency_of_a_step_follows_the_critical_path() -> None:
    # attention 10 | load 30 beside gather 5 | expert 20: a step of 60
    story = Story(lanes("gpu", "link"))
    start = story.op("attention", {"gpu": 10})
    load = story.op("copy", {"link": 30}, [start], cause="demand")
    gather = story.op("gather", {"gpu": 5}, [start])
    story.then(story.op("expert", {"gpu": 20}, [load, gather]))
    flight = story.flight()
    found = step_latency(Walker(flight), np.array([3]), np.array([0]))
    assert [named(row) for row in found] == [{"attention": 10, "demand load": 30, "expert": 20}]
    found = step_latency(Walker(flight), np.array([3]), np.array([25]))
    assert [named(row) for row in found] == [{"demand load": 15, "expert": 20}]


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Random plans in several batches: shared lanes, servers, order, quanta, waits on starts and ends, memory."""
    kinds = draw(st.lists(st.tuples(st.integers(1, 2), st.booleans()), min_size=2, max_size=4))
    names = [f"l{i}" for i in range(len(kinds))]
    story = Story([Lane(name, servers, order) for name, (servers, order) in zip(names, kinds, strict=True)],
                  [Pool("p", 2)])
    for _ in range(draw(st.integers(1, 3))):
        first = story.ops.first
        for _ in range(draw(st.integers(1, 6))):
            serial = story.ops.next_serial
            held = draw(st.lists(st.sampled_from(names), max_size=2, unique=True))
            after = draw(st.lists(st.builds(Edge, st.integers(0, serial - 1), st.integers(0, 1)), max_size=2)) \
                if serial else []
            kind = draw(st.sampled_from(["expert", "copy", "sync"]))
            op = story.op(kind, {name: draw(st.integers(0, 9)) for name in held}, after,
                          cause=draw(st.sampled_from(CAUSES)) if kind == "copy" else "none",
                          length_ps=draw(st.integers(0, 3)), priority=draw(st.sampled_from([0, 10])),
                          quantum_ps=draw(st.sampled_from([0, 0, 2])),
                          takes=[(0, 1, 1)] if (taking := draw(st.booleans())) else [])
            if taking:
                story.ops.release(story.ops.take_handle(op), after=[op])
        story.then(draw(st.integers(first, story.ops.next_serial - 1)),
                   draw(st.sampled_from([0, 0, 60])))
    return story


@settings(max_examples=100, deadline=None)
@given(stories())
def test_every_picosecond_of_every_lane_and_path_is_accounted_for(story: Story) -> None:
    story.engine.run()
    flight = story.flight()
    walker = Walker(flight)
    use = lane_use(walker, flight.horizon_ps)
    assert (use.busy_ps >= 0).all()
    assert (use.stall_ps >= 0).all()
    total = (use.busy_ps + use.stall_ps).sum(axis=1)
    assert total.tolist() == [lane.servers * flight.horizon_ps for lane in flight.lanes]
    every = np.arange(len(flight.end_ps))
    for begin_ps in (0, flight.horizon_ps // 2):
        begins = np.minimum(flight.end_ps, begin_ps)
        paths = step_latency(walker, every, begins)
        assert (paths >= 0).all()
        assert paths.sum(axis=1).tolist() == (flight.end_ps - begins).tolist()
    unexplained = LABELS.index("unexplained")
    assert not use.stall_ps[:, unexplained].any()


@pytest.mark.parametrize(("policy", "parameters"), [
    ("resident", {}), ("on_demand", {}), ("lru", {"slots": 2}), ("lru_prefetch", {"slots": 4}),
    ("cpu_static", {"slots": 3}), ("cpu_precalc", {"slots": 3})])
def test_real_schedules_leave_nothing_unexplained(policy: str, parameters: dict[str, int],
                                                  engine: Callable[..., Any]) -> None:
    from cluster.observe.flight import read_flight

    scheduler, _ = run(policy_of(policy, **parameters), feed(1, (0, 10**10)), engine=engine)
    flight = read_flight(scheduler)
    walker = Walker(flight)
    use = lane_use(walker, flight.horizon_ps)
    total = (use.busy_ps + use.stall_ps).sum(axis=1)
    assert total.tolist() == [lane.servers * flight.horizon_ps for lane in flight.lanes]
    assert not use.stall_ps[:, LABELS.index("unexplained")].any()
    latency = step_latency(walker, np.array([step.end_op for step in scheduler.steps]),
                           np.array([step.begin_ps for step in scheduler.steps]))
    assert latency.sum(axis=1).tolist() == [step.end_ps - step.begin_ps for step in scheduler.steps]
    assert not latency[:, [LABELS.index("unexplained"), LABELS.index("arrival")]].any()
