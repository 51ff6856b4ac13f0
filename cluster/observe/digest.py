"""Canonical bytes and their SHA-256: what makes two results the same result."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from fractions import Fraction

import numpy as np


def canonical(value: object) -> bytes:
    """JSON with sorted keys, whole integers and floats as Python's repr: one byte string for one value.

    A NaN or infinity is a ValueError: neither is JSON.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def value_digest(value: object) -> str:
    """SHA-256 of a value made of dataclasses, tuples, mappings, numbers, fractions, strings and arrays."""
    return sha256(canonical(_plain(value)))


def array_bytes(array: np.ndarray) -> bytes:
    """Shape, kind and little-endian 64-bit elements of an array, the same on every machine."""
    kind = "<f8" if np.issubdtype(array.dtype, np.floating) else "<i8"
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
