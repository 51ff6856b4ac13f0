"""The model that the offloading engine runs: its shape, its dense weights near, its experts far."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Maker = Callable[[str, tuple[int, ...]], Tensor]
"""Gives the tensor of a name and shape, in host memory."""


@dataclass(frozen=True)
class Shape:
    """What a reference file says of a model: layers that all hold experts, attention at one length of context."""

    model: str
    layers: int
    d_model: int
    d_ff: int
    experts: int
    top_k: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int

    @property
    def expert_elements(self) -> int:
        """Elements of one expert: gate, up and down."""
        return 3 * self.d_model * self.d_ff

    @classmethod
    def of(cls, reference: dict[str, Any]) -> "Shape":
        """The shape that a reference file's head names."""
        return cls(**{name: reference[name] for name in cls.__dataclass_fields__})


def ffn(flat: Tensor, shape: Shape, x: Tensor) -> Tensor:
    """One gated expert, its three matrices in one flat buffer: [tokens, d_model] -> [tokens, d_model]."""
    gate, up, down = matrices(flat, shape)
    return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)


def matrices(flat: Tensor, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """gate [ff, d], up [ff, d] and down [d, ff] as views of one expert's buffer."""
    d, ff = shape.d_model, shape.d_ff
    gate, up, down = (flat[lo:hi] for lo, hi in pairwise(range(0, 3 * d * ff + 1, d * ff)))
    return gate.view(ff, d), up.view(ff, d), down.view(d, ff)


class Dense:
    """One layer's attention, router and norm, at decode: each token over `context` cached positions of its own."""

    def __init__(self, shape: Shape, layer: int, batch: int, make: Maker, device: torch.device) -> None:
        def near(name: str, *size: int) -> Tensor:
            return make(f"{layer}.{name}", size).to(device)

        s, self.shape = shape, shape
        self.q_width, kv_width = s.heads * s.head_dim, s.kv_heads * s.head_dim
        self.qkv = near("qkv", self.q_width + 2 * kv_width, s.d_model)
        self.out = near("out", s.d_model, self.q_width)
        self.router = near("router", s.experts, s.d_model)
        self.norm = torch.ones(s.d_model, dtype=self.qkv.dtype, device=device)
        self.keys = near("keys", batch, s.kv_heads, s.context, s.head_dim)
        self.values = near("values", batch, s.kv_heads, s.context, s.head_dim)

    def attention(self, x: Tensor) -> Tensor:
        """QKV, attention over the context and output projection: [batch, d_model] -> [batch, d_model]."""
        q = F.linear(x, self.qkv)[:, :self.q_width].view(x.shape[0], self.shape.heads, 1, self.shape.head_dim)
        mixed = F.scaled_dot_product_attention(q, self.keys, self.values, enable_gqa=True)
        return F.linear(mixed.reshape(x.shape[0], self.q_width), self.out)

    def route(self, x: Tensor) -> Tensor:
        """The chosen experts [batch, top_k], on the host: the layer's synchronisation."""
        return torch.topk(F.linear(x, self.router).softmax(-1), self.shape.top_k).indices.cpu()

    def normed(self, x: Tensor) -> Tensor:
        """RMSNorm."""
        return F.rms_norm(x, (self.shape.d_model,), self.norm, 1e-6)
