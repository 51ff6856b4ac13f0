"""Each generator is what it says, by its own statistics.

Tolerances: a share measured over n independent draws is within four of its standard deviations, 4 * sqrt(p (1-p) / n).
"""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from emulation.errors import ConfigError
from emulation.model import Layer, Model, Work
from emulation.view import Step
from workloads.routing.chances import ONE
from workloads.routing.kinds import Affinity, FittedLayer, Kind, kind, stretched
from workloads.routing.router import Router
from workloads.statistics import info
from workloads.synthetic import Request, static_steps, synthetic_trace

MOE = Layer(Work(8, 0, 8), 4, 4, Work(1, 0, 1))


def model(experts: int, top_k: int, layers: int = 2) -> Model:
    return Model("tiny", (MOE,) * layers, experts, top_k, 8, 8, 3, Fraction(2), Fraction(2))


def step(tokens: int, number: int = 0, sequences: int = 1) -> Step:
    sequence = np.arange(tokens) % sequences
    zeros = np.zeros(tokens, np.int64)
    return Step(number, np.sort(sequence), np.arange(tokens), zeros, zeros, np.ones(tokens, np.bool_))


def near(seen: float, wanted: float, draws: int) -> bool:
    return abs(seen - wanted) <= 4 * (wanted * (1 - wanted) / draws) ** 0.5 + 1e-12


def loads(router: Router, tokens: int, number: int = 0, sequences: int = 1) -> np.ndarray[Any, np.dtype[Any]]:
    """Share of each expert in layer 0, most loaded first, with the experts: [2, experts]."""
    experts = router.route(step(tokens, number, sequences)).experts[:, 0].ravel()
    counts = np.bincount(experts, minlength=16) / len(experts)
    order = np.argsort(-counts, kind="stable")
    return np.stack([counts[order], order])


@pytest.mark.parametrize("skew", [0.5, 1.0, 1.7])
def test_the_loads_of_zipf_fit_its_skew(skew: float) -> None:
    tokens = 60_000
    shares = loads(Router(model(16, 1), "zipf", seed=3, skew=skew), tokens)[0]
    weights = np.arange(1, 17) ** -skew
    assert all(near(seen, wanted, tokens) for seen, wanted in zip(shares, weights / weights.sum(), strict=True))


def test_the_loads_of_balanced_are_alike() -> None:
    tokens = 60_000
    assert all(near(seen, 1 / 16, tokens) for seen in loads(Router(model(16, 1), "balanced", seed=3), tokens)[0])


def test_a_hot_set_has_its_share_in_every_layer_and_step() -> None:
    """With one place a token the set gets its share and its part of the rest: 0.6 + 0.4 * 3 / 16."""
    tokens, router = 40_000, Router(model(16, 1), "hot_set", seed=4, experts=3, share=0.6)
    first = loads(router, tokens, 0)
    assert near(float(first[0, :3].sum()), 0.6 + 0.4 * 3 / 16, tokens)
    assert sorted(first[1, :3]) == sorted(loads(router, tokens, 900)[1, :3])
    other = np.bincount(router.route(step(tokens)).experts[:, 1, 0], minlength=16)
    assert sorted(first[1, :3]) != sorted(np.argsort(-other)[:3])


def test_a_hot_set_of_which_all_is_drawn_fills_up_from_the_rest() -> None:
    routed = Router(model(16, 4), "hot_set", seed=4, experts=3, share=1.0).route(step(500)).experts
    counts = np.bincount(routed[:, 0].ravel(), minlength=16)
    assert sorted(counts)[-3:] == [500] * 3
    assert counts.sum() == 2000


def test_a_rotating_hot_set_moves_at_its_period_and_not_between() -> None:
    router = Router(model(16, 1), "rotating_hot_set", seed=4, experts=3, share=0.9, period_steps=7)
    sets = [tuple(sorted(loads(router, 2000, number)[1, :3])) for number in range(28)]
    assert [len(set(sets[at:at + 7])) for at in range(0, 28, 7)] == [1] * 4
    assert len(set(sets)) == 4


