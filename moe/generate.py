"""Prefill and decode of a batch of prompts, left-padded, greedy, sampled or forced, one callback a step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from emulation.errors import InputError
from moe.hook import ExpertHook

PREFILL = 0
DECODE = 1

# on_step(step, phase, rows) comes before each forward pass; rows are the live tokens' (sequence, position),
# in the order in which the hook hands their hidden states to the runner.
OnStep = Callable[[int, int, list[tuple[int, int]]], None]


# on_token(sequence, token) comes for every new token, behind its forward pass and before the next.
OnToken = Callable[[int, int], None]


# on_logits(sequence, logits) comes for every new token, before it is chosen: what it is chosen by, [vocabulary].
OnLogits = Callable[[int, np.ndarray[Any, np.dtype[np.float64]]], None]


@dataclass(frozen=True)
class Sampling:
    """Draw from softmax(logits / temperature); each sequence has its own stream, so the batch does not matter.

    first: the number of the batch's first sequence among all that are answered with this seed.
    """

    seed: int
    temperature: float = 1.0
    first: int = 0

    def stream(self, sequence: int) -> np.random.Generator:
        """The random numbers of one sequence."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self.first + sequence,)))


@dataclass(frozen=True)
class Generation:
    """The new tokens of each prompt (an end token included) and the number of forward passes."""

    tokens: tuple[tuple[int, ...], ...]
    steps: int


@torch.inference_mode()
def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int | Sequence[int],
    *,
    hook: ExpertHook | None = None,
    eos: Sequence[int] = (),
    sampling: Sampling | None = None,
    forced: Sequence[Sequence[int]] | None = None,
    on_step: OnStep | None = None,
    on_token: OnToken | None = None,
    on_logits: OnLogits | None = None,
) -> Generation:
    """Continue every prompt by up to `max_new_tokens` (one number, or one a prompt), ending a sequence at `eos`.

    Step 0 prefills all prompts, each later one decodes one token of every live sequence. With a hook, padding and
    ended sequences are not routed. Greedy ties go to the lower id. forced: the new tokens of each prompt, taken
    whatever the logits say and to the last of them (teacher forcing); then `eos` and `sampling` have no say.
    """
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    _check(prompts, limits, forced)
    lengths = [len(prompt) for prompt in prompts]
    width, pad = max(lengths), int(prompts[0][0])
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    attention = torch.tensor([[0] * (width - n) + [1] * n for n in lengths])
    positions = (attention.cumsum(-1) - 1).clamp(min=0)
    streams = [sampling.stream(i) for i in range(len(prompts))] if sampling else []
    tokens: list[list[int]] = [[] for _ in prompts]
    live = [True] * len(prompts)
    past: Any = None
    step = 0
    calls_before = hook.calls if hook is not None else 0
    try:
        while True:
            mask = attention.bool() if step == 0 else torch.tensor(live)[:, None]
            if on_step is not None:
                on_step(step, DECODE if step else PREFILL, _rows(mask, positions))
            if hook is not None:
                hook.mask = mask.reshape(-1)
            answer = cast(Any, model)(
                input_ids=ids,
                attention_mask=attention,
                position_ids=positions,
                past_key_values=past,
                use_cache=True,
                logits_to_keep=1,
            )
            past, logits = answer.past_key_values, answer.logits[:, -1].to(torch.float64).numpy()
            for i in range(len(prompts)):
                if live[i]:
                    if on_logits is not None:
                        on_logits(i, logits[i])
                    if forced is not None:
                        token = int(forced[i][len(tokens[i])])
                    elif sampling:
                        token = _draw(logits[i], sampling.temperature, streams[i])
                    else:
                        token = int(logits[i].argmax())
                    tokens[i].append(token)
                    if on_token is not None:
                        on_token(i, token)
                    live[i] = (forced is not None or token not in eos) and len(tokens[i]) < limits[i]
            step += 1
            if not any(live):
                break
            ids = torch.tensor([[row[-1]] for row in tokens])
            attention = torch.cat([attention, torch.tensor(live, dtype=attention.dtype)[:, None]], dim=-1)
            positions = positions[:, -1:] + 1
    finally:
        if hook is not None:
            hook.mask = None
    if hook is not None:
        hook.check(calls_before)
    return Generation(tuple(tuple(row) for row in tokens), step)


def _rows(mask: torch.Tensor, positions: torch.Tensor) -> list[tuple[int, int]]:
    return [(int(i), int(positions[i, j])) for i, j in mask.nonzero().tolist()]


def _draw(logits: np.ndarray[Any, np.dtype[np.float64]], temperature: float, stream: np.random.Generator) -> int:
    scaled = np.exp((logits - logits.max()) / temperature)
    bounds = np.cumsum(scaled)
    return min(int(np.searchsorted(bounds, stream.random() * bounds[-1], side="right")), len(bounds) - 1)


def _check(
    prompts: Sequence[Sequence[int]], limits: Sequence[int], forced: Sequence[Sequence[int]] | None = None
) -> None:
    if not prompts or any(len(prompt) == 0 for prompt in prompts):
        raise InputError("generation needs at least one prompt, and at least one token in each")
    if len(limits) != len(prompts) or any(limit < 1 for limit in limits):
        raise InputError(f"max_new_tokens {list(limits)} is not one number >= 1 for each of {len(prompts)} prompts")
    if forced is not None and [len(row) for row in forced] != limits:
        raise InputError(f"forced answers hold {[len(row) for row in forced]} tokens, and {list(limits)} are asked for")
