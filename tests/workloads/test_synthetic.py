"""Generated steps and routing."""

from fractions import Fraction

import numpy as np
import pytest

from emulation.errors import ConfigError
from emulation.model import Layer, Model, Work
from emulation.view import DECODE, PREFILL
from workloads.synthetic import Request, Router, history, static_steps, synthetic_trace

MOE = Layer(Work(8, 0, 8), 4, 4, Work(1, 0, 1))
MODEL = Model("tiny", (MOE,) * 3, 16, 2, 8, 8, 3, Fraction(2), Fraction(2))


def test_a_batch_is_one_prefill_and_then_a_token_of_each_live_sequence() -> None:
    steps = list(static_steps([Request(3, 2), Request(1, 4)]))
    assert [step.sequence.tolist() for step in steps] == [[0, 0, 0, 1], [0, 1], [1], [1]]
    assert [step.position.tolist() for step in steps] == [[0, 1, 2, 0], [3, 1], [2], [3]]
    assert [set(step.phase.tolist()) for step in steps] == [{PREFILL}, {DECODE}, {DECODE}, {DECODE}]
    assert steps[0].ends.tolist() == [False, False, True, True]


def test_sequences_lie_on_homes_in_turn() -> None:
    step = next(static_steps([Request(1, 1)] * 3, homes=(4, 9)))
    assert step.home.tolist() == [4, 9, 4]


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one request"):
        list(static_steps([]))


def test_routing_depends_on_seed_sequence_and_position_alone() -> None:
    steps = list(static_steps([Request(5, 4)]))
    router = Router(MODEL, "zipf", seed=3)
    later = router.route(steps[2])
    assert np.array_equal(later.experts, Router(MODEL, "zipf", seed=3).route(steps[2]).experts)
    assert not np.array_equal(Router(MODEL, "zipf", seed=4).route(steps[0]).experts, router.route(steps[0]).experts)


def test_a_history_counts_other_sequences_of_the_same_generator() -> None:
    router = Router(MODEL, "zipf", seed=3, skew=1.5)
    counts = history(MODEL, router, 2000)
    assert counts.shape == (3, 16)
    assert counts.sum(axis=1).tolist() == [4000] * 3
    routed = router.route(next(static_steps([Request(500, 1)])))
    for layer, seen in enumerate(counts):
        assert np.bincount(routed.experts[:, layer].ravel()).argmax() == seen.argmax()
    assert np.array_equal(history(MODEL, Router(MODEL, "zipf", seed=3, skew=1.5), 2000), counts)


def test_a_token_visits_different_experts() -> None:
    step = next(static_steps([Request(200, 1)]))
    experts = Router(MODEL, "zipf", seed=0, skew=2.0).route(step).experts
    assert (experts[:, :, 0] != experts[:, :, 1]).all()


def test_the_steepest_skew_sends_every_token_to_the_same_experts() -> None:
    step = next(static_steps([Request(50, 1)]))
    experts = np.sort(Router(MODEL, "zipf", seed=0, skew=1e6).route(step).experts, axis=2)
    assert (experts == experts[:1]).all()
    assert (experts[:, :, 0] != experts[:, :, 1]).all()


def test_zipf_loads_fall_with_rank_and_balanced_ones_do_not() -> None:
    steps = list(static_steps([Request(4000, 1)]))
    skewed = synthetic_trace(MODEL, Router(MODEL, "zipf", seed=1, skew=1.0), steps).popularity()
    flat = synthetic_trace(MODEL, Router(MODEL, "balanced", seed=1), steps).popularity()
    assert (skewed.max(axis=1) / skewed.mean(axis=1) > 3).all()
    assert (flat.max(axis=1) / flat.mean(axis=1) < 1.15).all()
    assert len({int(row.argmax()) for row in skewed}) > 1


def test_an_unknown_generator_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'zipf'"):
        Router(MODEL, "zipff", seed=0)
