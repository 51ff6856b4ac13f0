"""Live requests: the same steps as of a table that is known before, whoever leaves, in a table that stays small."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulation.errors import ConfigError
from workloads.batchers import token_buffering
from workloads.live import LiveServing

from .serving_rig import BATCHERS, MANY, asked, run, serving


def live(batcher: str = "fcfs", *, max_open: int = 8, homes: tuple[int, ...] = (0,), max_batch: int = MANY,
         budget: int = MANY, blocks: int = MANY) -> LiveServing:
    return LiveServing(BATCHERS[batcher](), homes, max_open=max_open, max_batch=max_batch, token_budget=budget,
                       block_tokens=1, capacity_blocks=np.full(len(homes), blocks, np.int64))


def works(of: LiveServing) -> list[dict[int, int]]:
    """Request -> tokens, of all steps that are left."""
    out = []
    while (found := of.next(lambda: 0)) is not None:
        numbers, counts = np.unique(found[0].sequence, return_counts=True)
        out.append(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
    return out


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(BATCHERS)), st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=1,
                                                   max_size=8), st.integers(1, 3), st.integers(13, 30))
def test_requests_that_are_all_there_make_the_steps_of_a_fixed_table(
        batcher: str, rows: list[tuple[int, int]], homes: int, blocks: int) -> None:
    named = tuple(range(homes))
    of = live(batcher, homes=named, max_batch=3, budget=6, blocks=blocks)
    for prompt, output in rows:
        of.add(0, prompt, output)
    fixed = serving(asked(*rows), batcher, homes=named, max_batch=3, budget=6, blocks=blocks)
    assert works(of) == [one.work for one in run(fixed)]
    assert (of.used_blocks, of.open) == (0, 0)
    assert of.cache.peak.tolist() == fixed.cache.peak.tolist()


def test_a_table_of_eight_rows_serves_a_thousand_requests_in_order() -> None:
    of, met = live(max_open=4, max_batch=2, budget=5, blocks=12), list[int]()
    while len(met) < 1000:
        while of.open < 4:
            of.add(0, 1 + of.added % 4, 1 + of.added % 3)
        found = of.next(lambda: 0)
        assert found is not None
        met += [number for number in dict.fromkeys(found[0].sequence.tolist()) if number >= len(met)]
    assert met == list(range(len(met)))
    assert len(of.requests) == 8
    with pytest.raises(ValueError, match="4 requests are open"):
        [of.add(0, 1, 1) for _ in range(5)]


def test_who_leaves_gives_up_his_blocks_at_once_and_the_others_go_on() -> None:
    of = live(blocks=12)
    numbers = [of.add(0, 3, 9 - i) for i in range(2)]
    of.next(lambda: 0)
    assert of.used_blocks == 6
    assert of.cancel(numbers[0])
    assert (of.used_blocks, of.open) == (3, 1)
    assert not of.cancel(numbers[0])
    assert not of.cancel(7)
    third = of.add(0, 2, 1)
    assert works(of)[0] == {numbers[1]: 1, third: 2}
    assert of.used_blocks == 0


def test_what_cannot_be_served_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="12 positions"):
        live(blocks=12).add(0, 10, 4)
    with pytest.raises(ConfigError, match=r"workload\.serving\.batcher"):
        LiveServing(token_buffering.Batcher(), (0,), max_open=1, max_batch=1, token_budget=1, block_tokens=1,
                    capacity_blocks=np.array([1]))
