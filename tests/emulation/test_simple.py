"""Simple plans, run to their end in one call, are those of the specification; all others are declined."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from emulation.engine.contract import Engine
from emulation.engine.spec import SpecEngine
from emulation.ops import START, Edge, Lane, OpBuilder, Ops, Pool
from tests.emulation.random_plans import flat, seen
from tests.emulation.simple_plans import Machine, aside, compare, machine

pytest.importorskip("numba")

from emulation.engine.compiled import CompiledEngine
from emulation.engine.simple import AT_LEAST, SimplePlan


def test_simple_plans_are_those_of_the_specification() -> None:
    ran = [compare(SimplePlan, seed, 80)[1] for seed in range(100)]
    assert ran.count(True) > 90


@pytest.mark.soak
def test_thousands_of_simple_plans_are_those_of_the_specification() -> None:
    ran = [compare(SimplePlan, seed, 200) for seed in range(10_000, 12_000)]
    assert sum(ops for ops, whole in ran if whole) > 100_000


@pytest.mark.parametrize("lanes", [40, 300])
def test_many_that_start_and_end_at_once(lanes: int) -> None:
    """More come up in a pass than are looked through one by one, and more run than have one root."""
    at = machine(Random(lanes), lanes)
    build = OpBuilder()
    for i in range(4 * lanes):
        build.op({lane % lanes: 10 for lane in ([i, i + 1] if i % 3 else [i])}, priority=i % 5,
                 after=[i - lanes] if i >= lanes else [])
    ops = build.build()
    plan, spec = aside(SimplePlan, ops, at), SpecEngine(*at)
    spec.submit(ops)
    spec.run()
    assert plan is not None
    assert plan.run(0)
    assert flat(plan.spans()) == flat(spec.spans())


def made(**one: object) -> Ops:
    """AT_LEAST operations, one lane after the other; the last but one is different, and that is waited for."""
    build = OpBuilder()
    for i in range(AT_LEAST - 2):
        op = build.op({i % 3: 10 + i % 7}, after=[i - 2] if i > 1 else [], priority=i % 2, takes=[(0, 2, 1)])
        build.release(build.take_handle(op), after=[op])
    build.op(**{"holds": {0: 10}, "length_ps": 10, **one})  # type: ignore[arg-type]
    build.op({1: 5}, after=[AT_LEAST - 2])
    return build.build()


LANES, POOLS = [Lane("a"), Lane("b", 2), Lane("c"), Lane("stream", in_order=True)], [Pool("slots", 3)]


def run_both(ops: Ops) -> list[Engine]:
    engines: list[Engine] = [SpecEngine(LANES, POOLS), CompiledEngine(LANES, POOLS)]
    for engine in engines:
        engine.submit(ops)
        engine.run()
    assert seen(engines[0]) == seen(engines[1])
    return engines


@pytest.mark.parametrize(("simple", "one"), [
    (True, {}), (False, {"quantum_ps": 3}), (False, {"holds": {0: 4}}), (False, {"holds": {}}),
    (False, {"holds": {3: 10}}), (False, {"after": [Edge(3, START)]}), (False, {"takes": [(0, 1, 1)]}),
    (False, {"length_ps": 1 << 60, "holds": {0: 1 << 60}})])
def test_what_is_not_simple_is_declined_and_runs_all_the_same(simple: bool, one: dict[str, object]) -> None:
    ops = made(**one)
    assert (aside(SimplePlan, ops, (LANES, POOLS)) is not None) is simple
    run_both(ops)


def test_a_run_goes_on_after_a_simple_plan() -> None:
    """Later plans name what has ended; what was taken is free again; it is retired like any other."""
    engines = run_both(made())
    for engine in engines:
        build = OpBuilder(engine.next_serial, engine.next_take)
        build.op({0: 8, 2: 3}, after=[5, AT_LEAST - 1], quantum_ps=2, takes=[(0, 3, 3)])
        engine.submit(build.build())
        engine.advance(engine.now_ps + 1)
    assert seen(engines[0]) == seen(engines[1])
    retired = [engine.retire() for engine in engines]
    assert [flat(each) for each in retired[0][1:]] == [flat(each) for each in retired[1][1:]]
    for engine in engines:
        assert engine.run([3, AT_LEAST]) == (3,)
        engine.run()
    assert seen(engines[0]) == seen(engines[1])


@pytest.mark.parametrize("step", ["advance", "until", "submit", "resize", "retire", "backlog"])
def test_a_simple_plan_that_is_not_run_to_its_end_is_run_like_any_other(step: str) -> None:
    engines: list[Engine] = [SpecEngine(LANES, POOLS), CompiledEngine(LANES, POOLS)]
    for engine in engines:
        engine.submit(made())
    assert seen(engines[0])["next"] == seen(engines[1])["next"]
    for engine in engines:
        if step == "advance":
            engine.advance(100)
        elif step == "until":
            engine.run([40])
        elif step == "submit":
            engine.submit(replace(made(), first=AT_LEAST, first_take=engine.next_take, **later(engine)))
        elif step == "resize":
            engine.resize({0: 2})
        elif step == "retire":
            engine.retire()
        else:
            engine.backlog_ps(1)
    assert seen(engines[0]) == seen(engines[1])
    for engine in engines:
        engine.run()
    assert seen(engines[0]) == seen(engines[1])


def later(engine: Engine) -> dict[str, np.ndarray]:
    ops = made()
    return {"wait_op": ops.wait_op + engine.next_serial, "release_op": ops.release_op + engine.next_serial,
            "release_take": ops.release_take + engine.next_take}


def test_queues_far_from_their_order_are_left_to_heaps() -> None:
    """Pools that are always short: who waits for them comes up again and again, behind those who came later."""
    at: Machine = ([Lane("a", 4), Lane("b")], [Pool("slots", 1), Pool("others", 1)])
    build = OpBuilder()
    for i in range(600):
        op = build.op(dict.fromkeys([0] if i % 2 else [0, 1], 1 + i % 13), takes=[(i % 2, 1, 1)], priority=i % 3)
        build.release(build.take_handle(op), after=[op])
    ops = build.build()
    plan = aside(SimplePlan, ops, at)
    assert not plan.run(0)
    engines = [CompiledEngine(*at) for _ in range(2)]
    for engine in engines:
        engine.submit(ops)
    engines[1].advance(0)
    for engine in engines:
        engine.run()
    assert seen(engines[0]) == seen(engines[1])
