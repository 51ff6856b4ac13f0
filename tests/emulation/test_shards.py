"""Shards of an expert: every column once, in order, sizes that differ by one at most."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulation.shards import slice_bounds


@given(st.integers(0, 10_000), st.integers(1, 70))
@settings(deadline=None)
def test_bounds_cover_each_column_once_and_evenly(extent, parts):
    bounds = slice_bounds(extent, parts)
    assert len(bounds) == parts
    assert [column for lo, hi in bounds for column in (lo, hi)] == sorted(c for row in bounds for c in row)
    assert bounds[0][0] == 0
    assert bounds[-1][1] == extent
    assert all(before[1] == after[0] for before, after in pairwise(bounds))
    sizes = [hi - lo for lo, hi in bounds]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1


def test_the_first_parts_take_the_remainder():
    assert slice_bounds(11, 4) == ((0, 3), (3, 6), (6, 9), (9, 11))
    assert slice_bounds(2, 4) == ((0, 1), (1, 2), (2, 2), (2, 2))


def test_a_cut_into_no_parts_is_refused():
    with pytest.raises(ValueError, match="an expert is cut into at least one part, not 0"):
        slice_bounds(8, 0)
    with pytest.raises(ValueError, match="an expert has no -1 columns to cut"):
        slice_bounds(-1, 2)
