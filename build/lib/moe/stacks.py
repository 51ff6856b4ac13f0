"""Shapes of models of two stacks of layers, an encoder and a decoder, read from their config.json."""

from typing import Any

from emulation.errors import InputError
from moe.fields import Fields

STACKED = ("nllb-moe", "switch_transformers")
"""Layouts of two stacks of layers, encoder and decoder; without encoder layers they are decoders only."""


def stacked(fields: Fields, model_type: str) -> dict[str, Any]:
    """The fields of `ModelShape` of an NllbMoe or SwitchTransformers config. A stack with a step of 0 has no experts.

    NllbMoe (arXiv 2207.04672): layer i of a stack routes where (i + 1) % step == 0, biases everywhere, top-2.
    SwitchTransformers (arXiv 2101.03961): where i % (layers // sparse layers) == 1 (always for 1), no biases, top-1;
    a table of relative positions in each stack, which costs nothing.
    """
    nllb = model_type == "nllb-moe"
    names = ("encoder_layers", "decoder_layers") if nllb else ("num_layers", "num_decoder_layers")
    stacks = [fields.count(name) for name in names]
    if nllb:
        steps = [fields.count(f"{stack}_sparse_step", 4) for stack in ("encoder", "decoder")]
        heads, d_ff = fields.count("decoder_attention_heads"), fields.count("decoder_ffn_dim")
    else:
        sparse = [fields.count(f"num_sparse_{stack}_layers", 3) for stack in ("encoder", "decoder")]
        steps = [layers // few if few else 0 for layers, few in zip(stacks, sparse, strict=True)]
        heads, d_ff = fields.count("num_heads"), fields.count("d_ff")
    first, routed = 0, []
    for layers, step in zip(stacks, steps, strict=True):
        routed += [first + i for i in range(layers) if step and (
            (i + 1) % step == 0 if nllb else i % step == 1 or step == 1)]
        first += layers
    d_model = fields.count("d_model")
    if not (stacks[1] and heads and d_model):
        raise InputError(f"{fields.model} has {stacks[1]} decoder layers, {heads} heads and a width of {d_model}: it "
                         "needs at least one of each")
    return {
        "model": fields.model, "model_type": model_type, "layers": sum(stacks), "moe_layers": tuple(routed),
        "d_model": d_model, "expert_ff": d_ff, "dense_ff": d_ff, "experts": fields.count("num_experts"),
        "top_k": 2 if nllb else 1, "shared_experts": 0, "shared_ff": 0, "heads": heads, "kv_heads": heads,
        "head_dim": d_model // heads if nllb else fields.count("d_kv"), "mla": None,
        "vocab": fields.count("vocab_size"),
        "tied_embeddings": fields.flag("tie_word_embeddings", True), "windows": (None,) * sum(stacks), "gated": False,
        "qkv_bias": nllb, "output_bias": nllb, "norm_bias": nllb, "expert_bias": nllb, "encoder_layers": stacks[0],
        "relative_bias": 0 if nllb else 2 * heads * fields.count("relative_attention_num_buckets", 32)}
