"""The byte-bigram model that the embedded model is measured against."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
SMOOTHING = (0.001, 0.01, 0.1, 1.0)


def counts(data: bytes) -> Array:
    """How often byte b follows byte a, [256, 256]."""
    values = np.frombuffer(data, dtype=np.uint8).astype(np.int64)
    return np.bincount(values[:-1] * 256 + values[1:], minlength=65536).reshape(256, 256)


def bits_per_byte(training: Array, measured: Array) -> float:
    """Mean -log2 p(b | a) over the measured pairs, at the additive smoothing that suits the bigram best."""
    best = float("inf")
    for smoothing in SMOOTHING:
        smoothed = training + smoothing
        bits = -np.log2(smoothed / smoothed.sum(axis=1, keepdims=True))
        best = min(best, float((bits * measured).sum() / measured.sum()))
    return best
