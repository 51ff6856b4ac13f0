"""The measured engine's model as the emulation counts it: what its parts read and compute."""

from dataclasses import replace
from typing import Protocol

from cluster.build import build_model
from cluster.config.load import load_precision
from emulation.model import NOTHING, Model
from moe.shapes import ModelShape


class Sized(Protocol):
    """A model by its sizes: every layer holds experts."""

    @property
    def model(self) -> str: ...
    @property
    def layers(self) -> int: ...
    @property
    def d_model(self) -> int: ...
    @property
    def d_ff(self) -> int: ...
    @property
    def experts(self) -> int: ...
    @property
    def top_k(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...


def model_of(sizes: Sized, precision: str) -> Model:
    """The model of these sizes at a precision by name; no head is measured, so none is counted."""
    shape = ModelShape(
        model=sizes.model, model_type="mixtral", layers=sizes.layers, moe_layers=tuple(range(sizes.layers)),
        d_model=sizes.d_model, expert_ff=sizes.d_ff, dense_ff=0, experts=sizes.experts, top_k=sizes.top_k,
        shared_experts=0, shared_ff=0, heads=sizes.heads, kv_heads=sizes.kv_heads, head_dim=sizes.head_dim, mla=None,
        vocab=0, tied_embeddings=True, windows=(None,) * sizes.layers)
    return replace(build_model(shape, load_precision(precision)), head=NOTHING, embedding_bytes=0)


def expert_work(model: Model, tokens: int) -> tuple[int, int]:
    """Bytes and flops of one expert over some tokens."""
    return model.expert_work(model.d_ff).bytes_for(tokens), model.expert_flops(model.d_ff, tokens)


def attention_work(model: Model, tokens: int, context: int) -> tuple[int, int]:
    """Bytes and flops of one layer's attention at decode: tokens of as many sequences, each behind `context` others."""
    layer, positions = model.layers[0], tokens * (context + 1)
    return (layer.attention.bytes_for(tokens) + positions * layer.kv_bytes,
            layer.attention.flops_for(tokens) + positions * layer.context_flops)


def router_work(model: Model, tokens: int) -> tuple[int, int]:
    """Bytes and flops of one layer's router."""
    router = model.layers[0].router
    return router.bytes_for(tokens), router.flops_for(tokens)
