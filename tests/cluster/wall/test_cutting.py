"""What the engine timed, cut into pieces for players: who plays what, and what it waits for."""

from collections.abc import Sequence
from random import Random

import numpy as np
import pytest

from actors.programme import NO
from cluster.wall.cutting import Cutter
from emulation.engine.spec import SpecEngine
from emulation.lowering.emit import CAUSES, KINDS, Labels
from emulation.machine import Device, Link, Machine
from emulation.ops import PREFETCH, START, Edge, Lane, OpBuilder, Ops, Pool
from schedulers.registry import load_policy
from tests.cluster.wall.stage import Ensemble
from tests.emulation.random_plans import plan, world
from tests.schedulers import rig
from tests.schedulers.rig import chiplets, eager_host, gpu_and_units, gpus, kernels, model, routing

MACHINE = Machine(
    "two",
    (Device("gpu", "gpu", 10, (0,), (), kernels(1)), Device("unit", "ndp", 10, (1,), (), kernels(1), rests=True)),
    (Link("out", 0, 1, 2, 1), Link("back", 1, 0, 3, 1)), tuple(Lane(name) for name in ("gpu", "unit", "out", "back")))
GPU, UNIT, OUT, BACK = range(4)


class Desk:
    """An engine, a cutter and players; operations are submitted with what they are."""

    def __init__(self, machine: Machine = MACHINE, pools: Sequence[Pool] = ()) -> None:
        self.engine = SpecEngine(machine.lanes, pools, str)
        self.cutter = Cutter(machine, {number: number for number, device in enumerate(machine.devices)
                                       if device.computes})
        self.build = OpBuilder()
        self.what: list[tuple[int, int, int]] = []
        self.ensemble = Ensemble(len(machine.devices))

    def op(self, holds: dict[int, int], *, kind: str = "expert", cause: str = "none", device: int = NO,
           **more: object) -> int:
        self.what.append((KINDS.index(kind), CAUSES.index(cause), device))
        return self.build.op(holds, **more)  # type: ignore[arg-type]

    def run(self, *until: int, after: int = NO) -> None:
        """Submit, run, cut, and hand out."""
        ops = self.build.build()
        self.engine.submit(ops)
        self.cutter.submit(ops, labels(self.what), after)
        self.build, self.what = OpBuilder(self.engine.next_serial, self.engine.next_take), []
        self.engine.run(until)
        self.ensemble.add(self.cutter.cut(self.engine.spans(), self.engine.occupancy(), {}))

    def waits(self, op: int, part: int = 0) -> set[tuple[int, int]]:
        """(operation, offset) of the moments that a piece of an operation waits for."""
        played = self.cutter.played
        number = [i for i, of in enumerate(played.op) if of == op][part]
        moments = [played.moments[moment] for moment in played.pieces[number].waits]
        return {(played.op[piece], offset) for piece, offset in moments}

    def player(self, op: int) -> int:
        return self.cutter.played.player[self.cutter.played.op.index(op)]


def labels(what: Sequence[tuple[int, int, int]]) -> Labels:
    rows = np.array([(kind, cause, device, 0, 0, -1, 0) for kind, cause, device in what], np.int64).reshape(-1, 7)
    return Labels(*rows.T)


def test_edges_and_lanes_are_what_a_piece_waits_for() -> None:
    desk = Desk()
    a = desk.op({GPU: 10}, device=0)
    b = desk.op({GPU: 5}, device=0)
    c = desk.op({UNIT: 5}, device=1, after=[a, Edge(b, START)])
    desk.run()
    assert desk.waits(a) == set()
    assert desk.waits(b) == {(a, 10)}
    assert desk.waits(c) == {(a, 10), (b, 0)}
    assert [desk.player(op) for op in (a, b, c)] == [0, 0, 1]


def test_a_lane_is_free_where_its_hold_ends_and_not_where_the_transfer_does() -> None:
    desk = Desk()
    slow = desk.op({OUT: 4, BACK: 10}, kind="copy", cause="demand", device=1, length_ps=12)
    next_ = desk.op({OUT: 4}, kind="copy", cause="demand", device=1)
    desk.run()
    assert desk.waits(next_) == {(slow, 4)}


