"""Who goes first, who makes way, and when."""

import pytest

from emulation.ops import PREFETCH, Lane


def held(b, name):
    """(lane, from, to) of every stretch in which an operation held a lane, by time."""
    names = list(b.lane)
    rows = zip(*(column.tolist() for column in b.engine.occupancy()), strict=True)
    return sorted(((names[lane], since, to) for lane, op, since, to in rows if op == b.serial[name]),
                  key=lambda row: row[1:])


def at(b, ps):
    """The name of an edge `ps` picoseconds after time 0."""
    if f"at{ps}" not in b.serial:
        b.op(f"at{ps}", length_ps=ps)
    return f"at{ps}"


def test_candidates_go_by_priority_then_ready_time_then_serial(board):
    b = board(["x"])
    b.op("busy", {"x": 10})
    b.op("prefetch", {"x": 1}, priority=PREFETCH)
    b.op("ready5", {"x": 1}, after=[at(b, 5)])
    b.op("ready3", {"x": 1}, after=[at(b, 3)])
    b.op("ready3_later_serial", {"x": 1}, after=[at(b, 3)])
    b.run()
    assert sorted(["prefetch", "ready5", "ready3", "ready3_later_serial"], key=lambda name: b.times()[name]) == [
        "ready3", "ready3_later_serial", "ready5", "prefetch"]


def test_a_blocked_candidate_is_passed_over_and_reserves_nothing(board):
    b = board(["x", "y"])
    b.op("busy", {"x": 10})
    b.op("both", {"x": 5, "y": 5})
    b.op("later", {"y": 20})
    b.run()
    assert b.times() == {"busy": (0, 10), "both": (20, 25), "later": (0, 20)}


def test_what_a_start_makes_ready_is_a_candidate_of_the_next_pass(board):
    b = board(["x", "y"])
    b.op("first", {"x": 10})
    b.op("urgent", {"y": 10}, after=["first:start"])
    b.op("idle", {"y": 10}, priority=PREFETCH)
    b.run()
    assert b.times() == {"first": (0, 10), "urgent": (10, 20), "idle": (0, 10)}


def test_demand_goes_before_a_prefetch_of_the_same_instant(board):
    b = board(["link"])
    b.op("prefetch", {"link": 100}, priority=PREFETCH, quantum_ps=30)
    b.op("demand", {"link": 10})
    b.run()
    assert b.times() == {"prefetch": (10, 110), "demand": (0, 10)}


@pytest.mark.parametrize(("ready_ps", "start_ps"),
                         [(1, 30), (29, 30), (30, 30), (31, 60), (60, 60), (61, 90), (90, 90)])
def test_demand_overtakes_a_prefetch_at_the_quantum_and_not_before(board, ready_ps, start_ps):
    # link |prefetch 0 .. start|demand 10|rest of prefetch until 110|
    b = board(["link"])
    b.op("prefetch", {"link": 100}, priority=PREFETCH, quantum_ps=30)
    b.op("demand", {"link": 10}, after=[at(b, ready_ps)])
    b.run()
    assert b.times()["demand"] == (start_ps, start_ps + 10)
    assert b.times()["prefetch"] == (0, 110)
    assert held(b, "prefetch") == [("link", 0, start_ps), ("link", start_ps + 10, 110)]


@pytest.mark.parametrize("ready_ps", [91, 99, 100])
def test_the_last_part_of_a_quantum_ends_with_the_work(board, ready_ps):
    b = board(["link"])
    b.op("prefetch", {"link": 100}, priority=PREFETCH, quantum_ps=30)
    b.op("demand", {"link": 10}, after=[at(b, ready_ps)])
    b.run()
    assert b.times()["demand"] == (100, 110)
    assert held(b, "prefetch") == [("link", 0, 100)]
    assert b.engine.now_ps == 110  # and not the boundary at 120, which nobody needs


def test_quanta_are_counted_from_where_the_rest_was_set_going(board):
    # link |prefetch 0-30|d1 30-40|prefetch 40-70|d2 70-80|prefetch 80-120|
    b = board(["link"])
    b.op("prefetch", {"link": 100}, priority=PREFETCH, quantum_ps=30)
    b.op("d1", {"link": 10}, after=[at(b, 10)])
    b.op("d2", {"link": 10}, after=[at(b, 45)])
    b.run()
    assert b.times()["d2"] == (70, 80)
    assert held(b, "prefetch") == [("link", 0, 30), ("link", 40, 70), ("link", 80, 120)]


