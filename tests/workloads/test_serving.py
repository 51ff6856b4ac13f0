"""Continuous batching: schedules worked by hand, and laws that every batcher keeps."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulation.errors import ConfigError, PlanError
from emulation.view import DECODE, PREFILL
from workloads.batchers.contract import Batch, Queues
from workloads.requests import Requests

from .serving_rig import BATCHERS, Ran, asked, first_tokens, run, serving

THREE = asked((5, 2), (3, 3), (2, 1))
"""Two run at once, four tokens a step: the first prompt takes two steps, the third request waits for a place."""


@pytest.mark.parametrize(("batcher", "steps", "first"), [
    ("fcfs", [{0: 4}, {0: 1, 1: 3}, {0: 1, 1: 1}, {1: 1, 2: 2}], {0: 20, 1: 20, 2: 40}),
    ("decode_first", [{0: 4}, {0: 1, 1: 3}, {0: 1, 1: 1}, {1: 1, 2: 2}], {0: 20, 1: 20, 2: 40}),
    ("prefill_first", [{0: 4}, {0: 1, 1: 3}, {0: 1, 1: 1}, {2: 2}, {1: 1}], {0: 20, 1: 20, 2: 40}),
    ("exclusive", [{0: 4}, {0: 1, 1: 3}, {0: 1, 1: 1}, {1: 1}, {2: 2}], {0: 20, 1: 20, 2: 50})])
def test_three_requests_by_hand(batcher: str, steps: list[dict[int, int]], first: dict[int, int]) -> None:
    ran = run(serving(THREE, batcher, max_batch=2, budget=4))
    assert [one.work for one in ran] == steps
    assert first_tokens(ran) == first


def test_rows_of_a_mixed_step_by_hand() -> None:
    ran = run(serving(THREE, max_batch=2, budget=4))
    assert ran[1].step.sequence.tolist() == [0, 1, 1, 1]
    assert ran[1].step.position.tolist() == [4, 0, 1, 2]
    assert ran[1].step.ends.tolist() == [True, False, False, True]
    assert ran[2].step.phase.tolist() == [DECODE, DECODE]
    assert ran[3].step.phase.tolist() == [DECODE, PREFILL, PREFILL]
    assert ran[3].step.position.tolist() == [4, 0, 1]
    assert [one.step.number for one in ran] == [0, 1, 2, 3]


def test_the_last_to_come_is_preempted_and_computes_its_answer_anew() -> None:
    # seven blocks of one token: after the prompts (3 + 3) one more fits, and two are asked for
    of = serving(asked((3, 4), (3, 4), (3, 2)), blocks=7)
    ran = run(of)
    assert [one.work for one in ran] == [{0: 3, 1: 3}, {0: 1}, {0: 1}, {0: 1}, {1: 4, 2: 3}, {1: 1}, {1: 1}, {2: 4}]
    assert ran[4].step.position.tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert (ran[4].step.phase == PREFILL).all()
    assert ran[4].step.ends.tolist() == [False, False, False, True, False, False, True]
    assert of.preemptions.tolist() == [0, 1, 1]
    assert (of.recomputed_tokens, of.cache.peak.tolist()) == (6, [7])


@pytest.mark.parametrize("batcher", BATCHERS)
def test_a_queue_with_steady_arrivals_and_service_has_no_wait(batcher: str) -> None:
    """D/D/1 with service 10 every 15: each request starts as it comes, and the server idles between."""
    ran = run(serving(asked(*[(4, 1)] * 20, arrivals=[15 * i for i in range(20)]), batcher, max_batch=1))
    assert [one.begin_ps for one in ran] == [15 * i for i in range(20)]


@pytest.mark.parametrize("batcher", BATCHERS)
def test_a_queue_that_is_too_fast_grows_by_the_difference(batcher: str) -> None:
    """D/D/1 with service 10 every 6: request n waits n (10 - 6)."""
    ran = run(serving(asked(*[(4, 1)] * 20, arrivals=[6 * i for i in range(20)]), batcher, max_batch=1))
    assert [one.begin_ps - 6 * i for i, one in enumerate(ran)] == [4 * i for i in range(20)]


def test_the_clock_is_asked_only_while_somebody_is_still_to_come() -> None:
    asked_at: list[int] = []
    run(serving(THREE), asked_at=asked_at)
    assert asked_at == []
    run(serving(asked((2, 3), (2, 3), arrivals=[0, 15])), asked_at=asked_at)
    assert asked_at == [0, 10, 20]  # from then on both are there


def test_who_comes_at_the_very_end_of_a_step_is_in_the_next() -> None:
    ran = run(serving(asked((2, 3), (2, 1), arrivals=[0, 10])))
    assert [one.work for one in ran] == [{0: 2}, {0: 1, 1: 2}, {0: 1}]


def test_homes_have_caches_of_their_own() -> None:
    """Requests 0 and 2 lie on one home, 1 on the other; 2 waits for 0 alone."""
    of = serving(asked((4, 2), (4, 3), (4, 1)), homes=(7, 9), blocks=6)
    ran = run(of)
    assert [one.work for one in ran] == [{0: 4, 1: 4}, {0: 1, 1: 1}, {1: 1, 2: 4}]
    assert ran[0].step.home.tolist() == [7] * 4 + [9] * 4
    assert of.cache.peak.tolist() == [5, 6]


# Prefixes


def test_a_shared_prefix_is_computed_once() -> None:
    of = serving(asked((6, 1), (6, 1), (7, 1), prefix=[0, 0, 0], prefix_tokens=5), block=2)
    ran = run(of)
    # blocks of two: four of the five tokens are shared; the others wait until they are there
    assert [one.work for one in ran] == [{0: 6}, {1: 2, 2: 3}]
    assert ran[1].step.position.tolist() == [4, 5, 4, 5, 6]
    assert of.cache.kept_tokens == 8
    assert of.cache.peak.tolist() == [2 + 1 + 2]


def test_a_prefix_that_nobody_runs_with_gives_way() -> None:
    requests = asked((3, 1), (4, 1), (3, 1), prefix=[0, -1, 0], prefix_tokens=2)
    of = serving(requests, max_batch=1, blocks=5)
    assert [one.work for one in run(of)] == [{0: 3}, {1: 4}, {2: 3}]  # 4 + 2 do not fit in 5: computed again
    of = serving(requests, max_batch=1, blocks=6)
    assert [one.work for one in run(of)] == [{0: 3}, {1: 4}, {2: 1}]


def test_a_prefix_goes_with_the_last_that_begins_with_it() -> None:
    of = serving(asked((3, 1), (4, 1), (4, 2), prefix=[0, 0, -1], prefix_tokens=2))
    run(of)
    assert of.cache.peak.tolist() == [2 + 1 + 4 + 2]  # step 1 holds the prefix, what 1 adds, and 2 with its answer
    assert not of.cache.ready.any()


def test_nobody_starts_in_the_room_that_a_prompt_under_way_still_needs() -> None:
    of = serving(asked((6, 1), (3, 1)), budget=4, blocks=7)
    assert [one.work for one in run(of)] == [{0: 4}, {0: 2}, {1: 3}]  # one block is free beside the first prompt


# Laws


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Requests, dict[str, Any]]:
    count = draw(st.integers(1, 9))
    rows = [(draw(st.integers(4, 12)), draw(st.integers(1, 6))) for _ in range(count)]
    prefix = [draw(st.integers(-1, 1)) for _ in range(count)] if draw(st.booleans()) else None
    arrivals = sorted(draw(st.integers(0, 80)) for _ in range(count)) if draw(st.booleans()) else None
    homes = (3, 5)[:draw(st.integers(1, 2))]
    block = draw(st.integers(1, 4))
    room = max(-(-(p + o - 1) // block) for p, o in rows) + draw(st.integers(0, 8))
    return asked(*rows, arrivals=arrivals, prefix=prefix, prefix_tokens=3), {
        "homes": homes, "block": block, "blocks": room, "budget": draw(st.integers(1, 16)),
        "max_batch": draw(st.integers(1, 6))}


def held_blocks(ran: list[Ran], world: dict[str, Any], home: int) -> list[int]:
    """Blocks held in each step, found anew from the steps alone; prefixes count for each request by itself."""
    last = {n: i for i, one in enumerate(ran) for n in one.step.sequence.tolist()}
    kept: dict[int, int] = {}
    out = []
    for i, one in enumerate(ran):
        for number, position in zip(one.step.sequence.tolist(), one.step.position.tolist(), strict=True):
            kept[number] = position + 1
        out.append(sum(-(-k // world["block"]) for n, k in kept.items()
                       if n % len(world["homes"]) == home))
        for number in [n for n in kept if last[n] == i]:
            del kept[number]
    return out


@settings(max_examples=150, deadline=None)
@given(worlds(), st.sampled_from(sorted(BATCHERS)))
def test_laws(world: tuple[Requests, dict[str, Any]], batcher: str) -> None:
    requests, limits = world
    of = serving(requests, batcher, **limits)
    ran = run(of, lambda step: 1 + len(step))
    made = dict.fromkeys(range(len(requests)), 0)
    begun: dict[int, int] = {}
    reach = dict.fromkeys(made, 0)
    for one in ran:
        step = one.step
        assert len(step) <= limits["budget"]
        assert len(one.work) <= limits["max_batch"]
        for n in one.work:
            mine = step.position[step.sequence == n]
            assert (np.diff(mine) == 1).all()
            begun.setdefault(n, one.begin_ps)
            assert one.begin_ps >= requests.arrival_ps[n]
            if mine[0] != reach[n]:  # from the start again, or from behind the shared prefix
                assert mine[0] in (0, 3 // limits["block"] * limits["block"])
            reach[n] = int(mine[-1]) + 1
            ends = step.ends[step.sequence == n]
            assert not ends[:-1].any()
            known = int(requests.prompt_tokens[n]) + made[n]
            assert bool(ends[-1]) == (reach[n] == known)
            made[n] += int(ends[-1])
    assert made == dict(enumerate(requests.output_tokens.tolist()))  # everyone is served, each token once
    for home in range(len(limits["homes"])):
        mine = [begun[n] for n in sorted(begun) if n % len(limits["homes"]) == home and requests.prefix[n] < 0]
        assert mine == sorted(mine)  # first come, first served
    assert (of.cache.peak <= limits["blocks"]).all()
    assert not of.cache.private.any()
    if (requests.prefix < 0).all() and not of.preemptions.any():
        peaks = [max(held_blocks(ran, limits, home)) for home in range(len(limits["homes"]))]
        assert of.cache.peak.tolist() == peaks


def test_runs_are_alike() -> None:
    one, two = (run(serving(THREE, "fcfs", max_batch=2, budget=3)) for _ in range(2))
    assert [step.work for step in one] == [step.work for step in two]


# Refusals


@dataclass(frozen=True)
class Scripted:
    """Returns what it is told."""

    answer: Any
    clock: ClassVar[bool] = False

    def batch(self, queues: Queues) -> Any:
        return self.answer


def a(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


@pytest.mark.parametrize(("answer", "sentence"), [
    (None, "returned NoneType"),
    (Batch([0], a(1)), "the batcher's number is list"),  # type: ignore[arg-type]
    (Batch(a(0) * 1.5, a(1)), r"number is float64 \[1\]"),
    (Batch(a(0, 1), a(1)), "names 2 requests and 1 counts"),
    (Batch(a(3), a(1)), "names request 3; there are 3"),
    (Batch(a(-1), a(1)), "names request -1"),
    (Batch(a(0, 0), a(1, 1)), "names request 0 twice"),
    (Batch(a(0), a(0)), "gives request 0 0 tokens; it has 5"),
    (Batch(a(0), a(6)), "gives request 0 6 tokens; it has 5"),
    (Batch(a(0), a(1), a(1)), "pre-empts request 1, which is not running"),
    (Batch(a(0, 1), a(3, 3)), "spends 6 tokens; the budget is 5"),
    (Batch(a(0, 1, 2), a(1, 1, 1)), "lets 3 requests run at once; at most 2"),
    (Batch(a(0, 1), a(3, 2)), "needs more than the 6 KV blocks of home 0"),
    (Batch(a(), a()), "runs nothing in step 0, while 0 requests run, 3 wait")])
def test_what_a_batcher_may_not_do(answer: Any, sentence: str) -> None:
    of = serving(THREE, Scripted(answer), max_batch=2, budget=5, blocks=6)
    if "KV" in sentence:
        of.cache.private[:] = 2  # somebody else's
    with pytest.raises(PlanError, match=sentence) as caught:
        of.next(lambda: 0)
    assert "\n" not in str(caught.value)


def test_a_request_that_fits_no_cache_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"holds 5 blocks of 2 tokens, and request 1 \(9 tokens in, 3 out\) needs 6"):
        serving(asked((2, 1), (9, 3)), block=2, blocks=5)
