"""Plans arrive one by one: where the engine stops, and what work submitted then competes with."""

import pytest

from emulation.errors import PlanError
from emulation.ops import PREFETCH, Edge, OpBuilder


def test_run_stops_after_ends_and_releases_and_before_starts(board):
    # At 10 the router ends. The prefetch is ready since 0, and a demand submitted at the stop still goes first.
    b = board(["x"], {"p": 1})
    b.op("router", {"x": 10}, takes=[("p", 1, 1)])
    b.op("prefetch", {"x": 50}, priority=PREFETCH)
    b.release("router", after=["router"])
    assert b.run("router") == ["router"]
    assert (b.engine.now_ps, b.engine.free(0)) == (10, 1)
    assert b.times()["prefetch"] == (-1, -1)
    b.op("demand", {"x": 5}, after=["router"])
    b.run()
    assert b.times() == {"router": (0, 10), "prefetch": (15, 65), "demand": (10, 15)}


def test_run_returns_all_that_ended_in_the_instant_in_order_of_serial(board):
    b = board(["x", "y"])
    for name, lane, ps in (("a", "x", 10), ("b", "y", 10), ("c", "x", 10)):
        b.op(name, {lane: ps})
    assert b.run("c", "b", "a") == ["a", "b"]
    assert b.engine.now_ps == 10
    assert b.engine.run([b.serial["c"]]) == (2,)
    assert b.engine.now_ps == 20


def test_run_until_what_has_ended_returns_at_once(board):
    b = board(["x"])
    b.op("a", {"x": 10})
    b.op("b", {"x": 10})
    assert b.run("a") == ["a"]
    assert b.engine.run([0, 1]) == (0,)
    assert b.engine.now_ps == 10
    assert b.times()["b"] == (-1, -1)


def test_run_without_until_runs_dry_and_returns_nothing(board):
    b = board(["x"])
    assert b.run() == []
    b.op("a", {"x": 10})
    assert b.run() == []
    assert b.engine.now_ps == 10
    assert b.run() == []


@pytest.mark.parametrize("serial", [-1, 1])
def test_run_until_an_unknown_operation_is_refused(board, serial):
    b = board(["x"])
    b.op("a", {"x": 10})
    b.submit()
    with pytest.raises(PlanError, match=f"cannot run until operation {serial}: only 1 were submitted"):
        b.engine.run([serial])


def test_what_is_in_flight_stays_in_flight(board):
    b = board(["link", "gpu"])
    b.op("prefetch", {"link": 100}, priority=PREFETCH, quantum_ps=20)
    b.op("router", {"gpu": 30})
    b.run("router")
    b.op("demand", {"link": 5})
    b.op("next_router", {"gpu": 40})
    b.run("next_router")
    assert b.times() == {"prefetch": (0, -1), "router": (0, 30), "demand": (40, 45), "next_router": (30, 70)}
    b.run()
    assert b.times()["prefetch"] == (0, 105)


def test_waits_across_plans_for_edges_past_present_and_to_come(board):
    b = board(["x", "y"])
    b.op("past", {"x": 10})
    b.op("running", {"y": 30})
    b.op("to_come", {"y": 10})
    b.run("past")
    b.op("after_past", after=["past:start", "past"])
    b.op("after_start", after=["running:start"])
    b.op("after_running", after=["running"])
    b.op("after_to_come", after=["to_come:start"])
    b.op("after_all", after=["past", "running", "to_come"])
    b.run()
    starts = {name: start for name, (start, _) in b.times().items() if name.startswith("after_")}
    assert starts == {"after_past": 10, "after_start": 10, "after_running": 30, "after_to_come": 30, "after_all": 40}


def test_ready_time_is_when_the_last_edge_happened_or_when_it_was_submitted(board):
    # busy until 20; `early` is ready at 5, `late` at 8 with a lower serial; `given` is submitted at 10
    b = board(["x"])
    b.op("at5", length_ps=5)
    b.op("at8", length_ps=8)
    b.op("at10", length_ps=10)
    b.op("busy", {"x": 20})
    b.op("late", {"x": 1}, after=["at5", "at8"])
    b.op("early", {"x": 1}, after=["at5"])
    b.op("at10_too", {"x": 1}, after=["at10"])
    b.run("at10")
    b.op("given", {"x": 1}, after=["at5"])
    b.run()
    assert [b.times()[name][0] for name in ("early", "late", "at10_too", "given")] == [20, 21, 22, 23]


