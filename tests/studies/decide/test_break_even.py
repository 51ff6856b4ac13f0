"""Break-evens that can be computed by hand: the time of these machines is latency + bytes / bandwidth."""

from pathlib import Path

import pytest

from studies.decide.decision import BreakEven, Decision
from studies.decide.study import load_decide
from studies.decide.uncertain import spearman, wilson
from tests.studies.decide.rig import EXPERT_BYTES, decided, machine, pair, quantity, seconds


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Decision:
    return decided(tmp_path_factory.mktemp("pair"), objective="tpot_p50")


def break_even(made: Decision, constant: str) -> BreakEven:
    (found,) = [one for one in made.break_evens if one.constant == constant]
    return found


def test_the_values_that_the_decision_compares_are_those_of_the_formula(made: Decision) -> None:
    (place,) = made.places
    near, wide = place.of("near").value, place.of("wide").value
    assert near is not None
    assert wide is not None
    assert near / wide == pytest.approx(seconds(6e9) / seconds(8e9, 0.2e-3), rel=1e-6)
    assert near / seconds(6e9) == pytest.approx(8, rel=1e-6)  # top-8: so many copies a token
    assert (place.winner, place.margin) == ("wide", near / wide)
    assert made.verdict[0].startswith("wide has the least TPOT P50: ")


def test_the_winner_changes_at_the_value_that_is_computed_by_hand(made: Decision) -> None:
    by_hand = {
        "near.links.link.bandwidth": ("below", EXPERT_BYTES / seconds(8e9, 0.2e-3)),
        "wide.links.link.bandwidth": ("above", EXPERT_BYTES / (seconds(6e9) - 0.2e-3)),
        "wide.links.link.latency": ("below", seconds(6e9) - seconds(8e9))}
    assert [one.constant for one in made.break_evens if one.where == "within"] == [
        one.constant for one in made.break_evens] == [one.name for one in made.constants]
    for constant, (keeps, value) in by_hand.items():
        found = break_even(made, constant)
        assert (found.winner, found.other, found.keeps) == ("wide", "near", keeps)
        assert found.value == pytest.approx(value, rel=1e-5)
        assert found.between is not None
        assert found.between[0] <= value <= found.between[1] < found.between[0] * 1.0011
    assert "wide wins while near link bandwidth (assumed: 6 GB/s, range 2 GB/s to 40 GB/s) is below 7.1 GB/s; " \
           "then near does." in break_even(made, "near.links.link.bandwidth").text


def test_swings_are_the_margins_at_the_ends_of_ranges(made: Decision) -> None:
    told = {one.constant: one for one in made.influences}
    ends = told["wide.links.link.bandwidth"]
    assert ends.margin_low == pytest.approx(seconds(6e9) / seconds(5e9, 0.2e-3), rel=1e-6)
    assert ends.margin_high == pytest.approx(seconds(6e9) / seconds(20e9, 0.2e-3), rel=1e-6)
    assert ends.swing == pytest.approx(seconds(5e9, 0.2e-3) / seconds(20e9, 0.2e-3), rel=1e-6)
    assert [one.swing for one in made.constants] == sorted((one.swing for one in told.values()), reverse=True)
    assert [one.wins_change_at for one in made.constants] == [(0,)] * 3


def test_a_break_even_beyond_the_range_is_found_and_said_to_be_there(tmp_path: Path) -> None:
    pair(tmp_path)
    machine(tmp_path, "near", quantity("6 GB/s", "5 GB/s", "6.5 GB/s"))
    candidates = {name: {"machine": f"./{name}.yaml"} for name in ("near", "wide")}
    asked = {"samples": 0, "fixed": ["wide.links.link.bandwidth"], "constants": 2}
    made = decided(tmp_path, objective="tpot_p50", candidates=candidates, uncertainty=asked)
    found = break_even(made, "near.links.link.bandwidth")
    assert (found.where, found.keeps) == ("beyond", "below")
    assert found.value == pytest.approx(EXPERT_BYTES / seconds(8e9, 0.2e-3), rel=1e-5)
    assert "which lies outside its range" in found.text
    assert break_even(made, "wide.links.link.latency").where == "within"
    near_by = decided(tmp_path, objective="tpot_p50", candidates=candidates, uncertainty={**asked, "beyond": 1.05})
    nowhere = break_even(near_by, "near.links.link.bandwidth")
    assert (nowhere.where, nowhere.value, nowhere.keeps) == ("nowhere", None, None)
    assert nowhere.text.startswith("wide wins whatever link bandwidth of near (assumed: 6 GB/s, range 5 GB/s to")


