"""What is refused before it is dispatched, and what is told when nothing moves: each one sentence."""

import re
from dataclasses import replace

import numpy as np
import pytest

from emulation.engine.contract import check
from emulation.errors import CycleError, DeadlockError, PlanError
from emulation.ops import END, START, Edge, Lane, OpBuilder, Pool

LANES = [Lane("x"), Lane("s", in_order=True)]
POOLS = [Pool("p", 2)]


def refused(engine, plan, error=PlanError):
    made = engine(LANES, POOLS, "op {}".format)
    with pytest.raises(error) as refusal:
        made.submit(plan if hasattr(plan, "hold_ptr") else plan.build())
    assert made.next_serial == 0
    return str(refusal.value)


def a_plan(**columns):
    plan = OpBuilder()
    plan.op({0: 10}, takes=[(0, 1, 1)])
    plan.op({0: 10}, after=[0])
    plan.release(0, after=[1])
    return replace(plan.build(), **{name: np.array(column, np.int64) for name, column in columns.items()})


@pytest.mark.parametrize(("columns", "text"), [
    ({"hold_lane": [0, 2]}, "a plan names lane 2, but there are 2 so far"),
    ({"hold_lane": [-1, 0]}, "a plan names lane -1, but there are 2 so far"),
    ({"take_pool": [1]}, "a plan names pool 1, but there are 1 so far"),
    ({"wait_op": [2]}, "a plan names operation 2, but there are 2 so far"),
    ({"release_op": [-2]}, "a plan names operation -2, but there are 2 so far"),
    ({"release_take": [1]}, "a plan names take 1, but there are 1 so far"),
    ({"wait_edge": [2]}, "a plan names edge 2 of an operation: an edge is 0 or 1"),
    ({"release_edge": [-1]}, "a plan names edge -1 of an operation: an edge is 0 or 1"),
    ({"hold_ps": [10, -1]}, "a plan holds a negative duration: durations are whole picoseconds, zero or more"),
    ({"length_ps": [10, -1]}, "a plan holds a negative duration: durations are whole picoseconds, zero or more"),
    ({"quantum_ps": [-5, 0]}, "a plan holds a negative duration: durations are whole picoseconds, zero or more"),
    ({"length_ps": [10, 9]}, "op 1 is 9 ps long, but holds a lane for 10 ps: "
                             "an operation is as long as its longest hold, or longer"),
    ({"hold_ptr": [0, 0, 2]}, "op 1 names lane 'x' twice: an operation holds one server of a lane"),
    ({"take_needs": [3]}, "op 0 needs 3 and takes 1 of pool 'p', which holds 2 and of which it took 0 already: "
                          "it takes at most what it needs, and needs at most what is left"),
    ({"take_amount": [-1]}, "op 0 needs 1 and takes -1 of pool 'p', which holds 2 and of which it took 0 already: "
                            "it takes at most what it needs, and needs at most what is left"),
    ({"take_ptr": [0, 0, 1], "take_amount": [2]},
     "op 1 needs 1 and takes 2 of pool 'p', which holds 2 and of which it took 0 already: "
     "it takes at most what it needs, and needs at most what is left"),
])
def test_a_column_out_of_bounds_is_refused(engine, columns, text):
    assert refused(engine, a_plan(**columns)) == text


def test_takes_of_one_pool_that_exceed_it_together_are_refused(engine):
    plan = OpBuilder()
    plan.op(takes=[(0, 1, 1), (0, 2, 1)])
    assert refused(engine, plan) == (
        "op 0 needs 2 and takes 1 of pool 'p', which holds 2 and of which it took 1 already: "
        "it takes at most what it needs, and needs at most what is left")


def test_a_plan_built_for_another_moment_is_refused(engine):
    assert refused(engine, OpBuilder(3, 0)) == (
        "operations were built to start at serial 3 and take 0, but the engine is at 0 and 0: "
        "build them after the last submit")
    assert "at serial 0 and take 1, but" in refused(engine, OpBuilder(0, 1))


def test_a_take_is_released_once(engine):
    plan = OpBuilder()
    plan.op(takes=[(0, 1, 1)])
    plan.release(0, after=[])
    made = engine(LANES, POOLS)
    made.submit(plan.build())
    again = OpBuilder(1, 1)
    again.release(0, after=[0])
    with pytest.raises(PlanError, match=re.escape("take 0 is released twice: a take has one release")):
        made.submit(again.build())
    plan.release(0, after=[0])
    assert refused(engine, plan) == "take 0 is released twice: a take has one release"


