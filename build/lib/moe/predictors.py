"""Forecasts of a later layer's routing that need the model's own math; the others are counts and need none."""

from typing import NamedTuple, cast

import torch

from moe.handed import TOP_K, is_encoders, scores
from moe.hook import ExpertHook


class Guess(NamedTuple):
    """What a later gate says of tokens: experts and weights [T, k]; probabilities [T, E] of all experts, where the
    gate picks by its logits (a softmax over them), None of one that picks by groups or corrected scores."""

    experts: torch.Tensor
    weights: torch.Tensor
    probabilities: torch.Tensor | None


def next_gate(hook: ExpertHook, layer: int, hidden: torch.Tensor) -> torch.Tensor | None:
    """The experts [T, k] of `next_guess`."""
    guess = next_guess(hook, layer, hidden)
    return None if guess is None else guess.experts


def next_guess(hook: ExpertHook, layer: int, hidden: torch.Tensor) -> Guess | None:
    """What the next MoE layer's router says when it is shown this layer's router input [T, d].

    Most likely first, ties to the lower id where the router picks by its logits; a router that picks by groups or
    corrected scores gives its own picks. Weights add to what the router's own add to. None after the last MoE layer,
    also of an encoder: what comes then is another token.
    """
    later = [other for other in hook.layers if other > layer]
    if not later or (hook.family.stacks and is_encoders(hook, layer) != is_encoders(hook, later[0])):
        return None
    if hook.family.stacks:
        chances = torch.softmax(scores(hook.routers[later[0]], hidden).to(torch.float64), dim=-1)
        experts = top_k(chances, TOP_K[hook.model_type])
        chosen = chances.gather(-1, experts)
        return Guess(experts, chosen if experts.shape[1] == 1 else chosen / chosen.sum(dim=-1, keepdim=True), chances)
    router, block = hook.routers[later[0]], hook.blocks[later[0]]
    with torch.no_grad():
        correction = getattr(block, "e_score_correction_bias", None)
        answer = router(hidden, correction) if isinstance(correction, torch.Tensor) else router(hidden)
    logits, weights, picks = cast(tuple[torch.Tensor, torch.Tensor, torch.Tensor], answer)
    if not hook.family.by_logits:
        return Guess(picks, weights, None)
    experts = top_k(logits, picks.shape[-1])
    probabilities = torch.softmax(logits.to(torch.float64), dim=-1)
    chosen = probabilities.gather(-1, experts)
    total = weights.to(torch.float64).sum(dim=-1, keepdim=True)
    return Guess(experts, chosen / chosen.sum(dim=-1, keepdim=True) * total, probabilities)


def top_k(scores: torch.Tensor, k: int) -> torch.Tensor:
    """The ids of the k highest scores of each row [T, E] -> [T, k], highest first, ties to the lower id."""
    return torch.sort(scores, dim=-1, descending=True, stable=True).indices[..., :k]
