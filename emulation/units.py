"""Quantities with units, and the one place where durations are rounded: up, to whole picoseconds."""

import re
from fractions import Fraction

from emulation.errors import ConfigError, unknown

PS_PER_S = 10**12

_SI = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def _scaled(symbol: str, prefixes: dict[str, int]) -> dict[str, Fraction]:
    return {prefix + symbol: Fraction(scale) for prefix, scale in prefixes.items()}


def _energy(per: str, times: int | Fraction) -> dict[str, Fraction]:
    """Joules and their small prefixes, by what one such thing is divided: a byte (8 bits), a flop (half a MAC)."""
    return {f"{prefix}J{per}": Fraction(times) / 10**power
            for prefix, power in (("", 0), ("m", 3), ("u", 6), ("µ", 6), ("n", 9), ("p", 12), ("f", 15))}


_SECONDS = {"s": Fraction(1), "ms": Fraction(1, 10**3), "us": Fraction(1, 10**6), "µs": Fraction(1, 10**6),
            "ns": Fraction(1, 10**9), "ps": Fraction(1, 10**12)}

UNITS: dict[str, dict[str, Fraction]] = {
    "time": _SECONDS,
    "bytes": _scaled("B", {**_SI, **_BINARY}),
    "bandwidth": _scaled("B/s", {**_SI, **_BINARY}),
    "compute": {**_scaled("FLOP/s", _SI), **_scaled("OP/s", _SI), **_scaled("FLOPS", _SI), **_scaled("OPS", _SI),
                **{p + "MAC/s": Fraction(2 * v) for p, v in _SI.items()}},
    "frequency": _scaled("Hz", _SI),
    "power": {**_scaled("W", _SI), "mW": Fraction(1, 10**3)},
    "energy_per_byte": {**_energy("/B", 1), **_energy("/b", 8), **_energy("/bit", 8)},
    "energy_per_flop": {**_energy("/FLOP", 1), **_energy("/OP", 1), **_energy("/MAC", Fraction(1, 2))},
    "money": _scaled("USD", {"": 1, "k": 10**3, "M": 10**6}),
    "count": {"": Fraction(1)},
}
"""Dimension -> unit symbol -> how many SI units it is (bytes, seconds, FLOP/s, Hz, W, J, USD). A MAC is two FLOP."""

_NUMBER = re.compile(r"\s*([-+]?\d+(?:_\d+)*(?:\.\d+)?(?:[eE][-+]?\d{1,2})?)\s*(\S.*?)?\s*\Z")


def parse(text: str, dimension: str) -> Fraction:
    """The value of e.g. "25.6 GB/s" in SI units, exactly."""
    match = _NUMBER.match(text)
    if match is None:
        raise ConfigError(f"{text!r} is no quantity: write a number and a unit, for example {_example(dimension)!r}")
    number, unit = match.group(1).replace("_", ""), (match.group(2) or "").replace("μ", "µ")  # Greek mu, micro sign
    units = UNITS[dimension]
    if not unit and unit not in units:
        raise ConfigError(f"{text!r} has no unit: write it like {_example(dimension)!r}")
    if unit not in units:
        raise ConfigError(f"{text!r}: {unknown(f'unit of {dimension}', unit, units)}")
    value = Fraction(number) * units[unit]
    if value < 0:
        raise ConfigError(f"{text!r} is negative: a {dimension} is zero or more")
    return value


def _example(dimension: str) -> str:
    examples = {"time": "1.5 us", "bytes": "16 GiB", "bandwidth": "64 GB/s", "compute": "113 TFLOP/s",
                "frequency": "800 MHz", "power": "75 W", "energy_per_byte": "1.17 pJ/b",
                "energy_per_flop": "0.5 pJ/FLOP", "money": "1200 USD", "count": "4"}
    return examples.get(dimension, "1 " + next(iter(UNITS[dimension])))


def ceil_ps(seconds: Fraction) -> int:
    """Whole picoseconds, rounded up."""
    scaled = seconds * PS_PER_S
    return -(-scaled.numerator // scaled.denominator)


def per_second_ps(amount: int, rate_per_s: int) -> int:
    """How long `amount` (bytes or flops) takes at an integer rate per second: picoseconds, rounded up."""
    if amount == 0:
        return 0
    return -(-int(amount) * PS_PER_S // int(rate_per_s))  # a NumPy integer would overflow at 9 MB


def roofline_ps(overhead_ps: int, bytes_: int, bytes_per_s: int, flops: int, flops_per_s: int) -> int:
    """overhead + max(bytes/bandwidth, flops/peak): picoseconds, rounded up once (design: engine contract, point 1)."""
    return overhead_ps + max(per_second_ps(bytes_, bytes_per_s), per_second_ps(flops, flops_per_s))


def seconds(ps: int) -> float:
    """Picoseconds as seconds, for showing."""
    return ps / PS_PER_S
