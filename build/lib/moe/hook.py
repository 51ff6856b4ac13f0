"""The way in: a model's routed experts are computed by a runner of ours, everything else by transformers."""

import copy
import re
from functools import partial
from typing import Protocol, cast

import torch
from torch import nn

from emulation.errors import InputError
from emulation.shards import slice_bounds
from moe.checkpoint import Checkpoint
from moe.experts import ExpertSlice, reduce_units, unit_partial
from moe.families import family
from moe.handed import Handed, stacked_experts
from moe.lean import import_transformers

import_transformers()

from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS  # noqa: E402 (after the lean import)

IMPLEMENTATION = "moelab"
_LAYER = re.compile(r"\blayers\.(\d+)\.")


class ExpertRunner(Protocol):
    """Computes one layer's routed experts: hidden [T, d], experts and weights [T, k] -> [T, d]."""

    def __call__(
        self, layer: int, hidden: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor, /
    ) -> torch.Tensor: ...


class LocalExperts:
    """The reference runner, in this process: experts whole (parts=1), or cut into `parts` tensor-parallel units."""

    def __init__(self, checkpoint: Checkpoint, parts: int = 1) -> None:
        self.checkpoint = checkpoint
        self.bounds = slice_bounds(checkpoint.shape.expert_ff, parts)

    def __call__(self, layer: int, hidden: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return reduce_units(
            unit_partial(partial(self._part, layer, lo, hi), hidden, experts, weights) for lo, hi in self.bounds
        )

    def _part(self, layer: int, lo: int, hi: int, expert: int) -> ExpertSlice:
        return self.checkpoint.slice(layer, expert, lo, hi)


class ExpertHook:
    """Routes one model's expert layers to `runner`; other models of the process, hooked or not, are untouched.

    `mask`, bool over the tokens of the next forward pass in (batch, position) order, names the live ones: the others
    (padding) are not routed and come out as zeros. Use it as a context manager, or call `attach` and `detach`.
    """

    def __init__(self, model: nn.Module, runner: ExpertRunner) -> None:
        self.model, self.runner = model, runner
        self._mask: torch.Tensor | None = None
        self._all_live = False
        self.calls = 0
        self.model_type = str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))
        self.family = family(self.model_type)
        self._experts = dict(stacked_experts(model) if self.family.stacks else _expert_modules(model))
        if not self._experts:
            raise InputError(f"no layer of this {self.model_type!r} goes through transformers' experts interface")
        self.layers = tuple(sorted(self._experts))
        self.blocks = {layer: _parent(model, module) for layer, module in self._experts.items()}
        self.routers = {layer: block.get_submodule(self.family.router) for layer, block in self.blocks.items()}
        self._configs: dict[int, object] = {}

    @property
    def mask(self) -> torch.Tensor | None:
        """The live tokens of the next forward pass; None for all of them."""
        return self._mask

    @mask.setter
    def mask(self, mask: torch.Tensor | None) -> None:
        self._mask = mask
        self._all_live = mask is not None and bool(mask.all())

    def attach(self) -> "ExpertHook":
        """Put the runner in place."""
        if self.family.stacks:
            for layer, module in self._experts.items():
                self._refuse_second(layer, self.blocks[layer].get_submodule("experts"))
                self.blocks[layer].experts = Handed(self.run, layer, module, self.model_type)
            return self
        ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, _dispatch)
        for layer, module in self._experts.items():
            self._refuse_second(layer, module)
            self._configs[layer] = module.config
            # The interface dispatches on the module's config, which models of one process may share.
            own = copy.copy(module.config)
            own._experts_implementation_internal = IMPLEMENTATION  # type: ignore[union-attr]
            module.__dict__.update(config=own, moelab_hook=self, layer_idx=layer)
        return self

    def detach(self) -> None:
        """Give the layers back to transformers."""
        if self.family.stacks:
            for layer, module in self._experts.items():
                self.blocks[layer].experts = module
            return
        for layer, module in self._experts.items():
            if layer in self._configs:
                module.__dict__["config"] = self._configs.pop(layer)
                del module.__dict__["moelab_hook"]

    def _refuse_second(self, layer: int, module: nn.Module) -> None:
        if "moelab_hook" in module.__dict__ or isinstance(module, Handed):
            raise InputError(f"layer {layer} of this {self.model_type!r} is hooked already: detach that hook first")

    def __enter__(self) -> "ExpertHook":
        return self.attach()

    def __exit__(self, *_: object) -> None:
        self.detach()

    def check(self, since: int = 0) -> None:
        """Refuse a run that left `calls` where it was: its experts were computed elsewhere."""
        if self.calls <= since:
            raise InputError(
                f"no expert layer of {self.model_type} went through the hook: its experts were computed by transformers"
            )

    def run(self, layer: int, hidden: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """One layer's experts for the live tokens; zeros for the others."""
        self.calls += 1
        if self.mask is None:
            return self.runner(layer, hidden, experts, weights).to(hidden.dtype)
        if self.mask.numel() != hidden.shape[0]:
            raise InputError(
                f"the mask names {self.mask.numel()} tokens and layer {layer} got {hidden.shape[0]}:"
                " set it before each forward pass"
            )
        if self._all_live:
            return self.runner(layer, hidden, experts, weights).to(hidden.dtype)
        out = torch.zeros_like(hidden)
        live = self.mask.reshape(-1).nonzero().squeeze(-1)
        if live.numel():
            out[live] = self.runner(layer, hidden[live], experts[live], weights[live]).to(hidden.dtype)
        return out


def _dispatch(
    module: nn.Module, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    hook = cast(ExpertHook, module.__dict__["moelab_hook"])
    return hook.run(cast(int, module.layer_idx), hidden_states, top_k_index, top_k_weights)


def _expert_modules(model: nn.Module) -> list[tuple[int, nn.Module]]:
    """The modules that transformers' `use_experts_implementation` wraps, with their layer."""
    found = []
    for name, module in model.named_modules():
        layer = _LAYER.search(f"{name}.")
        if layer and "_is_expert_parallel" in module.__dict__ and hasattr(type(module).forward, "__wrapped__"):
            found.append((int(layer.group(1)), module))
    return found


def _parent(model: nn.Module, child: nn.Module) -> nn.Module:
    return next(module for module in model.modules() if any(c is child for c in module.children()))
