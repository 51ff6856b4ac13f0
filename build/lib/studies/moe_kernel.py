"""What a grouped MoE kernel costs: a roofline over the experts that a batch visits, and a finer model of its tiles.

One call computes all experts of a layer over a batch: gate and up as one grouped GEMM, the activation, down as a second
one, and the sum over each token's experts. Roofline, as a hardware file states it:

    overhead + max(bytes / bandwidth, flops / peak)

bytes: the weights of the experts visited, and activations in and out; flops: of the pairs (token, expert). Grouped:

    overhead + ((slow * bytes / bandwidth)^p + (padded flops / peak)^p)^(1/p) + activations / bandwidth + tiles * tile_s

Rows of an expert come in tiles, and the last one is padded; columns come in tiles of 128. Each tile costs tile_s on top
(its start, what is not overlapped). p >= 1 says how far reading hides behind computing: a sum at 1, a maximum at
infinity. Intermediate activations are written and read by kernels of their own, hence apart. Which row tile a kernel
takes is no column of any table; it is one of two rules, the same for all rows of a fit:

    grown      a power of two next to the mean rows of an expert, from 16 to 128, as tuned and autotuned kernels do
    default    16 rows while there are no more tokens than experts, then 64, as Triton kernels in vLLM and SGLang do for
               shapes that nobody tuned (`get_default_config`); `slow` is how much slower the second kind reads
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from studies.fitting import Floats, least

Ints = NDArray[np.int64]

DRAWS = 20
"""Draws of the loads of a power law that are averaged."""

COLUMNS = 128
"""Columns of an output tile: what large GEMM tiles of these kernels have in common."""

STEEPEST = 30.0
"""p - 1 beyond which the sum is a maximum to within 2.5 %."""

ROW_TILES = (16, 32, 64, 128)
RULES = ("grown", "default")
PEAKS: dict[str, tuple[float, float]] = {"h200": (4.0e12, 5e14), "h100": (2.8e12, 5e14), "a100": (1.7e12, 1.5e14)}
"""Bytes and 16-bit flops a second from which a search starts: some four fifths of the data sheet's bandwidth (4.8,
3.35, 2.04 TB/s) and half of its peak (989, 989, 312 TFLOP/s)."""


@dataclass(frozen=True, eq=False)
class Calls:
    """Measured calls, in columns. inter: columns of an expert's slice; weight_bytes: of one weight.

    matrices: three of hidden x inter where gated, else two.
    """

    tokens: Ints
    hidden: Ints
    inter: Ints
    top_k: Ints
    experts: Ints
    matrices: Ints
    weight_bytes: Floats
    distribution: Sequence[str]
    seconds: Floats

    def __len__(self) -> int:
        return len(self.tokens)


@cache
def expert_loads(tokens: int, experts: int, top_k: int, distribution: str) -> Ints:
    """Tokens of each expert, [draws, experts], as AISimulate's collector deals them out.

    `balanced`: in turn, each of a token's experts a stride further. `power_law_A`: shares drawn with density x^-A
    between 1 and 0.8 tokens (0.01 and 2 where there are no more pairs than experts), scaled to the pairs and rounded;
    the largest get what is missing, the smallest lose what is too much. Seeded by the numbers themselves.
    """
    pairs = tokens * top_k
    if distribution == "balanced":
        stride = -(-experts // top_k)
        token, place = np.arange(tokens)[:, None], np.arange(top_k)[None]
        at = token if tokens >= stride else token * stride // tokens
        return np.bincount(((at + place * stride) % experts).ravel(), minlength=experts)[None]
    kind, _, exponent = distribution.rpartition("_")
    if kind != "power_law":
        raise ValueError(f"no rule for the distribution {distribution!r}: it is balanced or power_law_EXPONENT")
    low, high = (1.0, 0.8 * tokens) if pairs > experts else (0.01, 2.0)
    rng, power = np.random.default_rng([tokens, experts, top_k]), 1 - float(exponent)
    shares = ((high ** power - low ** power) * rng.random((DRAWS, experts)) + low ** power) ** (1 / power)
    loads = -np.sort(-np.rint(shares / shares.sum(axis=1, keepdims=True) * pairs).astype(np.int64), axis=1)
    for row in loads:
        while (missing := pairs - int(row.sum())) > 0:
            row[:missing] += 1
        while (excess := int(row.sum()) - pairs) > 0:
            last = int(np.count_nonzero(row))
            row[max(last - excess, 0):last] -= 1
        _spread(row, tokens)
    return loads


def _spread(row: Ints, tokens: int) -> None:
    """A token visits an expert once: what is more than the tokens goes to those with the fewest, idle ones first."""
    over = int(np.maximum(row - tokens, 0).sum())
    np.minimum(row, tokens, out=row)
    for few in range(len(row) - 1, -1, -1):
        taken = min(over, tokens - int(row[few]))
        row[few] += taken
        over -= taken


@cache
def _visits(tokens: int, experts: int, top_k: int, distribution: str) -> tuple[float, ...]:
    """Mean experts visited, and mean row tiles of each size."""
    loads = expert_loads(tokens, experts, top_k, distribution)
    return (float((loads > 0).sum(axis=1).mean()),
            *(float((-(-loads // rows)).sum(axis=1).mean()) for rows in ROW_TILES))


@dataclass(frozen=True, eq=False)
class Work:
    """What the calls do, in columns. between: bytes of intermediate activations. By rule: padded flops, and tiles.

    beyond: 1 where there are more tokens than experts.
    """

    bytes_: Floats
    flops: Floats
    between: Floats
    padded: dict[str, Floats]
    tiles: dict[str, Floats]
    beyond: Floats
    seconds: Floats

    def of(self, rows: NDArray[np.bool_]) -> "Work":
        return Work(self.bytes_[rows], self.flops[rows], self.between[rows],
                    {rule: column[rows] for rule, column in self.padded.items()},
                    {rule: column[rows] for rule, column in self.tiles.items()}, self.beyond[rows], self.seconds[rows])


ACTIVATION_BYTES = 2
"""Activations pass between these kernels in 16 bits, quantised or not."""


def work_of(calls: Calls) -> Work:
    """Bytes, flops and tiles of measured calls."""
    d, f, m = calls.hidden, calls.inter, calls.matrices
    visits = np.array([_visits(*key) for key in zip(calls.tokens.tolist(), calls.experts.tolist(),
                                                    calls.top_k.tolist(), calls.distribution, strict=True)])
    pairs = calls.tokens * calls.top_k
    weights = (m * d * f).astype(np.float64)
    grown = np.searchsorted(ROW_TILES[:-1], pairs / calls.experts)
    beyond = calls.tokens > calls.experts
    size = {"grown": grown, "default": np.where(beyond, ROW_TILES.index(64), 0)}
    tiles = {rule: visits[np.arange(len(calls)), 1 + at] for rule, at in size.items()}
    across = -(-((m - 1) * f) // COLUMNS) - (-d // COLUMNS)
    return Work(
        visits[:, 0] * weights * calls.weight_bytes + pairs * (2 * d + 2 * f) * calls.weight_bytes, 2 * weights * pairs,
        ACTIVATION_BYTES * (pairs * (m * f + d) + calls.tokens * d).astype(np.float64),
        {rule: 2 * weights * tiles[rule] * np.array(ROW_TILES)[size[rule]] for rule in RULES},
        {rule: tiles[rule] * across for rule in RULES}, beyond.astype(np.float64), calls.seconds)


@dataclass(frozen=True, eq=False)
class Kernel:
    """Constants of one kernel: rule "" is the roofline. values: overhead_s, bytes_per_s, flops_per_s; of the grouped
    model also tile_s, p - 1 and slow - 1."""

    rule: str
    values: Floats
    loss: float

    def predict(self, work: Work) -> Floats:
        """Seconds of calls."""
        return _predict(self.rule, self.values, work)


def _predict(rule: str, values: Floats, work: Work) -> Floats:
    overhead_s, bytes_per_s, flops_per_s = values[:3]
    reading = work.bytes_ / bytes_per_s
    if not rule:
        return np.asarray(overhead_s + np.maximum(reading, work.flops / flops_per_s), np.float64)
    tile_s, more, slow = values[3:]
    p = 1 + min(more, STEEPEST)
    reading = reading * (1 + slow * work.beyond)
    computing = work.padded[rule] / flops_per_s
    longer = np.maximum(reading, computing)
    both = longer * ((reading / longer) ** p + (computing / longer) ** p) ** (1 / p)
    return np.asarray(overhead_s + both + work.between / bytes_per_s + tile_s * work.tiles[rule], np.float64)


def fit_kernel(work: Work, rule: str, start: Floats) -> Kernel:
    """Constants of least summed |relative error|, searched from `start`."""
    values, loss = least(lambda found: _predict(rule, found, work), work.seconds, [start])
    return Kernel(rule, values, loss)


def first_start(gpu: str, precision: str, rule: str) -> Floats:
    """Where a search starts: the data sheet's order of magnitude."""
    bytes_per_s, flops_per_s = PEAKS[gpu]
    flops_per_s *= 2 if precision.startswith("fp8") and gpu != "a100" else 1
    return np.array([2e-5, bytes_per_s, flops_per_s, *((3e-9, 1.0, 0.2) if rule else ())])