def test_a_refused_plan_leaves_the_engine_as_it_was(engine):
    made = engine(LANES, POOLS)
    bad = OpBuilder()
    bad.op({1: 10}, takes=[(0, 1, 1)])
    bad.op({7: 10})
    with pytest.raises(PlanError):
        made.submit(bad.build())
    good = OpBuilder()
    good.op({1: 10})
    made.submit(good.build())
    made.run()
    assert made.spans().end_ps.tolist() == [10]


@pytest.mark.parametrize(("waits", "ring"), [
    ([[Edge(0, END)]], ["the start of op 0", "the end of op 0"]),
    ([[Edge(0, START)]], ["the start of op 0"]),
    ([[Edge(1, END)], [Edge(0, START)]], ["the start of op 0", "the end of op 1", "the start of op 1"]),
    ([[Edge(2, START)], [Edge(0, END)], [Edge(1, END)]],
     ["the start of op 0", "the start of op 2", "the end of op 1", "the start of op 1", "the end of op 0"]),
])
def test_a_cycle_is_refused_and_its_ring_named(engine, waits, ring):
    plan = OpBuilder()
    for edges in waits:
        plan.op(after=edges)
    text = refused(engine, plan, CycleError)
    prefix = "operations wait for each other: "
    assert text.startswith(prefix)
    names = text.removeprefix(prefix).split(" waits for ")
    assert names[0] == names[-1]
    at = ring.index(names[0])
    assert names[:-1] == ring[at:] + ring[:at]


def test_the_order_of_a_lane_closes_a_cycle(engine):
    # head waits for the one behind it, which may not start before the head has
    plan = OpBuilder()
    plan.op({1: 10}, after=[Edge(1, START)])
    plan.op({1: 10})
    assert "the start of op 0 waits for the start of op 1" in refused(engine, plan, CycleError)
    other = OpBuilder()
    other.op({0: 10}, after=[Edge(1, START)])
    other.op({0: 10})
    made = engine(LANES, POOLS)
    made.submit(other.build())
    made.run()
    assert made.spans().start_ps.tolist() == [10, 0]


def test_a_ring_through_a_third_operation_of_the_lane_is_found(engine):
    plan = OpBuilder()
    plan.op({1: 10}, after=[Edge(2, END)])
    plan.op({1: 10})
    plan.op({1: 10})
    assert "waits for" in refused(engine, plan, CycleError)


def test_waits_for_later_operations_are_fine_without_a_ring(engine):
    made = engine(LANES, POOLS)
    plan = OpBuilder()
    plan.op({0: 5}, after=[Edge(2, END)])
    plan.op({1: 5}, after=[Edge(0, END)])
    plan.op({0: 5})
    made.submit(plan.build())
    made.run()
    assert made.spans().start_ps.tolist() == [5, 10, 0]


def test_a_cycle_is_looked_for_in_serials_of_later_plans(engine):
    made = engine(LANES, POOLS)
    first = OpBuilder()
    first.op({1: 10})
    made.submit(first.build())
    second = OpBuilder(1)
    second.op(after=[Edge(0), Edge(2)])
    second.op(after=[Edge(0), Edge(1)])
    with pytest.raises(CycleError, match=r"operations wait for each other: .*op 2"):
        made.submit(second.build())


def stuck(b, *until):
    with pytest.raises(DeadlockError) as told:
        b.run(*until)
    return str(told.value)


def test_a_deadlock_tells_op_pool_and_holder(board):
    b = board([], {"p": 2})
    b.op("holder", length_ps=5, takes=[("p", 1, 1)])
    b.op("other", length_ps=5, takes=[("p", 1, 1)])
    b.op("waits", takes=[("p", 1, 1)])
    b.op("decision", after=["waits"])
    text = "nothing is in flight and nothing can start: decision waits for the end of waits; waits waits for 1 free " \
           "of pool 'p' (0 of 2 are free; held by holder, other, which no plan releases)"
    assert stuck(b, "decision") == text
    assert stuck(b) == text.replace("decision waits for the end of waits; ", "")


def test_a_deadlock_follows_the_holder_that_will_give_back_until_the_ring_closes(board):
    b = board([], {"p": 2, "q": 1})
    b.op("keeps", takes=[("p", 1, 1)])
    b.op("holds_p", takes=[("p", 1, 1)])
    b.op("holds_q", takes=[("q", 1, 1)])
    b.op("wants_q", takes=[("q", 1, 1)])
    b.op("wants_p", takes=[("p", 1, 1)])
    b.release("holds_p", after=["wants_q:start"])
    b.release("holds_q", after=["wants_p"])
    assert stuck(b, "wants_p") == (
        "nothing is in flight and nothing can start: wants_p waits for 1 free of pool 'p' (0 of 2 are free; held by "
        "keeps, holds_p, until the start of wants_q); wants_q waits for 1 free of pool 'q' (0 of 1 are free; held by "
        "holds_q, until the end of wants_p)")


