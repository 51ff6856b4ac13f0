"""Fits find the constants that made the rows, and say what rows do not tell."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studies.fitting import Fit, Table, better, fit_line, fit_roofline

TOKENS = 2.0 ** np.arange(12)
SHAPES = ((4096, 14336), (2048, 768))


def work(tokens: np.ndarray = TOKENS, shapes: tuple[tuple[int, int], ...] = SHAPES) -> tuple[np.ndarray, np.ndarray]:
    """Bytes and flops of gated bf16 experts over some tokens."""
    rows = [(2 * (3 * d * f + t * (2 * d + 2 * f)), 6.0 * t * d * f) for d, f in shapes for t in tokens]
    return np.array([row[0] for row in rows]), np.array([row[1] for row in rows])


def parameters(fit: Fit) -> list[float | None]:
    return [fit.overhead_s, fit.bytes_per_s, fit.flops_per_s]


@settings(max_examples=6, deadline=None)
@given(st.floats(3e-6, 3e-5), st.floats(1e12, 8e12), st.floats(2e14, 1e15))
def test_rows_of_a_roofline_give_its_constants_back(overhead_s: float, bytes_per_s: float, flops_per_s: float) -> None:
    bytes_, flops = work()
    fit = fit_roofline(bytes_, flops, overhead_s + np.maximum(bytes_ / bytes_per_s, flops / flops_per_s))
    assert parameters(fit) == pytest.approx([overhead_s, bytes_per_s, flops_per_s], rel=1e-4)
    assert fit.limits == {}
    assert fit.max < 1e-5


def test_a_tenth_of_the_rows_may_be_disturbed() -> None:
    bytes_, flops = work()
    seconds = 1e-5 + np.maximum(bytes_ / 4e12, flops / 6e14)
    seconds[[3, 17]] *= 3
    fit = fit_roofline(bytes_, flops, seconds)
    assert parameters(fit) == pytest.approx([1e-5, 4e12, 6e14], rel=1e-3)
    assert fit.p50 < 1e-4
    assert fit.max == pytest.approx(2 / 3, rel=1e-2)


def test_a_fit_is_the_same_each_time_and_whatever_the_units_of_its_rows() -> None:
    bytes_, flops = work()
    noise = np.exp(np.random.default_rng(0).normal(0, 0.05, len(bytes_)))
    seconds = noise * (1e-5 + np.maximum(bytes_ / 4e12, flops / 6e14))
    one, again = fit_roofline(bytes_, flops, seconds), fit_roofline(bytes_, flops, seconds)
    assert parameters(one) == parameters(again)
    assert one.residuals.tolist() == again.residuals.tolist()
    other = fit_roofline(bytes_ / 1e6, flops / 1e9, seconds * 1e3)
    assert [other.overhead_s, other.bytes_per_s, other.flops_per_s] == pytest.approx(
        [one.overhead_s * 1e3, one.bytes_per_s / 1e9, one.flops_per_s / 1e12], rel=1e-3)


def test_percentiles_are_of_the_residuals_and_predictions_are_the_model() -> None:
    bytes_, flops = work()
    noise = np.exp(np.random.default_rng(1).normal(0, 0.1, len(bytes_)))
    seconds = noise * (1e-5 + np.maximum(bytes_ / 4e12, flops / 6e14))
    fit = fit_roofline(bytes_, flops, seconds)
    assert fit.predict(bytes_, flops) / seconds - 1 == pytest.approx(fit.residuals)
    by_hand = fit.overhead_s + np.maximum(bytes_ / fit.bytes_per_s, flops / fit.flops_per_s)
    assert fit.predict(bytes_, flops) == pytest.approx(by_hand)
    sorted_ = np.sort(np.abs(fit.residuals))
    assert (fit.n, fit.max) == (24, sorted_[-1])
    assert fit.p50 == pytest.approx((sorted_[11] + sorted_[12]) / 2)
    assert fit.p50 < fit.p90 < fit.p99 < fit.max


# What rows do not tell


def test_rows_that_never_compute_long_give_no_peak() -> None:
    bytes_, flops = work(TOKENS[:4])
    fit = fit_roofline(bytes_, flops, 1e-5 + bytes_ / 4e12)
    assert [fit.overhead_s, fit.bytes_per_s] == pytest.approx([1e-5, 4e12], rel=1e-4)
    assert fit.flops_per_s is None
    assert fit.identified == {"overhead_s": True, "bytes_per_s": True, "flops_per_s": False}
    assert fit.limits["flops_per_s"] == pytest.approx((flops / fit.seconds).max(), rel=1e-4)
    assert fit.predict(bytes_, flops) == pytest.approx(fit.seconds, rel=1e-4)


def test_rows_that_never_read_long_give_no_bandwidth() -> None:
    bytes_, flops = work(TOKENS[-3:])
    fit = fit_roofline(bytes_, flops, 1e-5 + flops / 6e14)
    assert fit.bytes_per_s is None
    assert fit.flops_per_s == pytest.approx(6e14, rel=1e-3)


def test_bytes_in_step_with_flops_tell_neither_rate() -> None:
    size = np.arange(1.0, 20.0) * 1e6
    fit = fit_roofline(size, 100 * size, 1e-5 + size / 4e12)
    assert (fit.bytes_per_s, fit.flops_per_s) == (None, None)
    assert fit.predict(size, 100 * size) == pytest.approx(fit.seconds, rel=1e-4)


def test_few_tokens_of_one_shape_leave_the_overhead_open() -> None:
    # The bytes are a constant and a little more for each token, so the little more may as well be flops.
    bytes_, flops = work(TOKENS[:7], SHAPES[1:])
    fit = fit_roofline(bytes_, flops, 1e-5 + bytes_ / 4e12)
    assert fit.overhead_s is None
    assert fit.limits["overhead_s"] * (1 + 1e-6) >= 1e-5
    assert fit.max < 1e-4


def test_a_row_alone_tells_nothing_but_its_own_time() -> None:
    fit = fit_line([4096.0], [1e-5])
    assert parameters(fit) == [None, None, None]
    assert fit.predict(4096.0) == pytest.approx(1e-5)


# Lines and floors


@settings(max_examples=6, deadline=None)
@given(st.floats(1e-6, 2e-5), st.floats(1e9, 1e12))
def test_copies_give_latency_and_bandwidth_back(latency_s: float, bytes_per_s: float) -> None:
    size = 2.0 ** np.arange(12, 30)
    fit = fit_line(size, latency_s + size / bytes_per_s)
    assert [fit.overhead_s, fit.bytes_per_s] == pytest.approx([latency_s, bytes_per_s], rel=1e-4)
    assert fit.flops_per_s is None


@pytest.mark.parametrize("floor", [7e-5, "fitted"])
def test_a_queued_measure_shows_the_longer_of_kernel_and_issue(floor: float | str) -> None:
    bytes_, flops = work()
    seconds = np.maximum(1e-5 + np.maximum(bytes_ / 4e12, flops / 6e14), 7e-5)
    fit = fit_roofline(bytes_, flops, seconds, floor=floor)
    assert parameters(fit) == pytest.approx([1e-5, 4e12, 6e14], rel=1e-3)
    assert fit.floor_s == pytest.approx(7e-5, rel=1e-4)
    assert fit.predict(bytes_[-12:], flops[-12:])[0] < 2e-5
    assert fit.predict_measured(bytes_, flops) == pytest.approx(seconds, rel=1e-3)


@pytest.mark.parametrize("columns", [([], [], []), ([1.0], [1.0, 2.0], [1.0]), ([1.0], [1.0], [0.0]),
                                     ([-1.0], [1.0], [1.0]), ([1.0], [np.nan], [1.0])])
def test_rows_that_are_no_measurement_are_refused(columns: tuple[list[float], ...]) -> None:
    with pytest.raises(ValueError, match=r"nothing was measured|do not belong together|not positive"):
        fit_roofline(*columns)


# Tables


def test_a_table_gives_its_knots_back_and_is_straight_in_logarithms_between() -> None:
    table = Table.of([1, 4, 16], [1e-5, 2e-5, 8e-5])
    assert table.max < 1e-12
    assert table.predict([1, 2, 4, 8, 16]) == pytest.approx([1e-5, 2 ** 0.5 * 1e-5, 2e-5, 4e-5, 8e-5])


def test_a_table_never_falls_and_goes_on_in_proportion() -> None:
    table = Table.of([1, 2, 4, 8], [1e-5, 3e-5, 2e-5, 4e-5])
    assert np.all(np.diff(table.predict(np.arange(1, 40))) >= -1e-18)
    assert table.predict([2, 4]) == pytest.approx([6 ** 0.5 * 1e-5] * 2)
    assert table.predict([0.5, 16]) == pytest.approx([1e-5, 8e-5])


def test_rows_of_the_same_tokens_are_one_knot() -> None:
    table = Table.of([1, 1, 2], [1e-5, 4e-5, 8e-5])
    assert table.predict([1]) == pytest.approx([2e-5])
    assert sorted(np.abs(table.residuals)) == pytest.approx([0, 0.5, 1])


def test_a_row_left_out_is_judged_by_the_others() -> None:
    bytes_, flops = work(shapes=SHAPES[:1])
    seconds = 1e-5 + np.maximum(bytes_ / 4e12, flops / 6e14)
    seconds[5] *= 2
    fit, table = fit_roofline(bytes_, flops, seconds), Table.of(TOKENS, seconds)
    assert fit.left_out[5] == pytest.approx(-0.5, abs=0.01)
    between = (seconds[4] * seconds[6]) ** 0.5
    assert table.left_out[5] == pytest.approx(between / seconds[5] - 1)
    assert table.inner.tolist() == [False, *[True] * 10, False]


def test_a_table_pays_where_time_goes_in_a_way_that_no_roofline_does() -> None:
    bytes_, flops = work(shapes=SHAPES[:1])
    roofline = 1e-5 + np.maximum(bytes_ / 4e12, flops / 6e14)
    fit = fit_roofline(bytes_, flops, roofline)
    assert better(fit, Table.of(TOKENS, roofline)) is fit
    bent = 1e-5 * TOKENS ** 0.4
    table = Table.of(TOKENS, bent)
    assert better(fit_roofline(bytes_, flops, bent), table) is table


def test_a_table_is_held_against_its_own_rows_of_a_fit_to_several_shapes() -> None:
    bytes_, flops = work()
    seconds = 1e-5 + np.maximum(bytes_ / 4e12, flops / 6e14)
    fit, first = fit_roofline(bytes_, flops, seconds), np.arange(24) < 12
    assert better(fit, Table.of(TOKENS, seconds[first]), first) is fit
    with pytest.raises(ValueError, match="24 rows of the fit and 12 rows of the table"):
        better(fit, Table.of(TOKENS, seconds[first]))
