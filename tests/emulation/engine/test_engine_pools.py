"""Pools: needs n, takes m, given back after the last of several edges, by this plan or a later one."""

import pytest

from emulation.errors import DeadlockError


def test_needs_n_free_and_takes_m(board):
    # pool of 4: a takes 2; b needs 3 free and waits, reserving nothing; c takes 1 meanwhile; a gives back at 10
    b = board([], {"p": 4})
    b.op("a", length_ps=10, takes=[("p", 2, 2)])
    b.op("b", length_ps=10, takes=[("p", 3, 1)])
    b.op("c", length_ps=10, takes=[("p", 1, 1)])
    b.release("a", after=["a"])
    b.submit()
    b.engine.advance(5)
    assert b.engine.free(0) == 1
    b.engine.run()
    assert b.times() == {"a": (0, 10), "b": (10, 20), "c": (0, 10)}
    assert b.engine.free(0) == 4 - 1 - 1


def test_the_needed_amount_must_be_free_and_not_only_the_taken_one(board):
    b = board([], {"p": 2})
    b.op("holder", length_ps=10, takes=[("p", 1, 1)])
    b.op("waits", takes=[("p", 2, 1)])
    b.op("passes", takes=[("p", 1, 1)])
    b.release("holder", after=["holder"])
    b.release("passes", after=["passes"])
    b.run()
    assert b.times() == {"holder": (0, 10), "waits": (10, 10), "passes": (0, 0)}


def test_a_take_is_given_back_after_the_last_of_its_edges(board):
    b = board([], {"p": 1})
    b.op("a", length_ps=10, takes=[("p", 1, 1)])
    b.op("x", length_ps=30)
    b.op("y", length_ps=50, after=["a"])
    b.op("next", takes=[("p", 1, 1)])
    b.release("a", after=["a", "x", "y:start"])
    b.run()
    assert b.times()["next"] == (30, 30)


def test_a_start_gives_back_within_its_instant(board):
    b = board(["x"], {"p": 1})
    b.op("load", {"x": 10}, takes=[("p", 1, 1)])
    b.op("hop", length_ps=5, after=["load"])
    b.op("next", {"x": 10}, takes=[("p", 1, 1)])
    b.release("load", after=["hop:start"])
    b.run()
    assert b.times() == {"load": (0, 10), "hop": (10, 15), "next": (10, 20)}


def test_nothing_is_given_back_before_it_was_taken(board):
    b = board([], {"p": 2})
    b.op("past", length_ps=5)
    b.op("at20", length_ps=20)
    b.op("late", length_ps=10, after=["at20"], takes=[("p", 2, 2)])
    b.op("at10", length_ps=10)
    b.op("check", after=["at10"], takes=[("p", 2, 0)])
    b.release("late", after=["past"])
    b.submit()
    b.engine.advance(15)
    assert b.engine.free(0) == 2
    b.engine.run()
    assert b.times()["check"] == (10, 10)
    assert b.engine.free(0) == 2


def test_a_release_without_edges_gives_back_at_the_start(board):
    b = board([], {"p": 1})
    b.op("a", length_ps=10, takes=[("p", 1, 1)])
    b.op("b", length_ps=10, takes=[("p", 1, 1)])
    b.release("a", after=[])
    b.run()
    assert b.times() == {"a": (0, 10), "b": (0, 10)}


def test_ends_of_an_instant_give_back_before_its_starts(board):
    b = board(["x"], {"p": 1})
    b.op("a", {"x": 10}, takes=[("p", 1, 1)])
    b.op("low", takes=[("p", 1, 1)], priority=10, after=[])
    b.op("high", after=["a"], takes=[("p", 1, 1)])
    b.release("a", after=["a"])
    b.release("low", after=["low"])
    b.release("high", after=["high"])
    b.run()
    assert b.times() == {"a": (0, 10), "low": (10, 10), "high": (10, 10)}


def test_several_takes_of_one_pool_add_up(board):
    b = board([], {"p": 3, "q": 1})
    b.op("holder", length_ps=10, takes=[("p", 1, 1)])
    b.op("three", length_ps=10, takes=[("p", 2, 2), ("q", 1, 1), ("p", 1, 1)])
    b.release("holder", after=["holder"])
    b.run()
    assert b.times()["three"] == (10, 20)
    assert [b.engine.free(pool) for pool in (0, 1)] == [0, 0]


def test_a_later_plan_gives_back(board):
    b = board([], {"p": 1})
    b.op("a", length_ps=10, takes=[("p", 1, 1)])
    b.op("b", takes=[("p", 1, 1)])
    assert b.run("a") == ["a"]
    assert b.engine.free(0) == 0
    b.op("use", length_ps=7, after=["a"])
    b.release("a", after=["use"])
    b.run()
    assert b.times() == {"a": (0, 10), "b": (17, 17), "use": (10, 17)}


def test_a_later_plan_gives_back_what_is_past_at_once(board):
    b = board([], {"p": 1})
    b.op("a", length_ps=10, takes=[("p", 1, 1)])
    b.op("b", takes=[("p", 1, 1)])
    with pytest.raises(DeadlockError, match="which no plan releases"):
        b.run()
    assert b.engine.now_ps == 10
    b.release("a", after=["a"])
    b.run()
    assert b.times()["b"] == (10, 10)


def test_a_take_of_a_later_operation_may_be_released_by_the_plan_after(board):
    b = board(["x"], {"p": 1})
    b.op("first", {"x": 10})
    b.op("second", {"x": 10}, takes=[("p", 1, 1)])
    assert b.run("first") == ["first"]
    b.release("second", after=["first"])
    b.submit()
    b.engine.advance(10)
    assert b.engine.free(0) == 1
    b.engine.run()
    assert b.engine.free(0) == 1


def test_three_takes_of_one_pool_add_up(board):
    b = board([], {"p": 4})
    b.op("holder", length_ps=10, takes=[("p", 2, 2)])
    b.op("three", takes=[("p", 1, 1), ("p", 1, 1), ("p", 1, 1)])
    b.release("holder", after=["holder"])
    b.run()
    assert b.times()["three"] == (10, 10)