def test_advance_stops_before_the_starts_of_its_instant(board):
    b = board(["x"])
    b.op("a", {"x": 10})
    b.op("b", {"x": 10})
    b.submit()
    b.engine.advance(0)
    assert b.times() == {"a": (-1, -1), "b": (-1, -1)}
    b.engine.advance(4)
    assert (b.engine.now_ps, b.times()) == (4, {"a": (0, -1), "b": (-1, -1)})
    b.engine.advance(10)
    assert (b.engine.now_ps, b.times()) == (10, {"a": (0, 10), "b": (-1, -1)})
    b.engine.advance(10)
    assert b.times()["b"] == (-1, -1)
    b.op("arrived", {"x": 10}, priority=-1)
    b.run()
    assert b.times() == {"a": (0, 10), "b": (20, 30), "arrived": (10, 20)}


def test_advance_gives_back_what_ends_then(board):
    b = board([], {"p": 1})
    b.op("a", length_ps=10, takes=[("p", 1, 1)])
    b.release("a", after=["a"])
    b.submit()
    b.engine.advance(10)
    assert b.engine.free(0) == 1


def test_advance_passes_idle_time_and_several_instants(board):
    b = board(["x"])
    b.engine.advance(100)
    b.op("a", {"x": 10})
    b.op("b", {"x": 10})
    b.submit()
    b.engine.advance(500)
    assert (b.engine.now_ps, b.times()) == (500, {"a": (100, 110), "b": (110, 120)})


def test_time_does_not_go_back(board):
    b = board(["x"])
    b.engine.advance(10)
    with pytest.raises(ValueError, match="cannot advance to 9 ps: it is 10 ps already"):
        b.engine.advance(9)


def test_operations_submitted_later_start_now_at_the_earliest(board):
    b = board(["x"])
    b.op("a", length_ps=10)
    b.run("a")
    b.op("b", {"x": 5})
    b.run()
    assert b.times()["b"] == (10, 15)


def test_an_empty_plan_changes_nothing(board):
    b = board(["x"])
    b.op("a", {"x": 5})
    b.submit()
    b.submit()
    assert (b.engine.next_serial, b.engine.next_take) == (1, 0)
    b.run()
    assert b.times() == {"a": (0, 5)}


def test_serials_and_takes_are_handed_out_globally(board):
    b = board([], {"p": 3})
    b.op("a", takes=[("p", 1, 1)])
    b.submit()
    assert (b.engine.next_serial, b.engine.next_take) == (1, 1)
    plan = OpBuilder(b.engine.next_serial, b.engine.next_take)
    op = plan.op(after=[Edge(0)], takes=[(0, 1, 1), (0, 1, 1)])
    assert (op, plan.take_handle(op), plan.take_handle(op, 1)) == (1, 1, 2)
    b.engine.submit(plan.build())
    assert (b.engine.next_serial, b.engine.next_take) == (2, 3)


def test_a_void_event_does_not_part_the_ends_of_an_instant(board):
    # At 20: first ends, the end that prefetch would have had is void (it stopped at 10), decision ends; then stop.
    b = board(["x", "y", "z"])
    b.op("first", {"y": 20})
    b.op("prefetch", {"x": 20}, priority=PREFETCH, quantum_ps=10)
    b.op("decision", {"z": 20})
    b.op("queued", {"y": 5}, priority=PREFETCH)
    b.op("at5", length_ps=5)
    b.op("demand", {"x": 30}, after=["at5"])
    assert b.run("decision") == ["decision"]
    assert b.times() == {"first": (0, 20), "prefetch": (0, -1), "decision": (0, 20), "queued": (-1, -1),
                         "at5": (0, 5), "demand": (10, -1)}
