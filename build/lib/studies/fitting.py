"""Cost models fitted to measured times: a roofline, a line for copies, a table where one pays.

A roofline is `overhead + max(bytes / bandwidth, flops / peak)`, what a kernel costs in a hardware file. It is fitted by
the least sum of |relative error|: a few disturbed rows do not bend it, and a row of microseconds counts as much as one
of milliseconds. The same measured columns give the same parameters.

A parameter that the rows do not tell is None and has a limit instead. Rows tell it when leaving it out (an endless
rate, no overhead) makes the sum S of |relative error| so much larger that n ln(S without / S with) > 1.92 (under errors
that fall off exponentially to both sides the likelihood-ratio test at 95 % with one degree of freedom), and when what
may be left out moves it by less than a tenth: where few tokens of one shape take longer by their bytes or by their
flops is the same to see, and then the overhead is open, too.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression, minimize

Floats = NDArray[np.float64]
Model = Callable[[Floats], Floats]
"""Positive parameters -> predicted seconds, by row."""

TOLD = 1.92
"""Half the 95 % point of chi-square with one degree of freedom."""

ALIKE = 1.1
"""Ratio of a parameter's values in fits that rows cannot tell apart, up to which it is one value."""

WIDE = 100.0
"""How far the logarithm of a parameter goes either way: far beyond every unit, far within floating point."""

EXACT = 1e-7
"""Mean |relative error| below which a fit counts as exact: what the search leaves on rows that follow a model."""


def least(model: Model, seconds: Floats, starts: Iterable[ArrayLike]) -> tuple[Floats, float]:
    """Positive parameters of least summed |relative error|, and that sum: the best of searches from several starts.

    Each search (Nelder-Mead in logarithms) is taken up again where it ended, until that no longer helps. A parameter
    that does not matter stays within e^WIDE of one.
    """
    def loss(log: Floats) -> float:
        return float(np.abs(model(np.exp(log.clip(-WIDE, WIDE))) / seconds - 1).sum())

    best, least_loss = np.empty(0), np.inf
    for start in starts:
        at = np.log(np.asarray(start, np.float64))
        now = loss(at)
        while True:
            found = minimize(loss, at, method="Nelder-Mead",
                             options={"maxiter": 20000, "maxfev": 20000, "xatol": 1e-7, "fatol": 1e-10})
            better = now - float(found.fun)
            at, now = found.x, min(now, float(found.fun))
            if better <= 1e-6 * now + EXACT * 1e-2:
                break
        if now < least_loss:
            best, least_loss = np.exp(at.clip(-WIDE, WIDE)), now
    return best, least_loss


class Errors:
    """Percentiles of |relative error|, of whatever has `residuals`: predicted / measured - 1, by row."""

    residuals: Floats

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.residuals)

    def _percentile(self, percent: float) -> float:
        return float(np.percentile(np.abs(self.residuals), percent))

    @property
    def p50(self) -> float:
        """Median |relative error|."""
        return self._percentile(50)

    @property
    def p90(self) -> float:
        """|relative error| that nine rows of ten stay below."""
        return self._percentile(90)

    @property
    def p99(self) -> float:
        """|relative error| that 99 rows of 100 stay below."""
        return self._percentile(99)

    @property
    def max(self) -> float:
        """The largest |relative error|."""
        return self._percentile(100)


