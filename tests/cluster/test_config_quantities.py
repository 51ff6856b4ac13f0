"""Quantities carry unit, source and kind; what is assumed carries a range."""

from fractions import Fraction
from typing import Any

import pytest

from cluster.config.load import validate
from cluster.config.quantities import Bandwidth, Bytes, Count, Quantity, Share, Time, confidence, number, provenance
from emulation.errors import ConfigError

GOOD: dict[str, Any] = {"value": "25.6 GB/s", "source": "a sheet", "kind": "data_sheet"}


def refusal(schema: type[Quantity], data: object) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(schema, data, "file")
    return str(caught.value)


def test_value_is_exact_in_si() -> None:
    assert validate(Bandwidth, GOOD, "file").si == Fraction(25_600_000_000)
    assert validate(Time, {**GOOD, "value": "1.5 us"}, "file").si == Fraction(3, 2_000_000)


@pytest.mark.parametrize(("change", "told"), [
    ({"value": "25.6 GBs"}, "did you mean 'GB/s'"),
    ({"value": "fast"}, "'fast' is no quantity"),
    ({"value": "-1 GB/s"}, "negative"),
    ({"value": "0 GB/s"}, "zero"),
    ({"value": 25.6}, "should be text"),
    ({"kind": "asumed"}, "did you mean 'assumed'"),
    ({"source": ""}, "source"),
    ({"kind": "assumed"}, "needs a range"),
    ({"kind": "assumed", "range": ["30 GB/s", "40 GB/s"]}, "outside its range"),
    ({"kind": "assumed", "range": ["0 GB/s", "40 GB/s"]}, "zero"),
    ({"range": ["30 GB/s", "40 GB/s"]}, "outside its range"),
    ({"range": ["30 GB/s", "20 GB/s"]}, "high end first: write [low, high]"),
    ({"range": ["20 GB/s"]}, "range"),
    ({"units": "GB/s"}, "unknown key 'units'"),
])
def test_a_fault_is_told_in_one_sentence(change: dict[str, Any], told: str) -> None:
    text = refusal(Bandwidth, {**GOOD, **change})
    assert told in text
    assert "\n" not in text


def test_bare_value_is_refused_with_what_to_write() -> None:
    assert "'25.6 GB/s' has no source: write {value:" in refusal(Bandwidth, "25.6 GB/s")
    assert "7 has no source" in refusal(Count, 7)


def test_missing_source_is_named() -> None:
    assert refusal(Bandwidth, {"value": "1 GB/s", "kind": "paper"}) == "file: source: is missing"


def test_range_may_stand_beside_a_known_kind() -> None:
    assert validate(Bandwidth, {**GOOD, "range": ["20 GB/s", "30 GB/s"]}, "file").range == ("20 GB/s", "30 GB/s")


def test_share_is_at_most_one() -> None:
    share = {"value": "1.5", "source": "a sheet", "kind": "data_sheet"}
    assert "above 1" in refusal(Share, share)
    assert validate(Share, {**share, "value": "1"}, "file").si == 1


def test_provenance_row_carries_everything() -> None:
    assumed = {"value": "16 GiB", "source": "a guess", "kind": "assumed", "range": ["8 GiB", "32 GiB"]}
    part = {"memory": validate(Bytes, assumed, "file")}
    assert provenance("hardware", part) == [
        {"path": "hardware.memory", "value": "16 GiB", "si": 16 * 2**30, "unit": "B", "kind": "assumed",
         "source": "a guess", "range": ["8 GiB", "32 GiB"]}]


def test_number_is_whole_where_it_is() -> None:
    assert number(Fraction(4)) == 4
    assert isinstance(number(Fraction(4)), int)
    assert number(Fraction(1, 4)) == 0.25


@pytest.mark.parametrize(("kinds", "label"), [
    (["measured"] * 9 + ["assumed"], "measured"),
    (["measured"] * 8 + ["assumed"] * 2, "documented"),
    (["paper"] * 3 + ["assumed"], "documented"),
    (["paper"] * 2 + ["assumed"], "assumed"),
    (["paper"] * 9 + ["measured"], "documented"),
])
def test_confidence_follows_from_the_kinds(kinds: list[str], label: str) -> None:
    told = confidence([{"kind": kind} for kind in kinds])
    assert told["label"] == label
    assert told["constants"] == len(kinds)
    assert sum(told["shares"].values()) == pytest.approx(1, abs=0.01)
