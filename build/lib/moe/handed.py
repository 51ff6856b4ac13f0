"""Experts of encoder-decoder models: the module that takes the place of theirs, and what is wrong with one of them.

Their routers run as they are, capacity and drops included. Switch Transformers (transformers 5.23,
SwitchTransformersTop1Router): the likeliest expert; of each sequence the first `expert_capacity` tokens of an expert,
the others go without. NLLB-MoE (NllbMoeTop2Router): two experts, weights normalised before or behind the drops, a
capacity that is a share of all tokens; padding goes without; what comes out is scaled by 1 - moe_token_dropout.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

if TYPE_CHECKING:
    from moe.hook import ExpertHook

_PLACE = re.compile(r"\b(encoder|decoder)\.(?:block|layers)\.(\d+)\.(?:.*\.)?experts$")
NOBODY = -1
TOP_K = {"switch_transformers": 1, "nllb-moe": 2}

Run = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Handed(nn.Module):
    """In place of a layer's experts: hands the tokens, with the routing that the router gave them, to `run`."""

    def __init__(self, run: Run, layer: int, experts: nn.Module, model_type: str) -> None:
        super().__init__()
        self._run, self._layer = run, layer
        self._routing = switch_routing if model_type == "switch_transformers" else nllb_routing
        self._scale = 1.0 - float(getattr(experts, "moe_token_dropout", 0.0))

    def forward(self, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """hidden [T, d]; chosen and weights as the family's router gives them."""
        experts, weights = self._routing(chosen, weights)
        return self._run(self._layer, hidden, experts, weights * self._scale)


def switch_routing(chosen: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One-hot [T, 1, E], all zeros where the capacity was exceeded, and [T, 1] -> experts and weights [T, 1]."""
    return torch.where(chosen.sum(-1) > 0, chosen.argmax(-1), NOBODY), weights


def nllb_routing(_: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight of every expert [T, E], 0 where a token does not go -> experts and weights [T, 2], first choice first.

    What else the router returns, the mask of first choices, says less.
    """
    best = torch.sort(weights, dim=-1, descending=True, stable=True)
    kept = best.values[:, : TOP_K["nllb-moe"]]
    return torch.where(kept > 0, best.indices[:, : TOP_K["nllb-moe"]], NOBODY), kept


def stacked_experts(model: nn.Module) -> Iterator[tuple[int, nn.Module]]:
    """The experts of each sparse layer, with its number: those of the decoder behind all layers of the encoder."""
    found = [(*place.groups(), module) for name, module in model.named_modules() if (place := _PLACE.search(name))]
    encoder = len(_layers(cast(Any, model).get_encoder()))
    for stack, layer, module in found:
        yield int(layer) + (encoder if stack == "decoder" else 0), cast(nn.Module, module)


def _layers(stack: Any) -> Any:
    return stack.block if hasattr(stack, "block") else stack.layers


def is_encoders(hook: "ExpertHook", layer: int) -> bool:
    """Whether a layer is one of the encoder's."""
    return layer < len(_layers(cast(Any, hook.model).get_encoder()))


def scores(router: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """The logits [T, E] of a layer's router for hidden states [T, d]."""
    own = cast(Any, router)
    logits: torch.Tensor = own.classifier(hidden.to(own.dtype))
    return logits


@contextmanager
def repaired(model: nn.Module) -> Iterator[None]:
    """Plain NLLB-MoE whose tokens visit the experts that they are routed to; other models as they are.

    NllbMoeExperts.forward of transformers 5.23 reads the mask of first choices, zeros and ones, as if it held the
    numbers of experts: all tokens visit experts 0 and 1, whatever the router says. Versions 4 take each expert's tokens
    by its weight in the router's answer (pull request 22024), and so does what stands here meanwhile.
    """
    from transformers.models.nllb_moe.modeling_nllb_moe import NllbMoeExperts

    broken = NllbMoeExperts.forward
    if any(isinstance(module, NllbMoeExperts) for module in model.modules()):
        cast(Any, NllbMoeExperts).forward = _by_weight
    try:
        yield
    finally:
        cast(Any, NllbMoeExperts).forward = broken


def _by_weight(experts: Any, hidden: torch.Tensor, _: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    out = torch.zeros_like(hidden)
    for number in range(experts.num_experts):
        tokens = weights[:, number].nonzero().squeeze(-1)
        if len(tokens):
            share = experts[f"expert_{number}"](hidden[tokens]) * weights[tokens, number, None]
            out.index_add_(0, tokens, share * (1 - experts.moe_token_dropout))
    return out
