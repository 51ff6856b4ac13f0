"""The schema of served workloads: requests that arrive over time, and how they are batched."""

from typing import Literal

from pydantic import Field, model_validator

from cluster.config.quantities import Strict, Value, refuse
from emulation.errors import ConfigError
from emulation.units import parse
from workloads.requests import MOST_REQUESTS, MOST_TOKENS


def _quantity(text: str, dimension: str, what: str, *, positive: bool = True) -> str:
    try:
        value = parse(text, dimension)
    except ConfigError as error:
        raise refuse(f"{what}: {error}") from None
    if positive and not value:
        raise refuse(f"{what}: {text!r} is zero; it is above zero")
    return text


class Arrivals(Strict):
    """When requests come: at_once (all at time zero), poisson, or gamma with gaps of a coefficient of variation cv."""

    name: Literal["at_once", "poisson", "gamma"]
    rate_per_s: float | None = Field(default=None, gt=0, le=1e12)
    cv: float | None = Field(default=None, ge=0.01, le=100)

    @classmethod
    def from_short(cls, data: object) -> object:
        return {"name": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _fits(self) -> "Arrivals":
        if (self.rate_per_s is None) != (self.name == "at_once"):
            raise refuse("at_once has no rate_per_s" if self.name == "at_once" else
                         f"{self.name} needs rate_per_s, the mean number of requests a second")
        if (self.cv is None) != (self.name != "gamma"):
            raise refuse("gamma needs cv, a gap's standard deviation over its mean" if self.name == "gamma" else
                         f"cv belongs to gamma; {self.name} has none to choose")
        return self


class Length(Strict):
    """Tokens of a request: a number, or lognormal with this mean and coefficient of variation cv, cut to min..max."""

    mean: float = Field(ge=1, le=MOST_TOKENS)
    cv: float = Field(default=0.0, ge=0, le=10)
    min: int = Field(default=1, ge=1, le=MOST_TOKENS)
    max: int = Field(default=MOST_TOKENS, ge=1, le=MOST_TOKENS)

    @classmethod
    def from_short(cls, data: object) -> object:
        return {"mean": float(data)} if isinstance(data, int) and not isinstance(data, bool) and (
            abs(data) <= MOST_TOKENS) else data

    @model_validator(mode="after")
    def _fits(self) -> "Length":
        if self.min > self.max:
            raise refuse(f"min {self.min} is above max {self.max}")
        if not self.cv and self.mean != int(self.mean):
            raise refuse(f"a fixed length is a whole number of tokens, and mean is {self.mean}: give cv, or round it")
        return self


class Prefixes(Strict):
    """Requests fall into groups at random; prompts of a group begin with the same tokens, on top of prompt_tokens."""

    groups: int = Field(ge=1, le=MOST_REQUESTS)
    tokens: int = Field(ge=1, le=MOST_TOKENS)


class BatcherChoice(Strict):
    """A batcher by name, as module:Class, or as the path of a Python file, with parameters."""

    name: str
    parameters: dict[str, Value] = Field(default_factory=dict)

    @classmethod
    def from_short(cls, data: object) -> object:
        return {"name": data} if isinstance(data, str) else data


class Kv(Strict):
    """Memory for caches of keys and values. block_tokens: positions in a block.

    capacity: bytes on each home; by default what dense weights and the policy's experts leave of its memory.
    """

    block_tokens: int = Field(default=16, ge=1, le=65536)
    capacity: str | None = None

    @model_validator(mode="after")
    def _sound(self) -> "Kv":
        if self.capacity is not None:
            _quantity(self.capacity, "bytes", "capacity")
        return self


class Slo(Strict):
    """A service-level objective: a request meets it if its TTFT and its TPOT are at most these."""

    ttft: str | None = None
    tpot: str | None = None

    @model_validator(mode="after")
    def _sound(self) -> "Slo":
        for name in ("ttft", "tpot"):
            if (text := getattr(self, name)) is not None:
                _quantity(text, "time", name)
        if self.ttft is None and self.tpot is None:
            raise refuse("an SLO names ttft, tpot or both")
        return self


OF_REQUESTS = ("requests", "arrivals", "prompt_tokens", "output_tokens", "prefixes", "recorded")
"""Fields of `Serving` that say which requests come."""


class Serving(Strict):
    """Continuous batching.

    requests: how many. arrivals (at once by default), prompt_tokens, output_tokens, prefixes: drawn from the seed.
    recorded: in place of them a file of requests, one JSON object a line (docs/serving.md); arrivals may be drawn for
    it all the same. Without any of these the requests are live: they come from clients of `moelab serve`. max_batch:
    requests that run at once. token_budget: tokens that a step computes at most; longer prompts are computed in chunks.
    """

    requests: int | None = Field(default=None, ge=1, le=MOST_REQUESTS)
    arrivals: Arrivals | None = None
    prompt_tokens: Length | None = None
    output_tokens: Length | None = None
    prefixes: Prefixes | None = None
    recorded: str | None = None
    batcher: BatcherChoice = BatcherChoice(name="fcfs")
    max_batch: int = Field(default=256, ge=1, le=MOST_REQUESTS)
    token_budget: int = Field(default=2048, ge=1, le=MOST_TOKENS)
    kv: Kv = Kv()
    slo: Slo | None = None

    @property
    def is_live(self) -> bool:
        """Whether its requests come from clients."""
        return all(getattr(self, name) is None for name in OF_REQUESTS)

    @model_validator(mode="after")
    def _whole(self) -> "Serving":
        if self.is_live:
            return self
        for name in ("requests", "prompt_tokens", "output_tokens"):
            if self.recorded is None and getattr(self, name) is None:
                raise refuse(f"serving needs {name}, or a file of recorded requests (recorded)")
        for name in ("prompt_tokens", "output_tokens", "prefixes"):
            if self.recorded is not None and getattr(self, name) is not None:
                raise refuse(f"{name} is told by the recorded requests: leave it out, or leave out recorded")
        return self
