"""The model families that moelab runs: config fields, checkpoint keys and module paths, one row each.

Standard library only: shapes are read without torch. Facts are those of transformers 5.23 and of the hub's
checkpoints; `python -m moe.table` runs every row against plain transformers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from emulation.errors import InputError, unknown

Layout = Literal["separate", "fused", "interleaved", "plain"]
Bias = Literal["none", "qkv", "qkvo"]
QkNorm = Literal["none", "head", "full", "optional"]

OUTSIDE = {
    "dbrx": "its experts are one matrix outside transformers' experts interface",
    "jetmoe": "its attention and experts lie outside transformers' experts interface",
    "llama4": "its experts lie outside transformers' experts interface",
    "longcat_flash": "its zero-computation experts lie outside transformers' experts interface",
}


@dataclass(frozen=True)
class ExpertKeys:
    """Where the matrices of one expert lie in a checkpoint; `{layer}` and `{expert}` are filled in.

    Of a model of two stacks also `{stack}`, encoder or decoder, with `{layer}` counted in it, and `{ff}`, the place of
    the experts in its block: 1, or 2 behind cross-attention.

    separate: gate, up [f, d] and down [d, f], one tensor per expert.
    fused: gate = up [E, 2f, d] (gate rows first), down [E, d, f].
    interleaved: gate = up [E, d, 2f] (gate columns even, up columns odd), down [E, f, d], with biases.
    plain: no gate: up [f, d] and down [d, f], one tensor per expert, with or without biases.
    """

    layout: Layout
    gate: str
    up: str
    down: str
    gate_up_bias: str | None = None
    down_bias: str | None = None


_MIXTRAL = ExpertKeys(
    "separate",
    "model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight",
    "model.layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight",
    "model.layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight",
)
_QWEN = ExpertKeys(
    "separate",
    "model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight",
    "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight",
    "model.layers.{layer}.mlp.experts.{expert}.down_proj.weight",
)
_GRANITE = ExpertKeys(
    "fused",
    "model.layers.{layer}.block_sparse_moe.input_linear.weight",
    "model.layers.{layer}.block_sparse_moe.input_linear.weight",
    "model.layers.{layer}.block_sparse_moe.output_linear.weight",
)
_GPT_OSS = ExpertKeys(
    "interleaved",
    "model.layers.{layer}.mlp.experts.gate_up_proj",
    "model.layers.{layer}.mlp.experts.gate_up_proj",
    "model.layers.{layer}.mlp.experts.down_proj",
    "model.layers.{layer}.mlp.experts.gate_up_proj_bias",
    "model.layers.{layer}.mlp.experts.down_proj_bias",
)
_SWITCH = ExpertKeys(
    "plain",
    "{stack}.block.{layer}.layer.{ff}.mlp.experts.expert_{expert}.wi.weight",
    "{stack}.block.{layer}.layer.{ff}.mlp.experts.expert_{expert}.wi.weight",
    "{stack}.block.{layer}.layer.{ff}.mlp.experts.expert_{expert}.wo.weight",
)
_NLLB = ExpertKeys(
    "plain",
    "model.{stack}.layers.{layer}.ffn.experts.expert_{expert}.fc1.weight",
    "model.{stack}.layers.{layer}.ffn.experts.expert_{expert}.fc1.weight",
    "model.{stack}.layers.{layer}.ffn.experts.expert_{expert}.fc2.weight",
    "model.{stack}.layers.{layer}.ffn.experts.expert_{expert}.fc1.bias",
    "model.{stack}.layers.{layer}.ffn.experts.expert_{expert}.fc2.bias",
)


@dataclass(frozen=True)
class Family:
    """One architecture: HF field names (experts, top_k, ...), checkpoint keys, and what its layers carry.

    stacks: an encoder and a decoder, whose layers are numbered through, encoder first. Its experts do not go through
    transformers' experts interface: the hook replaces their module (moe.handed). activation: the field that names it.
    """

    model_type: str
    keys: ExpertKeys
    experts: str
    expert_ff: str = "moe_intermediate_size"
    top_k: str = "num_experts_per_tok"
    shared_count: str | None = None
    shared_ff: str | None = None
    block: str = "mlp"
    router: str = "gate"
    renames: Mapping[str, str] = field(default_factory=dict)
    by_logits: bool = True
    mla: bool = False
    attention_bias: Bias = "none"
    bias_field: str = "attention_bias"
    bias_default: bool = False
    qk_norm: QkNorm = "none"
    norm_bias: bool = False
    sinks: bool = False
    router_bias: bool = False
    head_bias_field: str | None = None
    tied_default: bool = False
    clamped: bool = False
    stacks: bool = False
    activation: str = "hidden_act"


_ROWS = (
    Family("mixtral", _MIXTRAL, "num_local_experts", "intermediate_size", renames={".block_sparse_moe.": ".mlp."}),
    Family(
        "phimoe",
        _MIXTRAL,
        "num_local_experts",
        "intermediate_size",
        router="router",
        renames={".block_sparse_moe.": ".mlp.", ".mlp.gate.": ".mlp.router."},
        attention_bias="qkvo",
        norm_bias=True,
        head_bias_field="lm_head_bias",
    ),
    Family(
        "minimax_m2",
        _MIXTRAL,
        "num_local_experts",
        "intermediate_size",
        renames={".block_sparse_moe.": ".mlp."},
        by_logits=False,
        qk_norm="full",
    ),
    Family(
        "qwen2_moe",
        _QWEN,
        "num_experts",
        shared_ff="shared_expert_intermediate_size",
        attention_bias="qkv",
        bias_field="qkv_bias",
        bias_default=True,
    ),
    Family("qwen3_moe", _QWEN, "num_experts", attention_bias="qkvo", qk_norm="head"),
    Family("olmoe", _QWEN, "num_experts", "intermediate_size", attention_bias="qkvo", qk_norm="full"),
    Family(
        "deepseek_v2",
        _QWEN,
        "n_routed_experts",
        shared_count="n_shared_experts",
        by_logits=False,
        mla=True,
        attention_bias="qkvo",
    ),
    Family(
        "deepseek_v3",
        _QWEN,
        "n_routed_experts",
        shared_count="n_shared_experts",
        by_logits=False,
        mla=True,
        attention_bias="qkvo",
    ),
    Family(
        "glm4_moe",
        _QWEN,
        "n_routed_experts",
        shared_count="n_shared_experts",
        by_logits=False,
        attention_bias="qkv",
        qk_norm="optional",
    ),
    Family(
        "ernie4_5_moe",
        _QWEN,
        "moe_num_experts",
        top_k="moe_k",
        shared_count="moe_num_shared_experts",
        renames={".mlp.moe_statics.": ".mlp.gate.moe_statics."},
        by_logits=False,
        attention_bias="qkvo",
        bias_field="use_bias",
        router_bias=True,
        head_bias_field="use_bias",
        tied_default=True,
    ),
    Family(
        "gpt_oss",
        _GPT_OSS,
        "num_local_experts",
        "intermediate_size",
        router="router",
        attention_bias="qkvo",
        bias_default=True,
        sinks=True,
        router_bias=True,
        clamped=True,
    ),
    Family(
        "granitemoe",
        _GRANITE,
        "num_local_experts",
        "intermediate_size",
        block="block_sparse_moe",
        router="router",
        renames={".block_sparse_moe.router.layer.": ".block_sparse_moe.router."},
        attention_bias="qkvo",
    ),
    Family("switch_transformers", _SWITCH, "num_experts", "d_ff", router="router", stacks=True,
           activation="dense_act_fn"),
    Family("nllb-moe", _NLLB, "num_experts", "encoder_ffn_dim", router="router", attention_bias="qkvo", norm_bias=True,
           stacks=True, activation="activation_function"),
)

FAMILIES: Mapping[str, Family] = {row.model_type: row for row in _ROWS}


def family(model_type: str) -> Family:
    """The row of this HF `model_type`; a family that moelab does not run is refused by name."""
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    if model_type in OUTSIDE:
        raise InputError(
            f"model family {model_type!r} is not run: {OUTSIDE[model_type]}"
            f" (families that are: {', '.join(sorted(FAMILIES))})"
        )
    raise InputError(unknown("model family", model_type, FAMILIES))


def module_name(row: Family, key: str) -> str:
    """The transformers module path of a checkpoint key of this family."""
    for old, new in row.renames.items():
        key = key.replace(old, new)
    return key
