"""Sequences that wait at a layer: every pair runs once, nobody is lost, and what is refused."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from emulation.errors import ConfigError, PlanError
from emulation.view import DROPPED, Routing, Step
from workloads.batchers import token_buffering
from workloads.batchers.contract import AtLayer, Batch, Queues
from workloads.serving import Serving

from .serving_rig import asked, serving

LAYERS, EXPERTS, TOP_K = 3, 6, 2


def routed(step: Step, moe: int) -> Routing:
    """Two experts that a token's sequence, position and layer settle."""
    first = (step.sequence * 5 + step.position * 3 + moe) % EXPERTS
    experts = np.stack([first, (first + 1 + step.position % 3) % EXPERTS], axis=1)
    return Routing(experts, np.full(experts.shape, 0.5))


def walk(of: Serving) -> tuple[Counter[tuple[int, int, int, int]], list[list[tuple[int, int, int]]], dict[int, int]]:
    """(sequence, position, layer, expert) -> how often it ran; for each step the parked (layer, sequence, pairs held);
    tokens made."""
    ran: Counter[tuple[int, int, int, int]] = Counter()
    steps, made = [], dict.fromkeys(range(len(of.requests)), 0)
    while (found := of.next(lambda: 0)) is not None:
        step, _ = found
        assert of.parking is not None
        assert len(step) <= of.token_budget
        held = []
        for moe in range(LAYERS):
            due, parked = of.parking.at_layer(moe, routed(step, moe))
            for token, place in zip(*np.nonzero(due.experts != DROPPED), strict=True):
                ran[int(step.sequence[token]), int(step.position[token]), moe, int(due.experts[token, place])] += 1
            if parked is not None:
                held += [(moe, n, int((routed(step, moe).experts != due.experts)[step.sequence == n].sum()))
                         for n in dict.fromkeys(step.sequence[parked].tolist())]
        for n in step.sequence[of.parking.ends()].tolist():
            made[n] += 1
        steps.append(held)
    return ran, steps, made


@pytest.mark.parametrize("slack", [10, 25, 60])
def test_every_pair_runs_once_whoever_is_parked(slack: int) -> None:
    of = serving(asked((4, 3), (3, 4), (5, 2), (2, 5)), token_buffering.Batcher(slack), budget=12)
    ran, steps, made = walk(of)
    assert any(steps)
    assert set(ran.values()) == {1}
    assert len(ran) == sum(p + o - 1 for p, o in ((4, 3), (3, 4), (5, 2), (2, 5))) * LAYERS * TOP_K
    assert made == {0: 3, 1: 4, 2: 2, 3: 5}
    assert not of.cache.private.any()


@dataclass(frozen=True)
class Once:
    """Parks the first token of some sequences at a layer, until the next step; everybody runs all of the time."""

    who: tuple[int, ...] = (1,)
    moe: int = 1
    answer: Any = None
    clock: ClassVar[bool] = False

    def batch(self, queues: Queues) -> Batch:
        every = np.concatenate([queues.running.number, queues.waiting.number])
        todo = np.concatenate([queues.running.todo, queues.waiting.todo])
        return Batch(every, todo, resume=queues.parked.number)

    def park(self, layer: AtLayer) -> Any:
        if self.answer is not None:
            return self.answer
        here = np.isin(layer.sequence, self.who) & (layer.position == 0) & ~layer.back & (layer.moe == self.moe)
        return here[:, None] & (layer.experts != DROPPED)


def test_a_parked_sequence_by_hand() -> None:
    of = serving(asked((1, 2), (1, 2)), Once())
    found = of.next(lambda: 0)
    assert found is not None
    assert of.parking is not None
    assert found[0].joins is None
    of.parking.at_layer(0, routed(found[0], 0))
    due, parked = of.parking.at_layer(1, routed(found[0], 1))
    assert parked is not None
    assert parked.tolist() == [False, True]
    assert due.experts[1].tolist() == [DROPPED, DROPPED]
    due, parked = of.parking.at_layer(2, routed(found[0], 2))
    assert (due.experts[1].tolist(), parked) == ([DROPPED, DROPPED], None)
    assert of.parking.ends().tolist() == [True, False]
    found = of.next(lambda: 0)
    assert found is not None
    step = found[0]
    assert (step.sequence.tolist(), step.position.tolist()) == ([1, 0], [0, 1])
    assert step.joins is not None
    assert step.joins.tolist() == [1, -1]
    due, _ = of.parking.at_layer(0, routed(step, 0))
    assert due.experts[0].tolist() == [DROPPED, DROPPED]
    due, _ = of.parking.at_layer(1, routed(step, 1))
    assert (due.experts == routed(step, 1).experts).all()
    of.parking.at_layer(2, routed(step, 2))
    assert of.parking.ends().tolist() == [True, True]