@dataclass(frozen=True, eq=False)
class Fit(Errors):
    """A fitted roofline. overhead_s, bytes_per_s, flops_per_s: None where the rows do not tell.

    limits: for each that they do not tell: an overhead is at most that, a rate at least that (the highest that a row
    reached). floor_s: what a row takes at least, where the measure has a floor (issuing a queued kernel); no property
    of the kernel. used: overhead_s, s per byte, s per flop and floor_s, as predictions use them.
    """

    overhead_s: float | None
    bytes_per_s: float | None
    flops_per_s: float | None
    floor_s: float | None
    limits: dict[str, float]
    residuals: Floats
    used: Floats
    bytes_: Floats
    flops: Floats
    seconds: Floats
    floor: float | Literal["fitted"] | None

    @property
    def identified(self) -> dict[str, bool]:
        """Which parameters the rows tell."""
        return {name: name not in self.limits for name in ("overhead_s", "bytes_per_s", "flops_per_s")}

    def predict(self, bytes_: ArrayLike, flops: ArrayLike = 0.0) -> Floats:
        """Seconds of a kernel (or copy), without the measure's floor."""
        return _roofline(self.used, np.asarray(bytes_, np.float64), np.asarray(flops, np.float64))

    def predict_measured(self, bytes_: ArrayLike, flops: ArrayLike = 0.0) -> Floats:
        """Seconds that the fitted measure would show: the kernel, or the floor if that is longer."""
        return _floored(self.used, np.asarray(bytes_, np.float64), np.asarray(flops, np.float64))

    @cached_property
    def left_out(self) -> Floats:
        """Relative error of each row, predicted by a fit to the others."""
        out = np.empty(self.n)
        free = (self.used > 0) & np.array([True, True, True, self.floor == "fitted"])
        for row in range(self.n):
            kept = np.arange(self.n) != row
            rest = _Rows(self.bytes_[kept], self.flops[kept], self.seconds[kept], self.floor)
            used, _ = rest.search(free, [self.used[free]])
            told = _floored(used, self.bytes_[row:row + 1], self.flops[row:row + 1])
            out[row] = told[0] / self.seconds[row] - 1
        return out


NAMES = ("overhead_s", "bytes_per_s", "flops_per_s")


def _roofline(used: Floats, bytes_: Floats, flops: Floats) -> Floats:
    return np.asarray(used[0] + np.maximum(bytes_ * used[1], flops * used[2]), np.float64)


