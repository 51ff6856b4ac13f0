"""Lanes: servers, order, holds and lengths."""

import pytest

from emulation.ops import PREFETCH, Lane


def test_an_operation_holds_its_lanes_each_for_its_own_time(board):
    b = board(["x", "y"])
    b.op("first", {"x": 10, "y": 30})
    b.op("on_x", {"x": 5})
    b.op("on_y", {"y": 5})
    b.op("after", after=["first"])
    b.run()
    assert b.times() == {"first": (0, 30), "on_x": (10, 15), "on_y": (30, 35), "after": (30, 30)}


def test_an_operation_longer_than_its_holds_frees_the_lane_before_it_ends(board):
    b = board(["link"])
    b.op("send", {"link": 10}, length_ps=15)
    b.op("next", {"link": 10}, length_ps=15)
    b.op("receive", after=["send"])
    b.run()
    assert b.times() == {"send": (0, 15), "next": (10, 25), "receive": (15, 15)}


def test_a_length_below_the_longest_hold_means_the_hold(board):
    b = board(["x"])
    b.op("op", {"x": 10}, length_ps=5)
    b.run()
    assert b.times() == {"op": (0, 10)}


def test_a_pure_delay_holds_nothing(board):
    b = board(["x"])
    b.op("delay", length_ps=7)
    b.op("delay_too", length_ps=7)
    b.op("after", {"x": 1}, after=["delay", "delay_too"])
    b.run()
    assert b.times() == {"delay": (0, 7), "delay_too": (0, 7), "after": (7, 8)}
    assert b.engine.occupancy().op.tolist() == [2]


def test_operations_of_no_length_happen_within_the_instant(board):
    b = board(["x"])
    b.op("work", {"x": 10})
    b.op("mark", {"x": 0})
    b.op("mark_after", {"x": 0}, after=["mark"])
    b.op("next", {"x": 5}, after=["mark_after"])
    b.run()
    assert b.times() == {"work": (0, 10), "mark": (10, 10), "mark_after": (10, 10), "next": (10, 15)}


def test_a_hold_of_no_length_takes_its_server_in_the_pass(board):
    b = board(["x"])
    b.op("latency", {"x": 0}, length_ps=5)
    b.op("work", {"x": 10})
    b.run()
    assert b.times() == {"latency": (0, 5), "work": (0, 10)}


def test_a_lane_serves_as_many_as_it_has_servers(board):
    b = board([Lane("x", servers=2)])
    for name, ps in (("a", 30), ("b", 10), ("c", 10), ("d", 10)):
        b.op(name, {"x": ps})
    b.run()
    assert b.times() == {"a": (0, 30), "b": (0, 10), "c": (10, 20), "d": (20, 30)}


def test_the_head_of_an_in_order_lane_blocks(board):
    b = board([Lane("stream", in_order=True), "plain"])
    b.op("at20", length_ps=20)
    b.op("head", {"stream": 10}, after=["at20"])
    b.op("behind", {"stream": 10})
    b.op("late", {"plain": 10}, after=["at20"])
    b.op("early", {"plain": 10})
    b.run()
    assert b.times() == {"at20": (0, 20), "head": (20, 30), "behind": (30, 40), "late": (20, 30), "early": (0, 10)}


def test_an_in_order_lane_of_two_servers_starts_in_order(board):
    b = board([Lane("x", servers=2, in_order=True)])
    b.op("at5", length_ps=5)
    b.op("a", {"x": 30}, after=["at5"])
    b.op("b", {"x": 10})
    b.op("c", {"x": 10})
    b.run()
    assert b.times() == {"at5": (0, 5), "a": (5, 35), "b": (5, 15), "c": (15, 25)}


def test_an_operation_must_be_the_head_of_all_its_in_order_lanes(board):
    b = board([Lane("s", in_order=True), Lane("t", in_order=True)])
    b.op("at5", length_ps=5)
    b.op("on_s", {"s": 10}, after=["at5"])
    b.op("on_t", {"t": 10})
    b.op("both", {"s": 1, "t": 1})
    b.op("behind", {"t": 1})
    b.run()
    assert b.times() == {"at5": (0, 5), "on_s": (5, 15), "on_t": (0, 10), "both": (15, 16), "behind": (16, 17)}


def test_priority_does_not_overtake_in_an_in_order_lane(board):
    b = board([Lane("s", in_order=True)])
    b.op("prefetch", {"s": 100}, priority=PREFETCH, quantum_ps=10)
    b.op("queued", {"s": 10}, priority=PREFETCH)
    b.op("at5", length_ps=5)
    b.op("demand", {"s": 10}, after=["at5"])
    b.run()
    assert b.times() == {"prefetch": (0, 100), "queued": (100, 110), "at5": (0, 5), "demand": (110, 120)}