def test_work_of_the_same_priority_or_without_a_quantum_is_not_overtaken(board):
    b = board(["x", "y"])
    b.op("prefetch", {"x": 100}, priority=PREFETCH, quantum_ps=10)
    b.op("equal", {"x": 5}, priority=PREFETCH, after=[at(b, 5)])
    b.op("whole", {"y": 100}, priority=PREFETCH)
    b.op("demand", {"y": 5}, after=[at(b, 5)])
    b.run()
    assert b.times()["equal"] == (100, 105)
    assert b.times()["demand"] == (100, 105)


def test_the_rest_keeps_its_place_before_what_came_later(board):
    # link |first 0-20|demand 20-30|first 30-70|second 70-90|
    b = board(["link"])
    b.op("first", {"link": 60}, priority=PREFETCH, quantum_ps=20)
    b.op("second", {"link": 20}, priority=PREFETCH, quantum_ps=20)
    b.op("demand", {"link": 10}, after=[at(b, 5)])
    b.run()
    assert {name: b.times()[name] for name in ("first", "second", "demand")} == {
        "first": (0, 70), "second": (70, 90), "demand": (20, 30)}


def two_victims(b):
    b.op("p", {"x": 100}, priority=PREFETCH, quantum_ps=10)
    b.op("r", {"y": 100}, priority=PREFETCH, quantum_ps=25)
    b.op("demand", {"x": 7, "y": 7}, after=[at(b, 5)])


def test_victims_with_different_boundaries_stop_one_by_one_for_the_claim(board):
    # x |p 0-10|  kept for demand  |demand 25-32|p 32-122|queued 122-132|
    # y |r 0 .................... 25|demand 25-32|r 32-107|
    # `queued` and the rest of p are weaker than demand, so neither gets x between 10 and 25: without the claim
    # p would be set going again at 10, and the demand would wait for a common boundary.
    b = board(["x", "y"])
    two_victims(b)
    b.op("queued", {"x": 10}, priority=PREFETCH)
    b.run()
    assert b.times()["demand"] == (25, 32)
    assert held(b, "p") == [("x", 0, 10), ("x", 32, 122)]
    assert held(b, "r") == [("y", 0, 25), ("y", 32, 107)]
    assert b.times()["queued"] == (122, 132)


def test_a_claim_does_not_hold_back_work_of_its_own_priority(board):
    b = board(["x", "y"])
    two_victims(b)
    b.op("equal", {"x": 10}, after=[at(b, 12)])
    b.run()
    assert b.times()["equal"] == (12, 22)
    assert b.times()["demand"] == (25, 32)


def test_nobody_stops_for_a_candidate_that_could_not_start_then(board):
    # x |p 0-10|  |equal 12 ......... 32|  kept  |demand 50-57|p 57-147|
    # y |r 0 ................................. 50|demand 50-57|r 57-107|
    # At 25 r stands at a boundary, but x is held by work that makes no way: r runs on to its next one.
    b = board(["x", "y"])
    two_victims(b)
    b.op("equal", {"x": 20}, after=[at(b, 12)])
    b.run()
    assert b.times()["equal"] == (12, 32)
    assert b.times()["demand"] == (50, 57)
    assert held(b, "p") == [("x", 0, 10), ("x", 57, 147)]
    assert held(b, "r") == [("y", 0, 50), ("y", 57, 107)]


def test_nobody_stops_for_a_candidate_that_got_another_server(board):
    b = board([Lane("x", servers=2)])
    b.op("prefetch", {"x": 100}, priority=PREFETCH, quantum_ps=20)
    b.op("short", {"x": 10})
    b.op("demand", {"x": 30}, after=[at(b, 5)])
    b.run()
    assert b.times()["demand"] == (10, 40)
    assert held(b, "prefetch") == [("x", 0, 100)]


@pytest.mark.parametrize(("a", "b_", "stops"), [
    ({"quantum_ps": 30, "priority": 10}, {"quantum_ps": 20, "priority": 10}, "b"),  # the first boundary
    ({"quantum_ps": 20, "priority": 20}, {"quantum_ps": 20, "priority": 10}, "a"),  # then the weaker
    ({"quantum_ps": 20, "priority": 10}, {"quantum_ps": 20, "priority": 10}, "b"),  # then the later serial
])
def test_which_of_two_holders_makes_way(board, a, b_, stops):
    b = board([Lane("x", servers=2)])
    b.op("a", {"x": 100}, **a)
    b.op("b", {"x": 100}, **b_)
    b.op("demand", {"x": 5}, after=[at(b, 5)])
    b.run()
    assert b.times()["demand"] == (20, 25)
    assert {name: len(held(b, name)) for name in "ab"} == {"a": 1 + (stops == "a"), "b": 1 + (stops == "b")}


