"""Forecasts of a later layer's routing that need the model's own math; the others are counts and need none."""

from typing import cast

import torch

from moe.hook import ExpertHook
from moe.handed import TOP_K, is_encoders, scores


def next_gate(hook: ExpertHook, layer: int, hidden: torch.Tensor) -> torch.Tensor | None:
    """The experts [T, k] that the next MoE layer's router picks when it is shown this layer's router input [T, d].

    Most likely first, ties to the lower id where the router picks by its logits; a router that picks by groups or
    corrected scores gives its own picks. None after the last MoE layer, also of an encoder: what comes then is another
    token.
    """
    later = [other for other in hook.layers if other > layer]
    if not later or (hook.family.stacks and is_encoders(hook, layer) != is_encoders(hook, later[0])):
        return None
    if hook.family.stacks:
        return top_k(scores(hook.routers[later[0]], hidden), TOP_K[hook.model_type])
    router, block = hook.routers[later[0]], hook.blocks[later[0]]
    with torch.no_grad():
        correction = getattr(block, "e_score_correction_bias", None)
        answer = router(hidden, correction) if isinstance(correction, torch.Tensor) else router(hidden)
    logits, _, picks = cast(tuple[torch.Tensor, torch.Tensor, torch.Tensor], answer)
    if not hook.family.by_logits:
        return picks
    return top_k(logits, picks.shape[-1])


def top_k(scores: torch.Tensor, k: int) -> torch.Tensor:
    """The ids of the k highest scores of each row [T, E] -> [T, k], highest first, ties to the lower id."""
    return torch.sort(scores, dim=-1, descending=True, stable=True).indices[..., :k]