def test_bursts_take_their_part_of_the_windows_and_last_as_long_as_they_say() -> None:
    router = Router(model(16, 1), "bursts", seed=4, experts=2, share=0.8, length_steps=5, chance=0.3)
    hot = [float(loads(router, 400, number)[0, :2].sum()) > 0.5 for number in range(2000)]
    windows = [hot[at:at + 5] for at in range(0, len(hot), 5)]
    assert all(len(set(window)) == 1 for window in windows)
    assert near(sum(window[0] for window in windows) / len(windows), 0.3, len(windows))


def test_sequences_prefer_experts_of_their_own() -> None:
    router = Router(model(64, 4, layers=1), "affinity", seed=4, experts=8, share=0.75)
    experts = router.route(step(4000, sequences=4)).experts[:, 0].reshape(4, -1)
    favourites = [tuple(np.argsort(-np.bincount(row, minlength=64), kind="stable")[:8]) for row in experts]
    assert len(set(favourites)) == 4
    for row, own in zip(experts, favourites, strict=True):
        assert 0.6 < float(np.isin(row, own).mean()) < 0.85


@pytest.mark.parametrize("repeat", [0.0, 0.3, 0.8])
def test_consecutive_tokens_share_what_is_repeated_and_what_chance_adds(repeat: float) -> None:
    """repeat + (1 - repeat) * top_k / experts, within 0.01: what repeats may yield its place to a twin, rarely."""
    shape = model(64, 4)
    router = Router(shape, Affinity(experts=1, share=0.0, repeat=repeat), seed=6)
    trace = synthetic_trace(shape, router, list(static_steps([Request(3000, 2)] * 3)))
    assert abs(float(str(info(trace)["shared_with_last"])) - (repeat + (1 - repeat) * 4 / 64)) < 0.01


@pytest.mark.parametrize("of", [kind("zipf"), kind("hot_set", experts=4), kind("affinity", experts=4, repeat=0.5)])
def test_a_token_is_routed_alike_alone_and_in_any_batch(of: Kind) -> None:
    router = Router(model(32, 4), of, seed=8)
    whole = step(60, sequences=3)
    alone = [Step(9, whole.sequence[i:i + 1], whole.position[i:i + 1], whole.phase[i:i + 1], whole.home[i:i + 1],
                  whole.ends[i:i + 1]) for i in range(60)]
    assert np.array_equal(router.route(whole).experts, np.concatenate([router.route(one).experts for one in alone]))


def test_ids_are_contiguous_layer_by_layer_and_weights_are_one_number() -> None:
    routed = Router(model(32, 4), "balanced", seed=8).route(step(60))
    assert routed.experts.shape == routed.weights.shape == (60, 2, 4)
    assert routed.experts[:, 1].flags.c_contiguous
    assert routed.weights.strides == (0, 0, 0)
    assert routed.layer(1).weights.tolist() == [[0.25] * 4] * 60


def test_chances_over_ranks_stretch_as_a_density() -> None:
    half, rest = ONE // 2, ONE // 4
    assert stretched((half, rest, rest), 6) == [half // 2, half // 2, rest // 2, rest // 2, rest // 2, rest // 2]
    assert sum(stretched((half, rest, rest), 7)) == ONE
    assert stretched((half, rest, rest, 0), 2) == [half + rest, rest]


def test_partners_come_together() -> None:
    """With pair 1 every second place is the partner of the one before: four pairs of eight experts, nothing else."""
    layer = FittedLayer(ranks=(ONE // 8,) * 8, repeat=0.0, pair=1.0)
    of = kind("fitted", experts=1, share=0.0, layers=(layer,))
    pairs = np.sort(Router(model(8, 2, layers=1), of, seed=2).route(step(1000)).experts[:, 0], axis=1)
    assert len(np.unique(pairs, axis=0)) == 4


@pytest.mark.parametrize(("name", "parameters", "told"), [
    ("zipff", {}, "did you mean 'zipf'"),
    ("hot_set", {"expert": 3}, "did you mean 'experts'"),
    ("hot_set", {"experts": 17}, "a set of 17 experts is more than the 16"),
])
def test_what_is_no_generator_is_told(name: str, parameters: dict[str, int], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Router(model(16, 1), name, seed=0, **parameters)