def test_a_deadlock_tells_the_lane_and_its_head(board):
    b = board([Lane("stream", in_order=True)], {"p": 1})
    b.op("holder", takes=[("p", 1, 1)])
    b.op("head", {"stream": 10}, takes=[("p", 1, 1)])
    b.op("behind", {"stream": 10})
    assert stuck(b, "behind") == (
        "nothing is in flight and nothing can start: behind waits for its turn in lane 'stream', whose head is head; "
        "head waits for 1 free of pool 'p' (0 of 1 are free; held by holder, which no plan releases)")


def test_a_deadlock_counts_the_takes_of_one_pool_together(board):
    b = board([], {"p": 2})
    b.op("holder", takes=[("p", 1, 1)])
    b.op("two", takes=[("p", 1, 1), ("p", 1, 1)])
    assert stuck(b) == ("nothing is in flight and nothing can start: two waits for 2 free of pool 'p' "
                        "(1 of 2 are free; held by holder, which no plan releases)")


def test_a_deadlock_ends_where_the_watched_operation_is_the_lowest_serial(board):
    b = board([], {"p": 1})
    b.op("holder", takes=[("p", 1, 1)])
    b.op("first", takes=[("p", 1, 1)])
    b.op("second", after=["first"])
    assert stuck(b, "second", "first").startswith("nothing is in flight and nothing can start: first waits for 1 free")


def test_a_take_of_nothing_only_looks(board):
    b = board([], {"p": 1})
    b.op("looks", takes=[("p", 1, 0)])
    b.op("looks_too", takes=[("p", 1, 0)])
    b.run()
    assert b.times() == {"looks": (0, 0), "looks_too": (0, 0)}


def test_a_take_handle_is_of_this_builder_and_of_that_operation():
    plan = OpBuilder(5, 3)
    op = plan.op(takes=[(0, 1, 1)])
    bare = plan.op()
    assert plan.take_handle(op) == 3
    for other, text in ((4, "operation 4 is none of this builder's (5 to 6)"), (7, "operation 7 is none of"),
                        (bare, "operation 6 has 0 takes, and none with index 0")):
        with pytest.raises(IndexError, match=re.escape(text)):
            plan.take_handle(other)
    for index in (1, -1):
        with pytest.raises(IndexError, match=f"has 1 takes, and none with index {index}"):
            plan.take_handle(op, index)


def test_a_lane_has_a_server_and_a_pool_no_negative_capacity():
    with pytest.raises(ValueError, match="lane 'x' has 0 servers: it needs at least one"):
        Lane("x", servers=0)
    with pytest.raises(ValueError, match="pool 'p' has a capacity of -1: it is zero or more"):
        Pool("p", -1)
    assert Pool("empty", 0).capacity == 0


def test_check_names_operations_as_the_caller_does():
    plan = OpBuilder(10, 4)
    plan.op({0: 1}, after=[Edge(10)])
    with pytest.raises(CycleError, match="the end of load of expert 10 waits for the start of load of expert 10"):
        check(plan.build(), LANES, POOLS, 10, 4, lambda _: False, "load of expert {}".format)


def test_a_lane_named_twice_is_told_apart_from_lanes_named_once(engine):
    plan = OpBuilder()
    plan.op({0: 1, 1: 1})
    plan.op({0: 1, 1: 1})
    plan.op({0: 1})
    twice = replace(plan.build(), hold_lane=np.array([0, 1, 1, 1, 0], np.int64))
    assert refused(engine, twice) == "op 1 names lane 's' twice: an operation holds one server of a lane"
    made = engine(LANES, POOLS)
    made.submit(plan.build())
    made.run()
    assert made.spans().start_ps.tolist() == [0, 1, 2]


def test_a_deadlock_tells_a_ring_that_does_not_come_back_to_its_first(board):
    b = board([], {"p": 1, "q": 1})
    b.op("outside", length_ps=5)
    b.op("holds_p", length_ps=5, takes=[("p", 1, 1)])
    b.op("holds_q", length_ps=5, takes=[("q", 1, 1)])
    b.op("wants_q", takes=[("q", 1, 1)])
    b.op("wants_p", takes=[("p", 1, 1)])
    b.op("last", after=["outside:start", "wants_p"])
    b.release("holds_p", after=["wants_q:start"])
    b.release("holds_q", after=["wants_p:start"])
    assert stuck(b, "last") == (
        "nothing is in flight and nothing can start: last waits for the end of wants_p; wants_p waits for 1 free of "
        "pool 'p' (0 of 1 are free; held by holds_p, until the start of wants_q); wants_q waits for 1 free of pool 'q' "
        "(0 of 1 are free; held by holds_q, until the start of wants_p)")