def test_activations_are_played_by_their_home_and_loads_by_who_gets_them() -> None:
    desk = Desk()
    out = desk.op({OUT: 4}, kind="copy", cause="dispatch", device=1)
    back = desk.op({BACK: 4}, kind="copy", cause="return", device=0)
    load = desk.op({OUT: 4}, kind="copy", cause="demand", device=1)
    join = desk.op({}, kind="join", after=[load])
    desk.run()
    assert [desk.player(op) for op in (out, back, load, join)] == [0, 0, 1, 1]


def test_what_waits_for_nothing_of_its_batch_waits_for_the_decision() -> None:
    desk = Desk()
    router = desk.op({GPU: 10}, device=0)
    desk.run(router)
    first = desk.op({UNIT: 3}, device=1)
    then = desk.op({UNIT: 3}, device=1, after=[first])
    desk.run(after=router)
    assert desk.waits(first) == {(router, 10)}
    assert desk.waits(then) == {(first, 3)}


def test_what_waited_for_a_pool_waits_for_its_release() -> None:
    desk = Desk(pools=[Pool("room", 1)])
    first = desk.op({UNIT: 10}, device=1, takes=[(0, 1, 1)])
    desk.build.release(desk.build.take_handle(first), after=[first])
    second = desk.op({GPU: 5}, device=0, takes=[(0, 1, 1)])
    desk.run()
    assert desk.waits(second) == {(first, 10)}


def test_a_transfer_that_stops_is_two_pieces_with_the_other_between() -> None:
    desk = Desk()
    load = desk.op({OUT: 30}, kind="copy", cause="prefetch", device=1, priority=PREFETCH, quantum_ps=10)
    kernel = desk.op({GPU: 15}, device=0)
    demand = desk.op({OUT: 5}, kind="copy", cause="demand", device=1, after=[kernel])
    desk.run()
    spans = [(p.start_ps, p.length_ps) for p, op in zip(desk.cutter.played.pieces, desk.cutter.played.op, strict=True)
             if op == load]
    assert spans == [(0, 20), (25, 10)]
    assert desk.waits(demand) == {(kernel, 15), (load, 20)}
    assert desk.waits(load, part=1) == {(load, 20), (demand, 5)}


def test_nothing_that_starts_behind_what_is_in_flight_is_handed_out() -> None:
    desk = Desk()
    long, short = desk.op({UNIT: 100}, device=1), desk.op({GPU: 10}, device=0)
    later = desk.op({GPU: 10}, device=0, after=[short])
    desk.run(later)
    assert desk.cutter.played.op == []  # all start with `long` or behind it
    desk.run()
    assert sorted(desk.cutter.played.op) == [long, short, later]


def cut_plans(random: Random, players: int) -> tuple[SpecEngine, Cutter, list[dict[int, object]]]:
    """Random plans on an engine, cut now and then."""
    at = world(random)
    devices = tuple(Device(f"d{i}", "gpu", 1, (i,)) for i in range(len(at.lanes)))
    machine = Machine("random", devices, (), tuple(at.lanes))
    engine = SpecEngine(at.lanes, at.pools, str)
    cutter = Cutter(machine, {number: number % players for number in range(len(devices))})
    programmes: list[dict[int, object]] = []
    for _ in range(random.randint(1, 5)):
        ops, unreleased = plan(at, 12)
        if not accepted(engine, ops):
            continue
        cutter.submit(ops, labels([(4, 0, random.randrange(len(devices))) for _ in range(len(ops))]), NO)
        at.next_serial, at.next_take, at.unreleased = at.next_serial + len(ops), at.next_take + ops.takes, unreleased
        engine.run([random.randrange(at.next_serial)])
        programmes.append(dict(cutter.cut(engine.spans(), engine.occupancy(), {})))
    engine.run()
    programmes.append(dict(cutter.cut(engine.spans(), engine.occupancy(), {})))
    return engine, cutter, programmes