@pytest.mark.parametrize(("answer", "sentence"), [
    (None, "returned NoneType"), (np.zeros((2, 1), np.bool_), r"returned bool \[2, 1\]: it is a mask of pairs"),
    (np.zeros((2, 2)), r"returned float64 \[2, 2\]")])
def test_what_park_may_not_return(answer: Any, sentence: str) -> None:
    class Odd(Once):
        def park(self, layer: AtLayer) -> Any:
            return answer

    of = serving(asked((1, 2), (1, 2)), Odd())
    found = of.next(lambda: 0)
    assert found is not None
    assert of.parking is not None
    with pytest.raises(PlanError, match=sentence):
        of.parking.at_layer(0, routed(found[0], 0))


def test_a_pair_that_is_not_due_cannot_be_held_back() -> None:
    of = serving(asked((1, 2), (1, 2)), Once(answer=np.ones((2, 2), np.bool_)))
    found = of.next(lambda: 0)
    assert found is not None
    assert of.parking is not None
    of.parking.at_layer(0, routed(found[0], 0))
    with pytest.raises(PlanError, match="holds back a pair of token 0 that is not due there"):
        of.parking.at_layer(1, routed(found[0], 1))


def test_who_is_not_parked_cannot_resume_and_who_is_must() -> None:

    class Never(Once):
        def batch(self, queues: Queues) -> Batch:
            one = queues.waiting if len(queues.waiting) else queues.running
            return Batch(one.number, one.todo)

    class Wrong(Once):
        def batch(self, queues: Queues) -> Batch:
            return Batch(queues.waiting.number[:1], queues.waiting.todo[:1], resume=queues.waiting.number[1:])

    with pytest.raises(PlanError, match="resumes request 1, which is not parked"):
        serving(asked((1, 2), (1, 2)), Wrong()).next(lambda: 0)
    with pytest.raises(PlanError, match="while 0 requests run, 1 are parked, 0 wait and none is still to come"):
        walk(serving(asked((1, 2), (1, 2)), Never()))


def test_a_guess_is_of_tokens_that_will_be_there() -> None:
    of = serving(asked((1, 2), (1, 2)), Once())
    found = of.next(lambda: 0)
    assert found is not None
    assert of.parking is not None
    of.parking.at_layer(0, routed(found[0], 0))
    assert (of.parking.ahead(1, routed(found[0], 1)).experts == routed(found[0], 1).experts).all()
    of.parking.at_layer(1, routed(found[0], 1))
    assert of.parking.ahead(2, routed(found[0], 2)).experts[1].tolist() == [DROPPED, DROPPED]


def test_token_buffering_takes_the_coldest_until_the_first_that_would_exceed_its_slack() -> None:
    # Four tokens; experts 5 (1 token), 2 and 3 (2 each), 0 (3). 25 % of 4 tokens: 1; 75 %: 3; in the order 5, 2, 3, 0.
    experts = np.array([[0, 2], [0, 3], [0, 5], [2, 3]])
    layer = AtLayer(0, np.arange(4), np.zeros(4, np.int64), experts, np.zeros(4, np.bool_))

    def held(slackness: int, of: AtLayer = layer) -> list[int]:
        return sorted(set(experts[token_buffering.Batcher(slackness).park(of)].tolist()))

    assert [held(slackness) for slackness in (0, 10, 25, 50, 75, 100)] == [[], [5], [5], [5], [2, 5], [2, 5]]
    assert held(75, replace(layer, back=np.array([True, False, False, False]))) == [2, 5]
    back = token_buffering.Batcher(75).park(replace(layer, back=np.array([True, False, False, False])))
    assert back.tolist() == [[False, False], [False, False], [False, True], [True, False]]
    with pytest.raises(ConfigError, match="slackness is 101; it is 0 to 100"):
        token_buffering.Batcher(101)