def _floored(used: Floats, bytes_: Floats, flops: Floats) -> Floats:
    return np.asarray(np.maximum(_roofline(used, bytes_, flops), used[3]), np.float64)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Measured rows, and searches over them with some of the four parameters left out (zero)."""

    bytes_: Floats
    flops: Floats
    seconds: Floats
    floor: float | Literal["fitted"] | None

    def _all(self, free: NDArray[np.bool_], values: Floats) -> Floats:
        used = np.zeros(4)
        used[3] = self.floor if isinstance(self.floor, float) else 0.0
        used[free] = values
        return used

    def starts(self, free: NDArray[np.bool_]) -> list[Floats]:
        """No row is faster than its overhead, its bytes or its flops alone: starts lie at, and below, these limits."""
        shortest = float(self.seconds.min())
        limits = [shortest, *(float((self.seconds[some > 0] / some[some > 0]).min(initial=np.inf))
                              for some in (self.bytes_, self.flops)), shortest]
        share = [(0.9, 0.1), (0.9, 0.4), (0.9, 0.4), (1.2,)]
        return [np.array(start) for start in
                product(*([limits[i] * part for part in share[i]] for i in range(4) if free[i]))]

    def search(self, free: NDArray[np.bool_], starts: list[Floats]) -> tuple[Floats, float]:
        """The best parameters, and their summed |relative error|."""
        if not free.any():
            used = self._all(free, np.empty(0))
            return used, float(np.abs(_floored(used, self.bytes_, self.flops) / self.seconds - 1).sum())
        found, loss = least(lambda values: _floored(self._all(free, values), self.bytes_, self.flops), self.seconds,
                            starts)
        return self._all(free, found), loss

    def fit(self) -> Fit:
        free = np.array([True, bool((self.bytes_ > 0).any()), bool((self.flops > 0).any()), self.floor == "fitted"])
        used, loss = self.search(free, self.starts(free))
        small = EXACT * len(self.seconds)
        fits, left_out = [used], []
        for i in (0, 1, 2):
            if free[i] and free[:3].sum() > 1:
                fewer = free & (np.arange(4) != i)
                other, worse = self.search(fewer, self.starts(fewer))
                if len(self.seconds) * np.log((worse + small) / (loss + small)) <= TOLD:
                    fits.append(other)
                    left_out.append(i)
        if len(left_out) == 1:  # which one is too many is clear: predict without it
            used = fits[1]
        seen = np.array(fits)
        open_ = [i for i in range(3) if seen[:, i].max() >= ALIKE * seen[:, i].min()]
        overhead_s, bytes_per_s, flops_per_s = (
            None if i in open_ else float(used[0] if i == 0 else 1 / used[i]) for i in range(3))
        predicted = _floored(used, self.bytes_, self.flops)
        limit = (seen[:, 0].max(), (self.bytes_ / predicted).max(), (self.flops / predicted).max())
        return Fit(overhead_s, bytes_per_s, flops_per_s, float(used[3]) if used[3] else None,
                   {NAMES[i]: float(limit[i]) for i in open_}, predicted / self.seconds - 1, used, self.bytes_,
                   self.flops, self.seconds, self.floor)


def _columns(*columns: ArrayLike) -> list[Floats]:
    out = [np.array(column, np.float64) for column in columns]
    if len({len(column) for column in out}) > 1:
        raise ValueError(f"columns of {', '.join(str(len(c)) for c in out)} rows do not belong together")
    if not len(out[0]):
        raise ValueError("nothing was measured: a fit needs rows")
    if any(not np.isfinite(column).all() or (column < 0).any() for column in out) or (out[-1] == 0).any():
        raise ValueError("measured rows hold a time that is not positive, or bytes or flops that are no size")
    return out


def fit_roofline(bytes_: ArrayLike, flops: ArrayLike, seconds: ArrayLike, *,
                 floor: float | Literal["fitted"] | None = None) -> Fit:
    """`overhead + max(bytes / bandwidth, flops / peak)` of least summed |relative error|.

    floor: rows of a queued measure take the longer of the kernel and what issuing it costs; that cost in seconds, or
    "fitted" to find it, too.
    """
    size, work, took = _columns(bytes_, flops, seconds)
    return _Rows(size, work, took, floor).fit()


def fit_line(bytes_: ArrayLike, seconds: ArrayLike) -> Fit:
    """`latency + bytes / bandwidth`, for copies: a fit whose overhead_s is the latency, and without flops."""
    size, took = _columns(bytes_, seconds)
    return _Rows(size, np.zeros(len(size)), took, None).fit()


@dataclass(frozen=True, eq=False)
class Table(Errors):
    """Measured times of one shape by tokens: linear between knots in the logarithms of both, never falling.

    Beyond its ends it is constant to fewer tokens, and proportional to more.
    """

    tokens: Floats
    seconds: Floats
    knots: Floats
    knot_seconds: Floats
    residuals: Floats

    @staticmethod
    def of(tokens: ArrayLike, seconds: ArrayLike) -> "Table":
        """A table of measured rows. Rows with the same tokens are averaged in the logarithm."""
        at, took = _columns(tokens, seconds)
        if (at == 0).any():
            raise ValueError("a table has a row of no tokens: it is by tokens, from one on")
        knots, which, rows = np.unique(at, return_inverse=True, return_counts=True)
        level = np.bincount(which, np.log(took)) / rows
        rising = np.exp(isotonic_regression(level, weights=rows.astype(np.float64)).x)
        return Table(at, took, knots, rising, _interpolated(at, knots, rising) / took - 1)

    def predict(self, tokens: ArrayLike) -> Floats:
        """Seconds for that many tokens."""
        return _interpolated(np.asarray(tokens, np.float64), self.knots, self.knot_seconds)

    @property
    def inner(self) -> NDArray[np.bool_]:
        """Rows that are no end of the table: an end that is left out would be guessed from one side."""
        return np.asarray((self.tokens > self.knots[0]) & (self.tokens < self.knots[-1]))

    @cached_property
    def left_out(self) -> Floats:
        """Relative error of each row, predicted by a table of the rows with other tokens."""
        out = np.full(self.n, np.nan)
        for knot in self.knots if len(self.knots) > 1 else ():
            without = self.tokens != knot
            told = Table.of(self.tokens[without], self.seconds[without]).predict(knot)
            out[~without] = told / self.seconds[~without] - 1
        return out


def _interpolated(tokens: Floats, knots: Floats, seconds: Floats) -> Floats:
    inside = np.exp(np.interp(np.log(tokens), np.log(knots), np.log(seconds)))
    return np.asarray(inside * np.maximum(tokens / knots[-1], 1.0), np.float64)


def better(fit: Fit, table: Table, rows: NDArray[np.bool_] | None = None) -> Fit | Table:
    """Whichever has the lower mean |relative error| over the table's inner rows, each left out in its turn.

    rows: which of the fit's rows are the table's, in its order; all where left out. Without inner rows, or at equal
    errors, the fit: it has fewer numbers.
    """
    ours = fit.left_out if rows is None else fit.left_out[rows]
    if len(ours) != table.n:
        raise ValueError(f"{len(ours)} rows of the fit and {table.n} rows of the table are not the same rows")
    inner = table.inner
    if not inner.any():
        return fit
    return table if np.abs(table.left_out[inner]).mean() < np.abs(ours[inner]).mean() else fit