def accepted(engine: SpecEngine, ops: Ops) -> bool:
    from emulation.errors import PlanError

    try:
        engine.submit(ops)
    except PlanError:
        return False
    return True


@pytest.mark.parametrize("seed", range(150))
def test_random_plans_played_on_time_give_the_engines_times_and_late_ones_share_no_lane(seed: int) -> None:
    from emulation.errors import DeadlockError

    random = Random(seed)
    try:
        engine, cutter, programmes = cut_plans(random, 3)
    except DeadlockError:
        return
    played, spans = cutter.played, engine.spans()
    late = Ensemble(3, lambda _: random.choice([0, 0, 1, 7, 200]), word_ns=3)
    on_time = Ensemble(3)
    for ensemble in (on_time, late):
        for programme in programmes:
            ensemble.add(programme)  # type: ignore[arg-type]
        ensemble.run()
        assert len(ensemble.times()) == len(played) >= len(spans.start_ps)
    assert on_time.times() == {p.number: (p.start_ps, p.start_ps + p.length_ps) for p in played.pieces}
    first, last = ({op: f(i for i, of in enumerate(played.op) if of == op) for op in played.op} for f in (min, max))
    assert [played.pieces[first[op]].start_ps for op in range(len(spans.start_ps))] == spans.start_ps.tolist()
    assert [p.start_ps + p.length_ps for p in (played.pieces[last[op]] for op in range(len(spans.end_ps)))
            ] == spans.end_ps.tolist()
    no_lane_is_held_twice(engine, cutter, late.times())


def no_lane_is_held_twice(engine: SpecEngine, cutter: Cutter, times: dict[int, tuple[int, int]]) -> None:
    """However late: a lane has no more pieces on it at once than servers."""
    piece_of = {(op, p.start_ps): p.number for p, op in zip(cutter.played.pieces, cutter.played.op, strict=True)}
    for number, lane in enumerate(engine.lanes):
        changes = []
        for of, op, from_ps, to_ps in zip(*(column.tolist() for column in engine.occupancy()), strict=True):
            if of == number and to_ps > from_ps:
                start = times[piece_of[op, from_ps]][0]
                changes += [(start, 1), (start + to_ps - from_ps, -1)]
        held = 0
        for _, change in sorted(changes):
            held += change
            assert held <= lane.servers


@pytest.mark.parametrize(("machine", "policy", "parameters"), [
    (gpu_and_units(2), "tensor_parallel", {}), (gpu_and_units(3, shared_link=True), "expert_parallel", {}),
    (gpu_and_units(2), "lru_prefetch", {"slots": 2}), (chiplets(), "expert_parallel", {}),
    (gpus(2, latency_ps=5), "expert_parallel", {}), (eager_host(), "lru", {"slots": 2})])
def test_every_start_of_a_run_is_explained_by_what_the_piece_waits_for(
        machine: Machine, policy: str, parameters: dict[str, object]) -> None:
    run = rig.scheduler(machine, model(moe_layers=3, experts=6, top_k=2), load_policy(policy, parameters),
                        rig.fast_engine())
    random = np.random.default_rng(7)
    layers = [[routing(random.permuted(np.tile(np.arange(6), (4, 1)), axis=1)[:, :2]) for _ in range(3)]
              for _ in range(3)]
    rig.drive(run, [(rig.step(i, 4, machine.homes), routed, routed) for i, routed in enumerate(layers)])
    cutter = Cutter(machine, {number: number for number, device in enumerate(machine.devices) if device.computes})
    for batch, what in zip(run.batches, run.labels, strict=True):
        cutter.submit(batch.ops, what, batch.after)
    cutter.cut(run.engine.spans(), run.engine.occupancy(), {})
    played = cutter.played
    assert len(set(played.op)) == run.engine.next_serial
    for piece in played.pieces:
        instants = [played.pieces[of].start_ps + offset for of, offset in (played.moments[m] for m in piece.waits)]
        assert max(instants, default=0) == piece.start_ps
