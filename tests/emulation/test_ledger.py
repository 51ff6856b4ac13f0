"""Which shard lies where, what that takes of memory, and what is refused. An expert has 384 bytes."""

import numpy as np
import pytest

from emulation.errors import PlanError
from emulation.ledger import ABSENT, Ledger, Start
from emulation.plan import ALL_PARTS
from tests.schedulers.rig import chiplets, gpu_and_units, model, resting

GPU, UNIT0, UNIT1 = 0, 1, 2
OF = model(moe_layers=2, experts=3, top_k=1, dense=True)


def ledger(start: Start | None = None, budget=(1000, 10**6, 10**6), machine=None) -> Ledger:
    whole = resting(2, [[UNIT0]] * 3)
    return Ledger(machine or gpu_and_units(2), OF, start or whole, np.array(budget, np.int64))


def test_what_rests_is_held_and_takes_memory():
    book = ledger()
    assert book.used_bytes.tolist() == [0, 6 * 384, 0]
    assert book.rests(0, UNIT0).tolist() == book.held(0, UNIT0).tolist() == [True] * 3
    assert book.held(0, GPU).tolist() == [False] * 3
    assert book.since(0, GPU).tolist() == [ABSENT] * 3


def test_slices_take_what_their_columns_take():
    # 8 columns over 3 parts: 3, 3 and 2 columns of 48 bytes
    book = ledger(resting(2, [[UNIT0, UNIT1, UNIT0]] * 3))
    assert book.part_bytes.tolist() == [144, 144, 96]
    assert book.used_bytes.tolist() == [0, 6 * 240, 6 * 144]
    assert not book.rests(0, UNIT0).any()
    assert book.has(UNIT0, 0, 1, 2)
    assert not book.has(UNIT0, 0, 1, ALL_PARTS)


def test_loads_and_evictions_move_used_and_peak():
    book = ledger()
    book.load(GPU, 1, 0, ALL_PARTS)
    book.load(GPU, 1, 2, ALL_PARTS)
    assert book.since(1, GPU).tolist() == [1, ABSENT, 2]
    assert (book.used_bytes[GPU], book.free_bytes(GPU)) == (768, 232)
    assert book.evict(GPU, 1, 0, ALL_PARTS) == [0]
    assert book.held(1, GPU).tolist() == [False, False, True]
    assert (book.used_bytes[GPU], book.peak_bytes[GPU]) == (384, 768)


def test_first_copies_are_older_than_any_load():
    book = ledger(resting(2, [[UNIT0]] * 3, {GPU: [(1, 2)]}))
    book.load(GPU, 1, 0, ALL_PARTS)
    assert book.since(1, GPU).tolist() == [1, ABSENT, 0]
    assert book.held(0, GPU).tolist() == [False] * 3


def test_eviction_leaves_what_rests_and_tells_which_copies_went():
    book = ledger(resting(2, [[UNIT0, UNIT1]] * 3))
    book.load(UNIT0, 0, 0, 1)
    assert book.has(UNIT0, 0, 0, ALL_PARTS)
    assert book.evict(UNIT0, 0, 0, ALL_PARTS) == [1]
    assert book.has(UNIT0, 0, 0, 0)
    assert not book.has(UNIT0, 0, 0, 1)


def copied_where_it_rests() -> Ledger:
    return ledger(resting(2, [[UNIT0]] * 3, {UNIT0: [(1, 2)]}))


def over_capacity() -> None:
    book = ledger()
    for expert in range(3):
        book.load(GPU, 0, expert, ALL_PARTS)


@pytest.mark.parametrize(("act", "says"), [
    (over_capacity, "room for 1.000 kB of experts, and with the load of expert 2 of layer 1 it holds 1.152 kB"),
    (lambda: ledger(budget=(0, 100, 0)), "'unit0' has room for 100 B of experts, and with experts that rest there it"),
    (lambda: ledger(resting(2, [[UNIT0]] * 3, {GPU: [(0, 0), (0, 1), (1, 0)]})), "and with its first copies it holds"),
    (lambda: ledger(resting(2, [[GPU]] * 3)), "rests experts on 'gpu', where none can rest; they can on: unit0, unit1"),
    (lambda: ledger(resting(1, [[UNIT0]] * 3)), r"places \(1, 3\) \(layers, experts\), the model has \(2, 3\)"),
    (copied_where_it_rests, "copies expert 2 of layer 2 to 'unit0', where it rests already"),
    (lambda: ledger().load(UNIT0, 0, 1, ALL_PARTS), "loads expert 1 of layer 1 to 'unit0', which holds it already"),
    (lambda: ledger(resting(2, [[UNIT0] * 2] * 3)).load(UNIT0, 0, 1, ALL_PARTS), "loads expert 1 of layer 1 to 'unit0"),
    (lambda: ledger(resting(2, [[UNIT0] * 2] * 3)).load(UNIT0, 0, 1, 1), "loads expert 1 part 1 of layer 1 to 'unit0"),
    (lambda: ledger().evict(GPU, 1, 1, ALL_PARTS), "evicts expert 1 of layer 2 from 'gpu', which holds no copy of it"),
    (lambda: ledger().evict(UNIT0, 1, 1, ALL_PARTS), "evicts expert 1 of layer 2 from 'unit0', which holds no copy"),
    (lambda: ledger(resting(2, [[UNIT0, UNIT1]] * 3)).evict(GPU, 1, 1, ALL_PARTS), "evicts expert 1 of layer 2 from"),
    (lambda: ledger().refuse_absent(GPU, 0, 1, 0), r"runs expert 1 of layer 1 on 'gpu', .* rests \(unit0\)"),
    (lambda: ledger(resting(2, [[UNIT0, UNIT1]] * 3)).refuse_absent(GPU, 0, 1, 1), "expert 1 part 1 .*unit0, unit1"),
])
def test_what_cannot_be_is_refused_in_one_sentence(act, says):
    with pytest.raises(PlanError, match=says) as told:
        act()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(("budget", "says"), [
    (10**9, "1.000 GB"), (10**9 - 10**6, "999.000 MB"), (10**6, "1.000 MB"), (10**6 - 10**3, "999.000 kB"),
    (10**3, "1.000 kB"), (999, "999 B")])
def test_bytes_are_told_in_the_largest_unit_that_they_fill(budget, says):
    # 3 matrices of 10^4 x 10^5 weights of 2 bytes
    large = model(moe_layers=1, experts=1, top_k=1, d_model=10**4, d_ff=10**5)
    with pytest.raises(PlanError) as told:
        Ledger(gpu_and_units(1), large, resting(1, [[UNIT0]]), np.array([0, budget]))
    assert str(told.value) == (f"'unit0' has room for {says} of experts, and with experts that rest there it holds "
                               "6.000 GB: use fewer slots, a smaller precision or more memory")


def test_a_failed_load_changes_nothing():
    book = ledger()
    book.load(GPU, 0, 0, ALL_PARTS)
    before = book.used_bytes.tolist()
    for expert in (0, 1, 2):
        try:
            book.load(GPU, 0, expert, ALL_PARTS)
        except PlanError:
            continue
    assert book.held(0, GPU).tolist() == [True, True, False]
    assert book.used_bytes.tolist() == [before[0] + 384, *before[1:]]


def test_memory_that_computes_nothing_may_hold_experts():
    book = ledger(resting(2, [[4], [5], [6]]), [0] * 4 + [10**6] * 4, chiplets())
    assert book.used_bytes.tolist() == [0] * 4 + [768, 768, 768, 0]
