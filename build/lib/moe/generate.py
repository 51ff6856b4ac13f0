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
    check(prompts, limits, forced)
    lengths = [len(prompt) for prompt in prompts]
    width, pad = max(lengths), int(prompts[0][0])
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    attention = torch.tensor([[0] * (width - n) + [1] * n for n in lengths])
    positions = (attention.cumsum(-1) - 1).clamp(min=0)
    answers = Answers(limits, eos, sampling, forced, on_token, on_logits)
    past: Any = None
    step = 0
    calls_before = hook.calls if hook is not None else 0
    try:
        while True:
            mask = attention.bool() if step == 0 else torch.tensor(answers.live)[:, None]
            if on_step is not None:
                on_step(step, DECODE if step else PREFILL, rows_of(mask, positions))
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
            past = answer.past_key_values
            answers.take(answer.logits[:, -1])
            step += 1
            if not any(answers.live):
                break
            ids = answers.last()
            attention = torch.cat([attention, torch.tensor(answers.live, dtype=attention.dtype)[:, None]], dim=-1)
            positions = positions[:, -1:] + 1
    finally:
        if hook is not None:
            hook.mask = None
    if hook is not None:
        hook.check(calls_before)
    return Generation(tuple(tuple(row) for row in answers.tokens), step)


class Answers:
    """The new tokens of a batch, as they are chosen, and which of its sequences are live."""

    def __init__(
        self,
        limits: Sequence[int],
        eos: Sequence[int],
        sampling: Sampling | None,
        forced: Sequence[Sequence[int]] | None,
        on_token: OnToken | None,
        on_logits: OnLogits | None,
    ) -> None:
        self._limits, self._eos, self._sampling, self._forced = limits, eos, sampling, forced
        self._on_token, self._on_logits = on_token, on_logits
        self._streams = [sampling.stream(i) for i in range(len(limits))] if sampling else []
        self.tokens: list[list[int]] = [[] for _ in limits]
        self.live = [True] * len(limits)

    def take(self, logits: torch.Tensor) -> None:
        """Choose a token of every live sequence by its logits [sequences, vocabulary]."""
        wide = logits.to(torch.float64).numpy()
        for i in range(len(self.live)):
            if not self.live[i]:
                continue
            if self._on_logits is not None:
                self._on_logits(i, wide[i])
            if self._forced is not None:
                token = int(self._forced[i][len(self.tokens[i])])
            else:
                token = choose(wide[i], self._sampling, self._streams[i] if self._sampling is not None else None)
            self.tokens[i].append(token)
            if self._on_token is not None:
                self._on_token(i, token)
            ended = self._forced is None and token in self._eos
            self.live[i] = not ended and len(self.tokens[i]) < self._limits[i]

    def last(self) -> torch.Tensor:
        """The last token of every sequence, [sequences, 1]."""
        return torch.tensor([[row[-1]] for row in self.tokens])


def rows_of(mask: torch.Tensor, positions: torch.Tensor) -> list[tuple[int, int]]:
    """(sequence, position) of the tokens in a mask [sequences, tokens], in the order in which they are routed."""
    return [(int(i), int(positions[i, j])) for i, j in mask.nonzero().tolist()]


def choose(logits: np.ndarray[Any, np.dtype[np.float64]], sampling: Sampling | None,
           stream: np.random.Generator | None) -> int:
    """The next token by its logits [vocabulary]: the likeliest, or drawn with the next number of a stream."""
    if sampling is None or stream is None:
        return int(logits.argmax())
    return _draw(logits, sampling.temperature, stream)


def _draw(logits: np.ndarray[Any, np.dtype[np.float64]], temperature: float, stream: np.random.Generator) -> int:
    scaled = np.exp((logits - logits.max()) / temperature)
    bounds = np.cumsum(scaled)
    return min(int(np.searchsorted(bounds, stream.random() * bounds[-1], side="right")), len(bounds) - 1)


def check(
    prompts: Sequence[Sequence[int]], limits: Sequence[int], forced: Sequence[Sequence[int]] | None = None
) -> None:
    """Refuse prompts without tokens, and limits or forced answers that do not fit them."""
    if not prompts or any(len(prompt) == 0 for prompt in prompts):
        raise InputError("generation needs at least one prompt, and at least one token in each")
    if len(limits) != len(prompts) or any(limit < 1 for limit in limits):
        raise InputError(f"max_new_tokens {list(limits)} is not one number >= 1 for each of {len(prompts)} prompts")
    if forced is not None and [len(row) for row in forced] != limits:
        raise InputError(f"forced answers hold {[len(row) for row in forced]} tokens, and {list(limits)} are asked for")