def test_a_holder_that_ends_before_the_next_boundary_is_waited_for(board):
    b = board([Lane("x", servers=2)])
    b.op("ends", {"x": 18}, priority=PREFETCH, quantum_ps=30)
    b.op("goes_on", {"x": 100}, priority=PREFETCH, quantum_ps=20)
    b.op("demand", {"x": 5}, after=[at(b, 5)])
    b.run()
    assert b.times()["demand"] == (18, 23)
    assert held(b, "goes_on") == [("x", 0, 100)]


def test_a_stop_leaves_all_lanes_and_each_hold_keeps_its_rest(board):
    # fast |load 0-10|                        |
    # slow |load 0 .. 15|demand 15-20|load 20-45|
    b = board(["fast", "slow"])
    b.op("load", {"fast": 10, "slow": 40}, priority=PREFETCH, quantum_ps=15)
    b.op("demand", {"slow": 5}, after=[at(b, 5)])
    b.run()
    assert held(b, "load") == [("fast", 0, 10), ("slow", 0, 15), ("slow", 20, 45)]
    assert b.times()["load"] == (0, 45)


def test_a_stop_frees_lanes_that_the_demand_does_not_want(board):
    # x |load 0-10|demand 10-15|load 15-45|      y |load 0-10|other 10-15|load 15-45|
    b = board(["x", "y"])
    b.op("load", {"x": 40, "y": 40}, priority=PREFETCH, quantum_ps=10)
    b.op("other", {"y": 5}, priority=PREFETCH + 1)
    b.op("demand", {"x": 5}, after=[at(b, 5)])
    b.run()
    assert b.times()["other"] == (10, 15)
    assert b.times()["load"] == (0, 45)


def test_a_fast_hold_that_ends_first_is_waited_for_and_the_slow_one_runs_on(board):
    b = board(["fast", "slow"])
    b.op("load", {"fast": 20, "slow": 100}, priority=PREFETCH, quantum_ps=15)
    b.op("demand", {"fast": 5}, after=[at(b, 16)])
    b.run()
    assert b.times()["demand"] == (20, 25)
    assert held(b, "load") == [("fast", 0, 20), ("slow", 0, 100)]


def test_a_stop_moves_the_end_of_a_link_with_latency_by_its_length(board):
    # link |load 0-20|demand 20-25|load 25-45|  latency 10: ends at 55
    b = board(["link"])
    b.op("load", {"link": 40}, length_ps=50, priority=PREFETCH, quantum_ps=20)
    b.op("demand", {"link": 5}, after=[at(b, 5)])
    b.run()
    assert b.times()["load"] == (0, 55)


def test_three_priorities_stop_each_other(board):
    # x |low 0-10|mid 10-20|high 20-25|mid 25-45|low 45-75|
    b = board(["x"])
    b.op("low", {"x": 40}, priority=20, quantum_ps=10)
    b.op("mid", {"x": 30}, priority=10, quantum_ps=10, after=[at(b, 5)])
    b.op("high", {"x": 5}, priority=0, after=[at(b, 15)])
    b.run()
    assert held(b, "low") == [("x", 0, 10), ("x", 45, 75)]
    assert held(b, "mid") == [("x", 10, 20), ("x", 25, 45)]
    assert b.times()["high"] == (20, 25)


def test_the_stronger_claim_holds_back_the_weaker_one(board):
    # high wants x and y, mid wants y and z, each held by a prefetch; y's stops at 10 for high, and stays kept.
    # x |px 0 ............... 30|high 30-35|px|
    # y |py 0-10|     kept      |high 30-35|mid 35-40|py
    # z |pz 0 ......................... 35|mid 35-40|pz        pz (boundaries 7, 14 ..) stops for mid at 35
    b = board(["x", "y", "z"])
    for name, quantum_ps in (("x", 30), ("y", 10), ("z", 7)):
        b.op(f"p{name}", {name: 100}, priority=20, quantum_ps=quantum_ps)
    b.op("high", {"x": 5, "y": 5}, after=[at(b, 5)])
    b.op("mid", {"y": 5, "z": 5}, priority=10, after=[at(b, 5)])
    b.run()
    assert b.times()["high"] == (30, 35)
    assert b.times()["mid"] == (35, 40)
    assert held(b, "pz") == [("z", 0, 35), ("z", 40, 105)]


def test_a_prefetch_set_going_in_this_instant_runs_for_a_quantum(board):
    # demand becomes ready in the pass after the one that started the prefetch, at the same instant
    b = board(["link", "gpu"])
    b.op("prefetch", {"link": 100}, priority=PREFETCH, quantum_ps=30)
    b.op("kernel", {"gpu": 5})
    b.op("demand", {"link": 10}, after=["kernel:start"])
    b.run()
    assert b.times()["demand"] == (30, 40)
    assert held(b, "prefetch") == [("link", 0, 30), ("link", 40, 110)]
