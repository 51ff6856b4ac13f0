"""Placement by history: by hand with ties and full units, and better than the original order on skewed routing."""

from dataclasses import replace

import numpy as np
import pytest

from emulation.errors import ConfigError
from emulation.view import Visits
from schedulers._placement import PLACEMENTS, SHARE, correlations, device_shares, owners_by, placed, shares
from schedulers.registry import load_policy
from tests.schedulers.rig import drive, fast_engine, gpus, model, routing, scheduler, setting, step


def history(*batches):
    """Counts of one layer, batch by batch."""
    return np.array(batches, np.int64)[:, None, :]


def owner(how, units, *batches):
    return owners_by(history(*batches), units, how)[0].tolist()


def test_greedy_gives_each_expert_to_the_least_loaded_unit_with_room():
    # by share: 3 (5), 0 (4), 2 (2), 5 (1), then 1 and 4 (0). 3 -> 0; 0 -> 1; 2 -> 1 (4 < 5); 5 -> 0 (5 < 6); at 6 each
    # 1 -> 0, the lower unit, and 4 -> 1: unit 0 is full
    assert owner("greedy", 2, [4, 0, 2, 5, 0, 1]) == [1, 0, 1, 0, 1, 0]


def test_greedy_skips_a_full_unit_however_little_it_has():
    assert owner("greedy", 2, [10, 9, 1, 0]) == [0, 1, 1, 0]
    # nothing is known of any: all sums are equal, and the lowest unit with room takes each in turn
    assert owner("greedy", 2, [0, 0, 0, 0]) == [0, 0, 1, 1]
    assert owner("greedy", 3, [0, 0, 0, 0]) == [0, 0, 1, 2]


def test_greedy_takes_the_mean_of_shares_and_not_of_counts():
    # expert 0 has all of a small batch and none of a large one: half on the mean; 1 and 2 have a fourth each
    assert shares(np.array([[2, 0, 0], [0, 50, 50], [0, 0, 0]])).sum(axis=0).tolist() == [SHARE, SHARE // 2, SHARE // 2]


def test_correlations_are_pearsons():
    rng = np.random.default_rng(2)
    counts = rng.integers(0, 30, (40, 6))
    counts[:, 5] = 0
    of = shares(counts, 1 << 16)
    assert np.allclose(correlations(of)[:5, :5], np.corrcoef(of[:, :5].T))
    assert (correlations(of)[5] == 0).all()


def test_anticorrelation_parts_what_is_active_together():
    # 0 and 3 are active together, and so are 1 and 2; all have one mean share, so greedy goes by ids
    together = [[4, 0, 0, 4], [0, 4, 4, 0], [4, 0, 0, 4], [0, 4, 4, 0]]
    assert owner("greedy", 2, *together) == [0, 1, 0, 1]
    alike = [[4, 4, 0, 0], [0, 0, 4, 4], [4, 4, 0, 0], [0, 0, 4, 4]]
    # 0 -> 0; 1 is 1/2 dearer on 0, -> 1; 2: on both, one that it is never active with: unit 0; 3 -> 1
    assert owner("anticorrelation", 2, *alike) == [0, 1, 0, 1]
    assert owner("contiguous", 2, *alike) == [0, 0, 1, 1]
    # with 0 and 2 together: 0 -> 0, 1 -> 0 (-1/2 is less than nothing), 2 and 3 -> 1, where there is room
    apart = [[4, 0, 4, 0], [0, 4, 0, 4], [4, 0, 4, 0], [0, 4, 0, 4]]
    assert owner("anticorrelation", 2, *apart) == [0, 0, 1, 1]
    assert owner("greedy", 2, *apart) == [0, 1, 0, 1]
    for how in ("anticorrelation", "anticorrelation_scaled"):
        worst = device_shares(Visits(np.arange(4), history(*apart)), owners_by(history(*apart), 2, how), 2).max()
        assert worst == 0.5


def test_scaled_correlation_is_small_beside_large_shares():
    """0 and 1 have most of the tokens and are apart; 2 is active with 0. As published a correlation outweighs that."""
    batches = [[40, 30, 6, 0], [36, 34, 2, 4], [41, 29, 6, 0], [35, 35, 2, 4]]
    assert owner("anticorrelation", 2, *batches) != owner("anticorrelation_scaled", 2, *batches)


def test_without_batches_no_correlation_is_known():
    given = setting(gpus(2), model(moe_layers=1, experts=4, top_k=1), popularity=np.array([[1, 3, 5, 2]]))
    greedy = placed(given, 2, "greedy").tolist()
    assert greedy == [[0, 1, 0, 1]]
    assert placed(given, 2, "anticorrelation").tolist() == greedy
    wrong = replace(given, popularity=np.ones((2, 4), np.int64))
    with pytest.raises(ConfigError, match=r"the history counts \(2, 4\) .*, but the model has \(1, 4\)"):
        placed(wrong, 2, "greedy")


@pytest.mark.parametrize("how", PLACEMENTS)
def test_every_unit_gets_as_many_experts_as_in_the_original_order(how):
    rng = np.random.default_rng(5)
    counts = rng.integers(0, 9, (6, 3, 11))
    for of in owners_by(counts, 4, how):
        assert sorted(np.bincount(of, minlength=4).tolist()) == [2, 3, 3, 3]


def skewed(seed, batches):
    """Batches of 40 tokens over 16 experts, of which the first few are hot."""
    chance = 1.0 / np.arange(1, 17)
    rng = np.random.default_rng(seed)
    return np.stack([rng.multinomial(40, chance / chance.sum(), size=2) for _ in range(batches)])


def test_the_first_half_places_and_the_second_is_better_balanced_for_it():
    counts = skewed(1, 40)
    second = Visits(np.arange(20), counts[20:])
    worst = {how: float(device_shares(second, owners_by(counts[:20], 4, how), 4).max(axis=2).mean())
             for how in PLACEMENTS}
    assert worst["greedy"] < 0.75 * worst["contiguous"]
    assert worst["anticorrelation_scaled"] < 0.75 * worst["contiguous"]


def test_a_placement_by_history_changes_plan_and_time():
    """Both hot experts lie on one GPU in the original order; greedy parts them."""
    of = model(moe_layers=1, experts=4, top_k=1)
    ends, where = [], []
    for how in ("contiguous", "greedy"):
        run = scheduler(gpus(2), of, load_policy("expert_parallel", {"placement": how}), fast_engine(),
                        popularity=np.array([[9, 8, 1, 1]]))
        [decision] = drive(run, [(step(0, 8, (0, 1)), [routing([[0], [1]] * 4)], [None])])
        where.append([(row.expert, row.device) for row in decision.plan.rows])
        ends.append(run.steps[0].end_ps)
    assert where == [[(0, 0), (1, 0)], [(0, 0), (1, 1)]]
    assert ends[1] < ends[0]
