"""The embedded model's architecture in plain torch, and its names in the hub layout of `qwen3_moe`.

Training computes every expert for every token as one wide matrix product and multiplies by the combine weights, zero
for experts that were not chosen: the same function as a sparse execution, without gathers.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """Sizes of the model; names follow the hub's config.json."""

    vocab_size: int = 4096
    hidden_size: int = 256
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    num_experts: int = 16
    num_experts_per_tok: int = 2
    moe_intermediate_size: int = 96
    max_position_embeddings: int = 1024
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (self.weight * wide).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of `[..., T, head_dim]` with halves paired."""
    first, second = x.float().chunk(2, dim=-1)
    return (torch.cat((first, second), -1) * cos + torch.cat((-second, first), -1) * sin).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        d, head = shape.hidden_size, shape.head_dim
        self.q_proj = nn.Linear(d, shape.num_attention_heads * head, bias=False)
        self.k_proj = nn.Linear(d, shape.num_key_value_heads * head, bias=False)
        self.v_proj = nn.Linear(d, shape.num_key_value_heads * head, bias=False)
        self.o_proj = nn.Linear(shape.num_attention_heads * head, d, bias=False)
        self.q_norm = RMSNorm(head, shape.rms_norm_eps)
        self.k_norm = RMSNorm(head, shape.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        split = (batch, length, -1, self.shape.head_dim)
        q = rotate(self.q_norm(self.q_proj(x).view(split)).transpose(1, 2), cos, sin)
        k = rotate(self.k_norm(self.k_proj(x).view(split)).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(split).transpose(1, 2)
        groups = self.shape.num_attention_heads // self.shape.num_key_value_heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.o_proj(y.transpose(1, 2).reshape(batch, length, -1))
        return out


class Experts(nn.Module):
    """Router and experts of one layer; returns the output and the two auxiliary losses."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        d, ff, experts = shape.hidden_size, shape.moe_intermediate_size, shape.num_experts
        self.gate = nn.Parameter(torch.empty(experts, d))
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * ff, d))
        self.down_proj = nn.Parameter(torch.empty(experts, d, ff))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        experts, ff = self.shape.num_experts, self.shape.moe_intermediate_size
        flat = x.reshape(-1, self.shape.hidden_size)
        with torch.autocast(x.device.type, enabled=False):
            logits = flat.float() @ self.gate.float().T
        probabilities = logits.softmax(-1)
        chosen, index = probabilities.topk(self.shape.num_experts_per_tok, -1)
        chosen = chosen / chosen.sum(-1, keepdim=True)
        combine = torch.zeros_like(probabilities).scatter(-1, index, chosen)
        load = torch.zeros_like(probabilities).scatter(-1, index, 1.0).mean(0) / self.shape.num_experts_per_tok
        balance = experts * (load.detach() * probabilities.mean(0)).sum()
        z_loss = logits.logsumexp(-1).square().mean()

        wide = F.linear(flat, self.gate_up_proj.view(experts * 2 * ff, -1)).view(-1, experts, 2, ff)
        hidden = F.silu(wide[:, :, 0]) * wide[:, :, 1] * combine.to(wide.dtype)[:, :, None]
        down = self.down_proj.transpose(1, 2).reshape(experts * ff, -1)
        out = hidden.reshape(-1, experts * ff) @ down.to(hidden.dtype)
        return out.view_as(x), balance, z_loss


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = Experts(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        y, balance, z_loss = self.mlp(self.post_attention_layernorm(x))
        return x + y, balance, z_loss


class Network(nn.Module):
    """Decoder with tied embeddings; `forward` returns logits, mean balance loss and mean router z-loss."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape, seed: int) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        frequency = 1.0 / shape.rope_theta ** (torch.arange(0, shape.head_dim, 2).float() / shape.head_dim)
        angle = torch.outer(torch.arange(shape.max_position_embeddings).float(), frequency)
        angle = torch.cat((angle, angle), -1)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        generator = torch.Generator().manual_seed(seed)
        residual = 0.02 / (2 * shape.num_hidden_layers) ** 0.5
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                std = residual if name.endswith(("o_proj.weight", "down_proj")) else 0.02
                with torch.no_grad():
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        length = tokens.shape[1]
        cos, sin = self.cos[:length], self.sin[:length]
        x = self.embed_tokens(tokens)
        balances, z_losses = [], []
        for layer in self.layers:
            x, balance, z_loss = layer(x, cos, sin)
            balances.append(balance)
            z_losses.append(z_loss)
        logits = F.linear(self.norm(x), self.embed_tokens.weight)
        return logits, torch.stack(balances).mean(), torch.stack(z_losses).mean()


def hub_tensors(network: Network) -> dict[str, Tensor]:
    """The parameters in bf16 under the hub's names for `qwen3_moe`, one tensor an expert and matrix."""
    tensors: dict[str, Tensor] = {}
    for name, value in network.state_dict().items():
        data = value.detach().to("cpu", torch.bfloat16)
        prefix = "model." + name
        if name.endswith("mlp.gate"):
            tensors[prefix + ".weight"] = data
        elif name.endswith(("mlp.gate_up_proj", "mlp.down_proj")):
            stem = prefix.rpartition(".")[0]
            for expert, matrix in enumerate(data):
                halves = matrix.chunk(2) if name.endswith("gate_up_proj") else (matrix,)
                parts = ("gate_proj", "up_proj") if len(halves) == 2 else ("down_proj",)
                for part, half in zip(parts, halves, strict=True):
                    tensors[f"{stem}.experts.{expert}.{part}.weight"] = half.clone()
        else:
            tensors[prefix] = data
    return tensors
