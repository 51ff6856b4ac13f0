"""Canonical bytes and their SHA-256: what makes two results the same result."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from emulation.lowering.emit import Labels


def canonical(value: object) -> bytes:
    """JSON with sorted keys, whole integers and floats as Python's repr: one byte string for one value.

    A NaN or infinity is a ValueError: neither is JSON.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def indented(value: object, line: str = "\n") -> str:
    """The same for reading, one space a level; a list of plain values stays on one line."""
    more = line + " "
    if isinstance(value, dict) and value:
        rows = (f"{more}{json.dumps(key)}: {indented(value[key], more)}" for key in sorted(value))
        return "{" + ",".join(rows) + line + "}"
    if isinstance(value, (list, tuple)) and any(isinstance(item, (dict, list, tuple)) for item in value):
        return "[" + ",".join(more + indented(item, more) for item in value) + line + "]"
    return json.dumps(value, allow_nan=False)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def value_digest(value: object) -> str:
    """SHA-256 of a value made of dataclasses, tuples, mappings, numbers, fractions, strings and arrays."""
    return sha256(canonical(_plain(value)))


def array_bytes(array: np.ndarray) -> bytes:
    """Shape, kind and little-endian 64-bit elements of an array, the same on every machine."""
    kind = "<f8" if array.dtype.kind == "f" else "<i8"
    return f"{kind}{array.shape};".encode("ascii") + np.ascontiguousarray(array, dtype=kind).tobytes()


def _plain(value: object) -> object:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    if isinstance(value, np.ndarray):
        return sha256(array_bytes(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    raise TypeError(f"a {type(value).__name__} has no canonical form")


def mix_digest(labels: Labels, start_ps: NDArray[np.int64], end_ps: NDArray[np.int64]) -> str:
    """SHA-256 of two sums over a mix of what each operation was and when it ran; `compiled_sums.add_mix` is its twin.

    Sums of mixed words do not depend on the order in which operations are worked off.
    """
    kind, cause, device, step, layer, expert, bytes_ = (column.astype(np.int64) for column in labels)
    serial, low = np.arange(len(start_ps)), 0xFFFFFFFF
    with np.errstate(over="ignore"):
        x = mixed(serial, kind << 40 | cause << 32 | (device & low))
        for word in (step << 32 | (layer & low), expert, bytes_, start_ps, end_ps):
            x = mixed(x, word)
        sums = np.array([x.sum(), mixed(x, serial).sum()], np.int64)
    return sha256(array_bytes(sums))


def mixed(x: NDArray[np.int64], word: NDArray[np.int64]) -> NDArray[np.int64]:
    """One round of a mixer after splitmix64, in whole numbers that wrap."""
    x = (x ^ word) * np.int64(-7046029254386353131)
    return x ^ ((x >> 29) & 0x7FFFFFFFF)
