"""The embedded model's weights and its own recorded routing, for the engine."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moe.checkpoint import Checkpoint
from studies.offload.body import Maker, Shape
from studies.offload.measure import randomly
from workloads.traces import read_trace

ROOT = Path(__file__).resolve().parent.parent.parent
MODEL, TRACES = ROOT / "moe" / "embedded", ROOT / "configs" / "workload" / "traces"
CONTEXT = 128
DECODE = 1


def shape() -> Shape:
    """The embedded model as the engine knows it."""
    own = Checkpoint(MODEL).shape
    return Shape("moelab-embedded", own.layers, own.d_model, own.expert_ff, own.experts, own.top_k, own.heads,
                 own.kv_heads, own.head_dim, CONTEXT)


def maker(dtype: torch.dtype, device: torch.device, seed: int) -> Maker:
    """Weights of the checkpoint; activations and cached positions at random."""
    checkpoint, by_chance = Checkpoint(MODEL), randomly(seed, device, dtype)

    def make(name: str, size: tuple[int, ...]) -> Tensor:
        layer, _, what = name.partition(".")
        attention = f"model.layers.{layer}.self_attn"
        keys = {"qkv": [f"{attention}.{x}_proj.weight" for x in "qkv"], "out": [f"{attention}.o_proj.weight"],
                "router": [f"model.layers.{layer}.mlp.gate.weight"]}.get(what)
        if keys is None:
            return by_chance(name, size)
        return torch.cat([checkpoint.tensor(key) for key in keys]).to(device=device, dtype=dtype)
    return make


def experts(dtype: torch.dtype, pinned: bool) -> list[list[Tensor]]:
    """Each expert's gate, up and down in one buffer, in host memory."""
    checkpoint = Checkpoint(MODEL)
    own = checkpoint.shape

    def one(layer: int, expert: int) -> Tensor:
        name = f"model.layers.{layer}.mlp.experts.{expert}"
        flat = torch.cat([checkpoint.tensor(f"{name}.{x}_proj.weight").reshape(-1) for x in ("gate", "up", "down")])
        flat = flat.to(dtype)
        return flat.pin_memory() if pinned else flat.clone()
    return [[one(layer, expert) for expert in range(own.experts)] for layer in own.moe_layers]


def decode(domain: str, batch: int, steps: int) -> dict[str, NDArray[np.int64]]:
    """The first sequences' decode steps of a domain's recorded routing, as a reference's trace."""
    trace = read_trace(TRACES / f"embedded-{domain}.npz")
    keep = (trace.phase == DECODE) & (trace.sequence < batch)
    numbers = np.unique(trace.step[keep])[:steps]
    keep &= np.isin(trace.step, numbers)
    rows = np.flatnonzero(keep)[np.lexsort((trace.sequence[keep], trace.step[keep]))]
    routed = trace.experts[rows].astype(np.int64)
    guess = routed if trace.forecast is None else trace.forecast[rows].astype(np.int64)
    guess = np.where(guess < trace.num_experts, guess, routed)  # nothing is guessed for the first layer, nor used
    return {"experts": routed, "forecast": guess, "step": np.searchsorted(numbers, trace.step[rows]),
            "sequence": trace.sequence[rows].astype(np.int64), "phase": np.ones(len(rows), np.int64)}