def test_constants_that_are_one_thing_move_together(tmp_path: Path) -> None:
    pair(tmp_path)
    machine(tmp_path, "wide", quantity("8 GB/s", "4 GB/s", "20 GB/s"), quantity("0.2 ms"))
    machine(tmp_path, "near", quantity("6 GB/s", "3 GB/s", "15 GB/s"))
    together = [["near.links.link.bandwidth", "wide.links.link.bandwidth"]]
    made = decided(tmp_path, objective="tpot_p50", uncertainty={"samples": 4, "together": together}, candidates={
        name: {"machine": f"./{name}.yaml"} for name in ("near", "wide")})
    (constant,) = made.constants
    assert [member.candidate for member in constant.members] == ["near", "wide"]
    # Both links scale by the same factor s: near 6 s, wide 8 s and 0.2 ms: b/6s = b/8s + 0.2 ms.
    factor = (EXPERT_BYTES / 6e9 - EXPERT_BYTES / 8e9) / 0.2e-3
    (found,) = made.break_evens
    assert (found.where, found.keeps, found.winner) == ("beyond", "below", "wide")
    assert found.value == pytest.approx(6e9 * factor, rel=1e-5)
    (place,) = made.places
    assert place.stability is not None
    assert place.stability.wins == {"near": 0, "wide": 4}


def test_a_range_of_the_study_is_as_good_as_one_of_the_file(tmp_path: Path) -> None:
    pair(tmp_path)
    machine(tmp_path, "near", quantity("6 GB/s"))
    ranges = {"near.links.link.bandwidth": {"range": ["2 GB/s", "40 GB/s"], "source": "this study"}}
    made = decided(tmp_path, objective="tpot_p50", uncertainty={"samples": 0, "ranges": ranges}, candidates={
        name: {"machine": f"./{name}.yaml"} for name in ("near", "wide")})
    assert break_even(made, "near.links.link.bandwidth").value == pytest.approx(
        EXPERT_BYTES / seconds(8e9, 0.2e-3), rel=1e-5)
    (constant,) = [one for one in made.constants if one.name == "near.links.link.bandwidth"]
    assert (constant.members[0].kind, constant.members[0].source) == ("assumed", "a test; its range: this study")
    assert load_decide(tmp_path / "mine.yaml").uncertainty.ranges


def test_intervals_and_stability_are_those_of_the_draws(tmp_path: Path) -> None:
    # near's bandwidth is drawn by its logarithm over 2..40 GB/s: it wins above 7.097 GB/s, a share of 0.577.
    pair(tmp_path)
    machine(tmp_path, "wide", quantity("8 GB/s"), quantity("0.2 ms"))
    made = decided(tmp_path, objective="tpot_p50", uncertainty={"samples": 40, "break_even": False}, candidates={
        name: {"machine": f"./{name}.yaml"} for name in ("near", "wide")})
    (place,) = made.places
    assert place.stability is not None
    assert place.stability.wins["near"] == pytest.approx(0.577 * 40, abs=1)  # a Latin hypercube: one draw a stratum
    assert sum(place.stability.wins.values()) == 40
    assert place.stability.share == place.stability.wins["wide"] / 40
    spread = place.of("near").interval
    assert spread is not None
    assert 8 * seconds(40e9) < spread.p5 < 8 * seconds(30e9)
    assert 8 * seconds(2.5e9) < spread.p95 < 8 * seconds(2e9)
    assert place.of("wide").interval is not None
    assert (made.break_evens, made.runs.swings) == ((), 0)


def test_wilson_and_spearman_give_textbook_values() -> None:
    low, high = wilson(9, 10)
    assert (low, high) == (pytest.approx(0.5958, abs=1e-4), pytest.approx(0.9821, abs=1e-4))
    assert wilson(10, 10)[1] == 1.0
    assert spearman([1, 2, 3, 4], [10, 100, 1000, 10000]) == pytest.approx(1.0)
    assert spearman([1, 2, 3, 4, 5], [5, 6, 7, 8, 7]) == pytest.approx(0.8208, abs=1e-4)
    assert spearman([1, 2, 3], [4, 4, 4]) is None
