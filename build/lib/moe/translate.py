"""Answers of a model with an encoder: it reads a batch of prompts once, then the decoder makes token after token."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from moe.generate import (
    DECODE,
    PREFILL,
    Answers,
    Generation,
    OnLogits,
    OnStep,
    OnToken,
    Sampling,
    check,
    rows_of,
)
from moe.hook import ExpertHook


@torch.inference_mode()
def translate(
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
    """As `moe.generate.generate`, for an encoder-decoder model; prompts are padded on the right.

    Step 0 is the encoder's and makes no token; each later one decodes one token of every live sequence, the first from
    the config's `decoder_start_token_id`. Capacities that follow the number of tokens (NLLB-MoE) count padding and
    ended sequences, as plain transformers does.
    """
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    check(prompts, limits, forced)
    whole, config = cast(Any, model), cast(Any, model).config
    width, pad = max(len(prompt) for prompt in prompts), config.pad_token_id or 0
    ids = torch.tensor([[*prompt, *[pad] * (width - len(prompt))] for prompt in prompts])
    attention = torch.tensor([[1] * len(prompt) + [0] * (width - len(prompt)) for prompt in prompts])
    answers = Answers(limits, eos, sampling, forced, on_token, on_logits)
    token, past, step = torch.full((len(prompts), 1), config.decoder_start_token_id), None, 0
    calls_before = hook.calls if hook is not None else 0

    def begin(phase: int, mask: torch.Tensor, positions: torch.Tensor) -> None:
        if on_step is not None:
            on_step(step, phase, rows_of(mask, positions))
        if hook is not None:
            hook.mask = mask.reshape(-1)

    try:
        begin(PREFILL, attention.bool(), torch.arange(width).expand(len(prompts), -1))
        read = whole.get_encoder()(input_ids=ids, attention_mask=attention)
        while any(answers.live):
            step += 1
            begin(DECODE, torch.tensor(answers.live)[:, None], torch.full((len(prompts), 1), step - 1))
            answer = whole(encoder_outputs=read, attention_mask=attention, decoder_input_ids=token,
                           past_key_values=past, use_cache=True)
            past = answer.past_key_values
            answers.take(answer.logits[:, -1])
            token = answers.last()
    finally:
        if hook is not None:
            hook.mask = None
    if hook is not None:
        hook.check(calls_before)
    return Generation(tuple(tuple(row) for row in answers.tokens), step + 1)
