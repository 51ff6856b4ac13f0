"""Requests as columns: when they arrive, how long they are, which share a prefix; drawn from a seed."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from emulation.errors import ConfigError
from emulation.units import PS_PER_S

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MOST_REQUESTS = 1_000_000
MOST_TOKENS = 1 << 24
"""Of one request, in or out: far above any context there is."""
LAST_PS = 1 << 62
"""Arrivals lie before this: 53 days."""
NO_PREFIX = -1


@dataclass(frozen=True)
class Requests:
    """Requests in order of arrival, ties as listed; all columns [requests], and a request's number is its place.

    prompt_tokens, output_tokens: in and out, each at least one. prefix: the group whose prompts begin alike (NO_PREFIX:
    none). prefix_tokens: how far they do.
    """

    arrival_ps: Ints
    prompt_tokens: Ints
    output_tokens: Ints
    prefix: Ints
    prefix_tokens: Ints

    def __len__(self) -> int:
        return len(self.arrival_ps)


@dataclass(frozen=True)
class Arrivals:
    """at_once: all at time zero. poisson, gamma: gaps between arrivals of mean 1 / rate_per_s, the first one too.

    cv: the standard deviation of a gap over its mean; 1 is Poisson, more comes in bursts.
    """

    kind: Literal["at_once", "poisson", "gamma"] = "at_once"
    rate_per_s: float = 1.0
    cv: float = 1.0

    def draw(self, count: int, seed: np.random.SeedSequence) -> Ints:
        """Instants in picoseconds, ascending."""
        if self.kind == "at_once":
            return np.zeros(count, np.int64)
        rng = np.random.default_rng(seed)
        if self.kind == "poisson":
            gaps = rng.exponential(1.0, count)
        else:
            shape = self.cv ** -2
            gaps = rng.gamma(shape, 1.0 / shape, count)
        at_s: Floats = np.cumsum(gaps) / self.rate_per_s
        if count and at_s[-1] * PS_PER_S >= LAST_PS:
            raise ConfigError(f"arrivals: {count} requests at {self.rate_per_s:g} a second last {at_s[-1]:.3g} s; "
                              f"emulated time ends at {LAST_PS / PS_PER_S:.3g} s")
        return np.floor(at_s * PS_PER_S).astype(np.int64)


@dataclass(frozen=True)
class Lengths:
    """Token counts: all `mean` (cv 0), or lognormal with this mean and cv, rounded, and cut to least..most."""

    mean: float
    cv: float = 0.0
    least: int = 1
    most: int = MOST_TOKENS

    def draw(self, count: int, seed: np.random.SeedSequence) -> Ints:
        """Tokens, [count]."""
        if not self.cv:
            return np.full(count, int(self.mean), np.int64)
        variance = np.log1p(self.cv ** 2)
        drawn = np.random.default_rng(seed).lognormal(np.log(self.mean) - variance / 2, np.sqrt(variance), count)
        return np.clip(np.rint(drawn), self.least, self.most).astype(np.int64)


@dataclass(frozen=True)
class Prefixes:
    """Requests fall into `groups` at random; the prompts of a group begin with the same `tokens` tokens.

    A prompt is its prefix and what was drawn for it besides.
    """

    groups: int
    tokens: int


def draw(count: int, arrivals: Arrivals, prompts: Lengths, outputs: Lengths, prefixes: Prefixes | None,
         seed: int) -> Requests:
    """Requests drawn from a seed; each column from a stream of its own."""
    when, asked, answered, alike = _streams(seed)
    prompt = prompts.draw(count, asked)
    prefix = np.full(count, NO_PREFIX, np.int64)
    shared = np.zeros(count, np.int64)
    if prefixes is not None:
        prefix = np.random.default_rng(alike).integers(0, prefixes.groups, count)
        shared[:] = prefixes.tokens
        prompt = prompt + prefixes.tokens
    return Requests(arrivals.draw(count, when), prompt, outputs.draw(count, answered), prefix, shared)


def coming(requests: Requests, arrivals: Arrivals, seed: int) -> Requests:
    """The same requests, in the same order, with other arrivals."""
    return replace(requests, arrival_ps=arrivals.draw(len(requests), _streams(seed)[0]))


def _streams(seed: int) -> list[np.random.SeedSequence]:
    """For arrivals, prompts, answers and prefixes."""
    return np.random.SeedSequence(seed, spawn_key=(SERVING,)).spawn(4)


SERVING = 0x5E7E
"""Keeps these streams apart from those of routing, which spring from the same seed."""
