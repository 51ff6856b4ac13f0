"""Generated workloads: a fixed batch of requests, and their generated routing as a trace."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emulation.errors import ConfigError
from emulation.model import Model
from emulation.trace import Trace
from emulation.view import DECODE, PREFILL, Step
from workloads.routing.router import Router as Router

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Request:
    """One request: tokens in, tokens out, and when it arrives."""

    prompt_tokens: int
    output_tokens: int
    arrival_ps: int = 0


def static_steps(requests: Sequence[Request], homes: Sequence[int] = (0,), *, encoder: bool = False) -> Iterator[Step]:
    """All requests as one batch: one prefill step, then a decode step for each further token of the longest.

    encoder: the prompt passes an encoder, so that the first token, too, comes of a step of the decoder.
    """
    if not requests or any(r.prompt_tokens < 1 or r.output_tokens < 1 for r in requests):
        raise ConfigError("a batch needs at least one request, and each at least one token in and one token out")
    sequence = np.concatenate([np.full(r.prompt_tokens, i) for i, r in enumerate(requests)]).astype(np.int64)
    position = np.concatenate([np.arange(r.prompt_tokens) for r in requests]).astype(np.int64)
    last = np.r_[sequence[1:] != sequence[:-1], True]
    home = np.array(homes, np.int64)
    source = np.array([r.prompt_tokens for r in requests], np.int64)
    yield Step(0, sequence, position, np.full(len(sequence), PREFILL, np.int64), home[sequence % len(home)],
               last & (not encoder), encoder=encoder, source=source[sequence] if encoder else None)
    for number in range(1, max(r.output_tokens for r in requests) + encoder):
        live = np.array([i for i, r in enumerate(requests) if r.output_tokens + encoder > number], np.int64)
        at = (0 if encoder else source[live]) + np.full(len(live), number - 1, np.int64)
        yield Step(number, live, at, np.full(len(live), DECODE, np.int64), home[live % len(home)],
                   np.ones(len(live), np.bool_), source=source[live] if encoder else None)


HISTORY_FROM, HISTORY_LENGTH = 1 << 40, 512
"""The sequences of a history: the number of the first, which no request has, and how long each is."""


def history(model: Model, router: Router, tokens: int) -> Ints:
    """How often so many decoded tokens of other sequences visit each expert, [moe_layers, experts]."""
    rows = np.arange(tokens)
    routed = router.route(Step(0, HISTORY_FROM + rows // HISTORY_LENGTH, rows % HISTORY_LENGTH,
                               np.full(tokens, DECODE, np.int64), np.zeros(tokens, np.int64),
                               np.zeros(tokens, np.bool_)))
    return np.stack([np.bincount(layer.ravel(), minlength=model.experts)
                     for layer in routed.experts.transpose(1, 0, 2)]).astype(np.int64)


def synthetic_trace(model: Model, router: Router, steps: Sequence[Step]) -> Trace:
    """Generated routing of steps as a trace."""
    routed = [router.route(step) for step in steps]
    column = {name: np.concatenate([getattr(step, name) for step in steps]).astype(np.int32)
              for name in ("sequence", "position")}
    return Trace(model.name, model.experts, np.array(model.moe_layers, np.uint16),
                 np.concatenate([r.experts for r in routed]), np.concatenate([r.weights for r in routed]),
                 np.concatenate([np.full(len(step), step.number) for step in steps]).astype(np.int32),
                 column["sequence"], column["position"],
                 np.concatenate([step.phase for step in steps]).astype(np.uint8))
