"""The compiled draws give the ids of the specification, and both follow the chances that they are given."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.routing import chances, draw
from workloads.routing.draw import Source
from workloads.routing.router import partners

compiled_draw = pytest.importorskip("workloads.routing.compiled_draw")


def source(layers: int, experts: int, top_k: int, seed: int, skew: float, members: int = 0, share: float = 0.0,
           repeat: float = 0.0, pair: float = 0.0) -> Source:
    root, *keys = np.random.SeedSequence(seed).generate_state(2 * layers + 1, np.uint64).tolist()
    order = np.stack([draw.shuffled(key, experts) for key in keys[layers:]])
    return Source(root, np.array(keys[:layers], np.uint64),
                  chances.tables([chances.zipf(experts, skew)] * layers, order), top_k,
                  np.full(layers, int(repeat * (1 << 16)), np.uint64),
                  np.full(layers, chances.threshold(pair), np.uint64), partners(order), members,
                  chances.threshold(share))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_compiled_draws_give_the_ids_of_the_specification(data: st.DataObject) -> None:
    experts = data.draw(st.integers(1, 80))
    top_k, members = data.draw(st.integers(1, min(experts, 9))), data.draw(st.integers(0, min(experts, 12)))
    src = source(data.draw(st.integers(1, 3)), experts, top_k, data.draw(st.integers(0, 2**70)),
                 data.draw(st.sampled_from((0.0, 0.3, 1.0, 3.0, 1e6))), members,
                 data.draw(st.sampled_from((0.0, 0.5, 0.99, 1.0))), data.draw(st.sampled_from((0.0, 0.3, 0.9))),
                 data.draw(st.sampled_from((0.0, 0.4, 1.0))))
    tokens = data.draw(st.integers(1, 12))
    column = st.lists(st.integers(0, 2**31 - 1), min_size=tokens, max_size=tokens)
    sequence = np.array(data.draw(column), np.int64)
    position = np.array(data.draw(st.lists(st.integers(0, 50), min_size=tokens, max_size=tokens)), np.int64)
    least = -1 if members else 0
    group = np.array(data.draw(st.lists(st.integers(-1, 3), min_size=tokens, max_size=tokens)), np.int64)
    group = group if least else np.full(tokens, -1, np.int64)
    there, here = (np.empty((len(src.keys), tokens, top_k), np.uint16) for _ in range(2))
    draw.draw(src, there, sequence, position, group)
    compiled_draw.draw(src, here, sequence, position, group)
    assert np.array_equal(here, there)
    assert all(len(set(row)) == top_k for layer in here.tolist() for row in layer)


def test_draws_follow_drawing_without_replacement() -> None:
    """Chances 3/6, 2/6, 1/6 and two places: the pair (a, b) has the chance p_a * p_b / (1 - p_a)."""
    whole = chances.apportioned([chances.Decimal(weight) for weight in (3, 2, 1)])
    order = np.array([[2, 0, 1]], np.uint16)
    none = np.zeros(1, np.uint64)
    src = Source(7, np.array([5], np.uint64), chances.tables([whole], order), 2, none, none, partners(order))
    tokens = 200_000
    out = np.empty((1, tokens, 2), np.uint16)
    compiled_draw.draw(src, out, np.zeros(tokens, np.int64), np.arange(tokens), np.full(tokens, -1, np.int64))
    chance = {2: 3 / 6, 0: 2 / 6, 1: 1 / 6}
    for first, p in chance.items():
        for second, q in chance.items():
            seen = float(((out[0, :, 0] == first) & (out[0, :, 1] == second)).mean())
            wanted = 0.0 if first == second else p * q / (1 - p)
            assert abs(seen - wanted) <= 4 * (0.25 / tokens) ** 0.5  # four standard deviations at most


@given(st.integers(1, 200), st.floats(0, 5))
def test_chances_add_to_one_and_columns_give_each_rank_what_it_has(experts: int, skew: float) -> None:
    ranks = chances.zipf(experts, skew)
    assert sum(ranks) == chances.ONE
    assert ranks == sorted(ranks, reverse=True)
    table = chances.tables([ranks], np.arange(experts, dtype=np.uint16)[None])
    filled = [0] * experts
    for height, under, over in zip(table.height[0].tolist(), table.under[0].tolist(), table.over[0].tolist(),
                                   strict=True):
        filled[under] += height
        filled[over] += chances.ONE - height
    assert filled == [rank * experts for rank in ranks]


def test_ids_are_the_same_on_any_machine() -> None:
    """Ids of one seed as they were first drawn: whoever changes them changes every seeded result."""
    out = np.empty((2, 3, 3), np.uint16)
    compiled_draw.draw(source(2, 16, 3, 1, 1.0), out, np.array([0, 0, 9]), np.array([0, 1, 4]), np.full(3, -1))
    assert out.tolist() == [[[14, 1, 13], [1, 7, 9], [0, 1, 8]], [[9, 15, 7], [11, 0, 6], [7, 15, 1]]]
    out = np.empty((1, 4, 3), np.uint16)
    all_of_it = source(1, 12, 3, 1, 0.5, members=4, share=0.5, repeat=0.5, pair=0.5)
    compiled_draw.draw(all_of_it, out, np.array([0, 0, 0, 9]), np.array([6, 7, 8, 4]), np.array([0, 0, 0, 9]))
    assert out.tolist() == [[[7, 4, 10], [8, 5, 10], [8, 5, 10], [2, 10, 8]]]