def test_what_stopped_for_another_lane_is_the_head_of_its_stream_again(board):
    # h2d    |copy 0-10|demand 10-40|copy 40-130|
    # stream |copy 0-10|   its rest  |copy 40-130|next 130-140|      `next` may not run before the rest of `copy`
    b = board([Lane("stream", in_order=True), "h2d"])
    b.op("copy", {"stream": 100, "h2d": 100}, priority=PREFETCH, quantum_ps=10)
    b.op("next", {"stream": 10})
    b.op("at5", length_ps=5)
    b.op("demand", {"h2d": 30}, after=["at5"])
    b.run()
    assert b.times() == {"copy": (0, 130), "next": (130, 140), "at5": (0, 5), "demand": (10, 40)}


@pytest.mark.parametrize(("link_of_a", "link_of_b", "ends"), [("x", "y", (55, 60)), ("y", "x", (60, 60))])
def test_two_that_stopped_are_taken_up_in_the_order_of_their_serials(board, link_of_a, link_of_b, ends):
    # stream (two servers) |a 0-10|      |a 25 or 30 ..|      a, b stop at 10 for the demand on both links; x is
    #                      |b 0-10|          |b 30-60|        free at 25, y at 30; if x is b's, it waits for a
    b = board([Lane("stream", servers=2, in_order=True), "x", "y"])
    b.op("a", {"stream": 40, link_of_a: 40}, priority=PREFETCH, quantum_ps=10)
    b.op("b", {"stream": 40, link_of_b: 40}, priority=PREFETCH, quantum_ps=10)
    b.op("at5", length_ps=5)
    b.op("demand", {"x": 15, "y": 20}, after=["at5"])
    b.run()
    assert b.times() == {"a": (0, ends[0]), "b": (0, ends[1]), "at5": (0, 5), "demand": (10, 30)}


def test_a_candidate_behind_an_in_order_holder_claims_nothing(board):
    b = board([Lane("stream", in_order=True), "y"])
    b.op("copy", {"stream": 50}, priority=PREFETCH, quantum_ps=10)
    b.op("at5", length_ps=5)
    b.op("demand", {"stream": 10, "y": 10}, after=["at5"])
    b.op("other", {"y": 20}, priority=PREFETCH, after=["at5"])
    b.run()
    assert b.times() == {"copy": (0, 50), "at5": (0, 5), "demand": (50, 60), "other": (5, 25)}


def test_backlog_is_the_unfinished_work_of_a_lane_by_server(board):
    b = board(["x", Lane("y", servers=2)])
    b.op("first", {"x": 100, "y": 15})
    b.op("second", {"x": 50})
    b.submit()
    assert [b.engine.backlog_ps(lane) for lane in (0, 1)] == [150, 8]
    b.engine.advance(6)
    assert [b.engine.backlog_ps(lane) for lane in (0, 1)] == [144, 5]
    b.engine.advance(100)
    assert [b.engine.backlog_ps(lane) for lane in (0, 1)] == [50, 0]
    b.engine.run()
    assert [b.engine.backlog_ps(lane) for lane in (0, 1)] == [0, 0]


def test_backlog_counts_the_rest_of_what_stopped(board):
    b = board(["x"])
    b.op("prefetch", {"x": 100}, priority=PREFETCH, quantum_ps=10)
    b.op("at5", length_ps=5)
    b.op("demand", {"x": 20}, after=["at5"])
    b.submit()
    b.engine.advance(15)
    assert b.engine.backlog_ps(0) == 90 + 15


def test_occupancy_lists_every_stretch(board):
    b = board(["x", "y"])
    b.op("a", {"x": 10, "y": 4})
    b.op("b", {"x": 5})
    b.run()
    assert sorted(zip(*(column.tolist() for column in b.engine.occupancy()), strict=True)) == [
        (0, 0, 0, 10), (0, 1, 10, 15), (1, 0, 0, 4)]


def test_nobody_stops_for_one_behind_it_in_an_in_order_lane(board):
    # stream (two servers) |copy 0-50|   demand is its head from 5, but would stand behind the rest of copy if copy
    # h2d                  |copy 0-50|demand 50-60|   stopped: copy runs on
    b = board([Lane("stream", servers=2, in_order=True), "h2d"])
    b.op("copy", {"stream": 50, "h2d": 50}, priority=PREFETCH, quantum_ps=10)
    b.op("at5", length_ps=5)
    b.op("demand", {"stream": 10, "h2d": 10}, after=["at5"])
    b.run()
    assert b.times() == {"copy": (0, 50), "at5": (0, 5), "demand": (50, 60)}
    assert sorted(b.engine.occupancy().to_ps.tolist()) == [50, 50, 60, 60]
