"""Tiny random checkpoints in the hub's layout, one a family: what CI runs in place of weights it cannot fetch."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from moe.families import family

_COMMON: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
FF = 40  # 3 units get 14, 13 and 13 columns
_LATENT: dict[str, Any] = {
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
}
_ROUTED: dict[str, Any] = {"moe_intermediate_size": FF, "intermediate_size": 96, "num_experts_per_tok": 3}
_DEEPSEEK: dict[str, Any] = {**_ROUTED, "n_routed_experts": 8, "n_shared_experts": 2, "first_k_dense_replace": 1}
_LOCAL: dict[str, Any] = {"intermediate_size": FF, "num_local_experts": 8, "num_experts_per_tok": 3}
_STACKS: dict[str, Any] = {"d_model": 64, "num_experts": 8, "decoder_start_token_id": 0, "tie_word_embeddings": True}

CONFIGS: dict[str, dict[str, Any]] = {
    "mixtral": _LOCAL,
    "qwen2_moe": {**_ROUTED, "num_experts": 8, "shared_expert_intermediate_size": 48, "mlp_only_layers": [0]},
    "qwen3_moe": {**_ROUTED, "num_experts": 8, "head_dim": 16, "decoder_sparse_step": 1},
    "olmoe": {"intermediate_size": FF, "num_experts": 8, "num_experts_per_tok": 3},
    "deepseek_v2": {**_DEEPSEEK, **_LATENT, "topk_method": "greedy", "n_group": 1, "topk_group": 1},
    "deepseek_v3": {**_DEEPSEEK, **_LATENT, "n_group": 4, "topk_group": 2},
    "phimoe": {**_LOCAL, "num_experts_per_tok": 2, "attention_bias": True, "lm_head_bias": True},
    "gpt_oss": {**_LOCAL, "head_dim": 16, "sliding_window": 6, "max_position_embeddings": 131072},
    "granitemoe": {**_LOCAL, "attention_multiplier": 0.25, "residual_multiplier": 0.5},
    "glm4_moe": {**_DEEPSEEK, "head_dim": 16, "use_qk_norm": True, "attention_bias": True, "n_group": 1},
    "ernie4_5_moe": {
        "intermediate_size": 96,
        "moe_intermediate_size": FF,
        "moe_num_experts": 8,
        "moe_k": 3,
        "moe_num_shared_experts": 1,
        "moe_layer_start_index": 1,
    },
    "minimax_m2": {**_LOCAL, "head_dim": 16},
    "switch_transformers": {
        **_STACKS,
        "d_ff": FF,
        "d_kv": 16,
        "num_layers": 4,
        "num_decoder_layers": 4,
        "num_sparse_encoder_layers": 2,
        "num_sparse_decoder_layers": 2,
        "num_heads": 4,
        "expert_capacity": 3,
    },
    "nllb-moe": {
        **_STACKS,
        "encoder_layers": 4,
        "decoder_layers": 4,
        "encoder_sparse_step": 2,
        "decoder_sparse_step": 2,
        "encoder_ffn_dim": FF,
        "decoder_ffn_dim": FF,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "moe_eval_capacity_token_fraction": 0.25,
        "normalize_router_prob_before_dropping": True,
    },
}


def write_tiny(
    model_type: str, folder: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32, **fields: object
) -> Path:
    """Save a random model of about 0.3 M parameters of this family in `folder`, sharded, and return the folder.

    fields: of its config, in place of those that it has here.
    """
    stacks = family(model_type).stacks
    common = {key: value for key, value in _COMMON.items() if not stacks or key.endswith("_id") or key == "vocab_size"}
    config = AutoConfig.for_model(model_type, **{**common, **CONFIGS[model_type], **fields})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind: Any = AutoModelForSeq2SeqLM if stacks else AutoModelForCausalLM
        model = kind.from_config(config, attn_implementation="eager", dtype=torch.float32)
        with torch.no_grad():
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
                # Spread wide enough that routing differs by token and every bias and correction counts.
                if "norm" in name and name.endswith("weight"):
                    tensor.uniform_(0.8, 1.2)
                elif "inv_freq" not in name and "embed_positions" not in name:
                    tensor.normal_(0.0, 0.15)
    model.to(dtype).save_pretrained(folder, max_shard_size="400KB")
    return folder
