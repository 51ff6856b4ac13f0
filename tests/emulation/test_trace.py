"""Recorded routing as steps, with the types that policies see."""

import numpy as np

from emulation.trace import NO_EXPERT, Trace
from emulation.view import DECODE, DROPPED, PREFILL

INT, FLOAT = np.dtype(np.int64), np.dtype(np.float64)
EXPERTS = np.array([[[0, 1, 2], [2, 1, 0]], [[1, 2, NO_EXPERT], [0, 1, 2]], [[0, 2, 1], [1, 0, 2]],
                    [[0, 1, 2], [1, 2, 0]], [[2, 1, 0], [0, 1, 2]]], np.uint16)


def trace(forecast: np.ndarray | None = None) -> Trace:
    """Step 3 prefills two tokens of each of two sequences, step 7 decodes one; two layers, top-3 of five experts."""
    return Trace("tiny", 5, np.array([0, 1], np.uint16), EXPERTS, np.full(EXPERTS.shape, 0.25, np.float32),
                 np.array([3, 3, 3, 3, 7], np.int32), np.array([0, 0, 1, 1, 0], np.int32),
                 np.array([0, 1, 0, 1, 2], np.int32), np.array([0, 0, 0, 0, 1], np.uint8), forecast)


def test_columns_of_a_step_are_those_of_the_trace_in_wide_types():
    (prefill, routed), (decode, _) = trace().steps(homes=(5, 7))
    assert (prefill.number, decode.number) == (3, 7)
    assert (prefill.phase.tolist(), decode.phase.tolist()) == ([PREFILL] * 4, [DECODE])
    assert prefill.ends.tolist() == [False, True, False, True]
    assert (prefill.position.tolist(), prefill.home.tolist()) == ([0, 1, 0, 1], [5, 5, 7, 7])
    for column in (prefill.sequence, prefill.position, prefill.phase, prefill.home, routed.layer(0).experts):
        assert column.dtype == INT
    assert routed.layer(0).experts.tolist() == [[0, 1, 2], [1, 2, DROPPED], [0, 2, 1], [0, 1, 2]]
    assert routed.layer(0).weights.dtype == FLOAT
    assert routed.layer(0).weights.tolist() == [[0.25] * 3] * 4


def test_a_guess_weighs_all_places_alike_and_there_is_none_behind_the_last_layer():
    forecast = EXPERTS.copy()
    forecast[:, 0] = NO_EXPERT
    routed = next(trace(forecast).steps())[1]
    guess = routed.guess(1)
    assert guess is not None
    assert guess.weights.tolist() == [[1 / 3] * 3] * 4
    assert (routed.guess(0), routed.guess(2)) == (None, None)


def test_a_trace_without_a_forecast_guesses_nothing():
    routed = next(trace().steps())[1]
    assert routed.forecast is None
    assert (routed.guess(0), routed.guess(1)) == (None, None)


def test_popularity_counts_visits_of_every_expert_of_the_model():
    counts = trace().popularity()
    assert counts.dtype == INT
    assert counts.tolist() == [[4, 5, 5, 0, 0], [5, 5, 5, 0, 0]]
