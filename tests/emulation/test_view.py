"""Pairs in routing order, and what a policy reads of them."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from emulation.engine.spec import SpecEngine
from emulation.plan import ALL_PARTS, ALL_TOKENS, EVICT, LOAD, NOBODY, RUN, Plan
from emulation.view import DROPPED, Routing, View
from tests.schedulers.rig import Scripted, drive, gpu_and_units, model, resting, routing, scheduler, step


def test_pairs_are_listed_token_by_token_and_experts_by_first_visit():
    pairs = routing([[3, 1], [1, 0], [3, 2]], [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]).pairs
    assert pairs.token.tolist() == [0, 0, 1, 1, 2, 2]
    assert pairs.expert.tolist() == [3, 1, 1, 0, 3, 2]
    assert pairs.weight.tolist() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert pairs.active.tolist() == [3, 1, 0, 2]
    assert pairs.tokens_of(3).tolist() == [0, 2]
    assert pairs.tokens_of(4).tolist() == []
    assert pairs.counts(5).tolist() == [1, 2, 1, 2, 0]


def test_dropped_places_are_no_pairs():
    routed = routing([[DROPPED, 2], [DROPPED, DROPPED]])
    assert (routed.pairs.token.tolist(), routed.pairs.expert.tolist()) == ([0], [2])
    assert routed.active.tolist() == [2]
    assert routed.counts(3).tolist() == [0, 0, 1]


@given(st.lists(st.lists(st.integers(-1, 5), min_size=3, max_size=3), min_size=1, max_size=8))
@settings(deadline=None)
def test_every_pair_belongs_to_one_active_expert(experts):
    routed = Routing(np.array(experts), np.arange(3.0 * len(experts)).reshape(-1, 3))
    listed = [(t, e) for t, row in enumerate(experts) for e in row if e != DROPPED]
    assert routed.active.tolist() == list(dict.fromkeys(e for _, e in listed))
    assert [(t, e) for e in routed.active.tolist() for t in routed.pairs.tokens_of(e).tolist()] == sorted(
        listed, key=lambda pair: (routed.active.tolist().index(pair[1]), pair[0]))
    assert routed.counts(6).sum() == len(listed)


def test_a_view_tells_what_is_held_in_this_layer_and_the_next():
    held = []

    def plan(view: View) -> Plan:
        plan = Plan(view.layer)
        plan.run(0, on=1)
        held.append([view.held(0).tolist(), None if view.next_layer is None else view.held_next(0).tolist()])
        return plan

    start = resting(3, [[1]] * 2, {0: [(0, 0), (1, 1)]})
    run = scheduler(gpu_and_units(1), model(moe_layers=3, experts=2, top_k=1), Scripted(start, [plan] * 3), SpecEngine)
    drive(run, [(step(0, 1), [routing([[0]])] * 3, [None] * 3)])
    assert held == [[[True, False], [False, True]], [[False, True], [False, False]], [[False, False], None]]


def test_a_plan_is_written_in_the_order_of_its_calls():
    plan = Plan(2)
    plan.load(4, to=1, over=3, priority=10)
    plan.run(4, on=1, part=0)
    plan.run(5, on=0, tokens=np.array([2, 1], np.int32), layer=3)
    plan.evict(4, of=1, layer=1)
    assert [tuple(row[:-1]) for row in plan.rows] == [
        (LOAD, 2, 4, ALL_PARTS, 1, 3, 10, ALL_TOKENS), (RUN, 2, 4, 0, 1, NOBODY, 0, ALL_TOKENS),
        (RUN, 3, 5, ALL_PARTS, 0, NOBODY, 0, 0), (EVICT, 1, 4, ALL_PARTS, 1, NOBODY, 0, ALL_TOKENS)]
    assert not any(row.wake for row in plan.rows)
    assert [(tokens.dtype, tokens.tolist()) for tokens in plan.token_sets] == [(np.int64, [2, 1])]
