"""The host's share of a model: attention, norms, routers and shared experts are loaded, routed experts are not."""

from typing import Any, cast

import torch
from torch import nn
from torch.utils._device import DeviceContext

from emulation.errors import InputError
from moe.checkpoint import Checkpoint
from moe.families import module_name
from moe.lean import import_transformers, without_compiler

import_transformers()

from transformers import (  # noqa: E402 (after the lean import)
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
)
from transformers.initialization import no_init_weights  # noqa: E402


class _Shapes(DeviceContext):
    """Makes tensors as shapes without storage, but counts for real: `arange` without storage loads all of sympy."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.arange:
            return func(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]


def load_shell(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The checkpoint's language model in `dtype`, its routed experts left on the meta device.

    It answers only with an ExpertHook attached. Attention runs eagerly: one path on every machine.
    """
    dropped = {"model_type", "quantization_config"}
    fields = {key: value for key, value in checkpoint.config.items() if key not in dropped}
    config = AutoConfig.for_model(checkpoint.shape.model_type, **fields)
    with without_compiler(), _Shapes(torch.device("meta")), no_init_weights():
        kind: Any = AutoModelForSeq2SeqLM if checkpoint.family.stacks else AutoModelForCausalLM
        built = kind.from_config(config, attn_implementation="eager", dtype=dtype)
    model = cast(PreTrainedModel, built)
    wanted = model.state_dict()
    state: dict[str, torch.Tensor] = {}
    for key in checkpoint.names():
        target = module_name(checkpoint.family, key)
        if checkpoint.is_expert(key) or target not in wanted:
            continue
        tensor = checkpoint.tensor(key)
        if tensor.shape != wanted[target].shape:
            raise InputError(
                f"tensor {key!r} of {checkpoint.folder} has shape {list(tensor.shape)} where the model"
                f" needs {list(wanted[target].shape)}"
            )
        # A copy: the mapped page is read-only, and parameters are not.
        state[target] = tensor.to(dtype, copy=True) if tensor.is_floating_point() else tensor.clone()
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    _fill_buffers(model)
    _refuse_missing(model, checkpoint)
    model.train(False)
    return model


def _fill_buffers(model: PreTrainedModel) -> None:
    """Rebuild the modules whose buffers are computed, not stored: rotary embeddings."""
    for name, module in list(model.named_modules()):
        computed = [key for key in module._non_persistent_buffers_set if module._buffers.get(key) is not None]
        if any(cast(torch.Tensor, module._buffers[key]).is_meta for key in computed):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, type(module)(module.config))


def _refuse_missing(model: PreTrainedModel, checkpoint: Checkpoint) -> None:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        owner: nn.Module = model.get_submodule(name.rpartition(".")[0])
        if tensor.is_meta and "_is_expert_parallel" not in owner.__dict__ and not checkpoint.is_expert(name):
            raise InputError(f"checkpoint {checkpoint.folder} has no tensor for {name!r}, which its architecture has")
