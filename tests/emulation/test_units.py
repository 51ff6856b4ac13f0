"""Quantities are exact, durations are rounded up once, and a mistyped unit is told in one sentence."""

import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulation.errors import ConfigError
from emulation.units import PS_PER_S, UNITS, ceil_ps, parse, per_second_ps, roofline_ps, seconds


@pytest.mark.parametrize(("text", "dimension", "value"), [
    ("25.6 GB/s", "bandwidth", 25_600_000_000),
    ("64GB/s", "bandwidth", 64 * 10**9),
    ("1 GiB/s", "bandwidth", 2**30),
    ("0.1 GB/s", "bandwidth", 10**8),
    ("1.5 us", "time", Fraction(3, 2 * 10**6)),
    ("1.5 µs", "time", Fraction(3, 2 * 10**6)),
    ("1.5 μs", "time", Fraction(3, 2 * 10**6)),
    ("7 ps", "time", Fraction(7, 10**12)),
    ("3 ns", "time", Fraction(3, 10**9)),
    ("3 ms", "time", Fraction(3, 10**3)),
    ("0 s", "time", 0),
    ("16 GiB", "bytes", 16 * 2**30),
    ("2 KiB", "bytes", 2048),
    ("3 MiB", "bytes", 3 * 2**20),
    ("1 TiB", "bytes", 2**40),
    ("16 GB", "bytes", 16 * 10**9),
    ("1_000_000.5 kB", "bytes", 1_000_000_500),
    ("2e3 B", "bytes", 2000),
    ("25e-1 B", "bytes", Fraction(5, 2)),
    ("+5 B", "bytes", 5),
    ("  4 B  ", "bytes", 4),
    ("113 TFLOP/s", "compute", 113 * 10**12),
    ("1 PFLOPS", "compute", 10**15),
    ("3 MOP/s", "compute", 3 * 10**6),
    ("3 kOPS", "compute", 3000),
    ("256 GMAC/s", "compute", 512 * 10**9),
    ("800 MHz", "frequency", 8 * 10**8),
    ("75 W", "power", 75),
    ("75 mW", "power", Fraction(75, 1000)),
    ("1 J/B", "energy_per_byte", 1),
    ("4 pJ/B", "energy_per_byte", Fraction(4, 10**12)),
    ("1.17 pJ/b", "energy_per_byte", Fraction(936, 10**14)),
    ("2 pJ/FLOP", "energy_per_flop", Fraction(2, 10**12)),
    ("2 J/FLOP", "energy_per_flop", 2),
    ("4", "count", 4),
])
def test_a_quantity_is_exact(text, dimension, value):
    assert parse(text, dimension) == value


@pytest.mark.parametrize(("text", "dimension", "sentence"), [
    ("64 GB", "bandwidth", "'64 GB': unknown unit of bandwidth 'GB'; did you mean 'GB/s'? (known: "),
    ("3 sec", "time", "'3 sec': unknown unit of time 'sec' (known: ms, ns, ps, s, us, µs)"),
    ("3 furlongs", "time", "'3 furlongs': unknown unit of time 'furlongs' (known: ms, ns, ps, s, us, µs)"),
    ("3", "time", "'3' has no unit: write it like '1.5 us'"),
    ("5", "energy_per_flop", "'5' has no unit: write it like '0.5 pJ/FLOP'"),
    ("fast", "bandwidth", "'fast' is no quantity: write a number and a unit, for example '64 GB/s'"),
    ("", "bytes", "'' is no quantity: write a number and a unit, for example '16 GiB'"),
    ("1,5 us", "time", "'1,5 us': unknown unit of time ',5 us'"),
    ("-3 W", "power", "'-3 W' is negative: a power is zero or more"),
    ("1e999999999 s", "time", "'1e999999999 s'"),
    (".5 us", "time", "'.5 us' is no quantity"),
    ("4 GB\n/s", "bandwidth", "'4 GB\\n/s' is no quantity"),
])
def test_what_is_no_quantity_is_refused_in_one_sentence(text, dimension, sentence):
    with pytest.raises(ConfigError, match="^" + re.escape(sentence)) as refusal:
        parse(text, dimension)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("dimension", "example"), [
    ("time", "1.5 us"), ("bytes", "16 GiB"), ("bandwidth", "64 GB/s"), ("compute", "113 TFLOP/s"),
    ("frequency", "800 MHz"), ("power", "75 W"), ("energy_per_byte", "1.17 pJ/b"), ("energy_per_flop", "0.5 pJ/FLOP"),
    ("count", "4")])
def test_a_refusal_gives_an_example_that_is_a_quantity(dimension, example):
    assert dimension in UNITS
    with pytest.raises(ConfigError, match=re.escape(f"for example {example!r}") + r"\Z"):
        parse("?", dimension)
    assert parse(example, dimension) > 0


@given(st.fractions(min_value=0, max_value=10**6), st.sampled_from(sorted(UNITS["time"])))
@settings(deadline=None)
def test_a_parsed_time_scales_exactly(number, unit):
    text = f"{number.numerator} {unit}"
    assert parse(text, "time") == number.numerator * parse(f"1 {unit}", "time")


@pytest.mark.parametrize(("time", "ps"), [
    (Fraction(0), 0), (Fraction(1), PS_PER_S), (Fraction(1, PS_PER_S), 1), (Fraction(1, 3), 333_333_333_334),
    (Fraction(1, PS_PER_S * 7), 1), (Fraction(15, 7 * PS_PER_S), 3), (Fraction(14, 7 * PS_PER_S), 2),
])
def test_durations_are_rounded_up_to_whole_picoseconds(time, ps):
    assert ceil_ps(time) == ps


def test_bytes_over_a_bandwidth_take_the_exact_time_rounded_up():
    rate = int(parse("25.6 GB/s", "bandwidth"))
    assert per_second_ps(64, rate) == 2500
    assert per_second_ps(1, rate) == 40  # 39.0625 ps
    assert per_second_ps(0, rate) == 0
    assert per_second_ps(0, 0) == 0
    assert per_second_ps(10**12, 1) == 10**24  # no 64-bit product on the way
    assert per_second_ps(np.int64(3 * 10**9), np.int64(10**9)) == 3 * 10**12


@given(st.integers(0, 10**15), st.integers(1, 10**16))
@settings(deadline=None)
def test_per_second_is_the_least_whole_time_that_suffices(amount, rate):
    ps = per_second_ps(amount, rate)
    assert ps * rate >= amount * PS_PER_S
    assert ps == 0 or (ps - 1) * rate < amount * PS_PER_S
    assert ps == ceil_ps(Fraction(amount, rate))


@given(st.integers(0, 10**9), st.integers(0, 10**12), st.integers(1, 10**13), st.integers(0, 10**12),
       st.integers(1, 10**15))
@settings(deadline=None)
def test_a_roofline_is_rounded_up_once(overhead_ps, bytes_, bytes_per_s, flops, flops_per_s):
    exact_s = Fraction(overhead_ps, PS_PER_S) + max(Fraction(bytes_, bytes_per_s), Fraction(flops, flops_per_s))
    assert roofline_ps(overhead_ps, bytes_, bytes_per_s, flops, flops_per_s) == ceil_ps(exact_s)


def test_picoseconds_are_shown_as_seconds():
    assert seconds(1_500_000_000_000) == 1.5
