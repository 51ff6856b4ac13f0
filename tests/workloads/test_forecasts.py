"""Forecasts from counts and from the truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulation.trace import NO_EXPERT, StepRouting
from emulation.view import DROPPED, Routing, Step
from workloads.forecasts import Forecaster
from workloads.routing import oracle
from workloads.routing.chances import threshold


def step(phase: int, tokens: int = 2, number: int = 0) -> Step:
    zeros = np.zeros(tokens, np.int64)
    return Step(number, np.arange(tokens), zeros, zeros + phase, zeros, np.ones(tokens, np.bool_))


def routing(rows: list[list[int]]) -> Routing:
    return Routing(np.array(rows), np.full((len(rows), len(rows[0])), 0.5))


def test_frequency_guesses_what_was_seen_most_with_ties_to_the_lower_id() -> None:
    guesser = Forecaster("frequency", 2, 4, 2)
    assert guesser.guess(step(1), 1, None) is None
    guesser.observe(step(1), 1, routing([[3, 2], [3, 1]]))
    guess = guesser.guess(step(1, tokens=3), 1, None)
    assert guess is not None
    assert guess.experts.tolist() == [[3, 1]] * 3
    assert guesser.guess(step(1), 0, None) is None
    assert guesser.guess(step(1), 2, None) is None


def test_prefill_frequency_stops_learning_in_decode() -> None:
    guesser = Forecaster("prefill_frequency", 1, 4, 1)
    guesser.observe(step(0), 0, routing([[1, 2], [1, 3]]))
    guesser.observe(step(1), 0, routing([[2, 3]] * 2))
    guesser.observe(step(1), 0, routing([[2, 3]] * 2))
    guess = guesser.guess(step(1, tokens=1), 0, None)
    assert guess is not None
    assert guess.experts.tolist() == [[1]]


def test_the_oracle_is_as_right_as_it_is_told_to_be() -> None:
    rng = np.random.default_rng(0)
    experts = np.argsort(rng.random((4000, 1, 8)), axis=2)[:, :, :2].astype(np.uint16)
    truth = StepRouting(experts, np.full(experts.shape, 0.5, np.float32))
    for accuracy in (0.0, 0.8, 1.0):
        guess = Forecaster("oracle", 1, 8, 2, accuracy, seed=5).guess(step(1, tokens=4000), 0, truth)
        assert guess is not None
        right = guess.experts == experts[:, 0]
        assert abs(float(right.mean()) - accuracy) <= 4 * (accuracy * (1 - accuracy) / right.size) ** 0.5
        assert (guess.experts[:, 0] != guess.experts[:, 1]).all()
        assert not (guess.experts[:, :, None] == experts[:, 0][:, None, :]).any(axis=2)[~right].any()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_compiled_oracle_guesses_what_the_specification_does(data: st.DataObject) -> None:
    pytest.importorskip("numba")
    experts = data.draw(st.integers(1, 12))
    top_k, tokens = data.draw(st.integers(1, experts)), data.draw(st.integers(1, 6))
    truth = np.array([data.draw(st.permutations(range(experts)))[:top_k] for _ in range(tokens)], np.int64)
    truth[data.draw(st.integers(0, tokens - 1)), 0] = DROPPED
    sequence, position = np.arange(tokens), np.full(tokens, 3)
    accuracy = data.draw(st.sampled_from((0.0, 0.5, 1.0)))
    plain = truth.copy()
    oracle.mislead_plainly(plain, sequence, position, 5, 6, threshold(accuracy), experts)
    assert np.array_equal(oracle.misled(truth, sequence, position, 5, 6, accuracy, experts), plain)
    assert (plain == truth).all() or accuracy < 1
    assert all(len(set(row)) == top_k for row in plain.tolist())


def test_a_recorded_forecast_is_handed_on_and_an_empty_one_is_none() -> None:
    experts = np.array([[[0, 1], [2, 3]]], np.uint16)
    forecast = np.array([[[NO_EXPERT, NO_EXPERT], [1, 3]]], np.uint16)
    recorded = StepRouting(experts, np.ones(experts.shape, np.float32), forecast)
    guesser = Forecaster("recorded", 2, 4, 2)
    assert guesser.guess(step(1), 0, recorded) is None
    guess = guesser.guess(step(1), 1, recorded)
    assert guess is not None
    assert guess.experts.tolist() == [[1, 3]]
    assert Forecaster("none", 2, 4, 2).guess(step(1), 1, recorded) is None
