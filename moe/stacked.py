"""Shapes of encoder-decoder models, Switch Transformers and NLLB-MoE, from their config.json; no torch.

Layers are numbered through: those of the encoder, then those of the decoder. Which of them route follows transformers
5.23 (SwitchTransformersConfig.__post_init__ and SwitchTransformersStack; NllbMoeEncoder and NllbMoeDecoder).
"""

from emulation.errors import InputError
from moe.families import Family
from moe.shapes import Fields, ModelShape

SWITCH_TOP_K = 1
NLLB_TOP_K = 2


def two_stacks(row: Family, fields: Fields) -> ModelShape:
    """The shape of a model with an encoder and a decoder."""
    return (_switch if row.model_type == "switch_transformers" else _nllb)(row, fields)


def _switch(row: Family, fields: Fields) -> ModelShape:
    encoder = fields.count("num_layers")
    decoder = fields.count("num_decoder_layers", encoder)
    routed = []
    for first, layers, stack in ((0, encoder, "encoder"), (encoder, decoder, "decoder")):
        sparse = fields.count(f"num_sparse_{stack}_layers", 3)
        step = layers // sparse if sparse else layers
        routed += [first + i for i in range(layers) if step and (step == 1 or i % step == 1)]
    heads, width = fields.count("num_heads"), fields.count("d_ff")
    return _shape(row, fields, (encoder, decoder), tuple(routed), SWITCH_TOP_K, heads, fields.count("d_kv"), width,
                  relative_bias=fields.count("relative_attention_num_buckets", 32) * heads)


def _nllb(row: Family, fields: Fields) -> ModelShape:
    stacks = fields.count("encoder_layers"), fields.count("decoder_layers")
    routed, first = [], 0
    for layers, key in zip(stacks, ("encoder_sparse_step", "decoder_sparse_step"), strict=True):
        step = fields.count(key, 4)
        routed += [first + i for i in range(layers) if step and (i + 1) % step == 0]
        first += layers
    for name in ("ffn_dim", "attention_heads"):
        one, other = fields.count(f"encoder_{name}"), fields.count(f"decoder_{name}")
        if one != other:
            raise InputError(f"{fields.model} has encoder_{name} {one} and decoder_{name} {other}: experts and heads "
                             "of both stacks must be alike")
    heads = fields.count("encoder_attention_heads")
    return _shape(row, fields, stacks, tuple(routed), NLLB_TOP_K, heads, fields.count("d_model") // max(heads, 1),
                  fields.count("encoder_ffn_dim"))


def _shape(row: Family, fields: Fields, stacks: tuple[int, int], moe_layers: tuple[int, ...], top_k: int, heads: int,
           head_dim: int, width: int, relative_bias: int = 0) -> ModelShape:
    experts, bias = fields.count(row.experts), row.attention_bias != "none"
    if not moe_layers or top_k > experts:
        raise InputError(f"{fields.model} routes to {top_k} of {experts} experts in {len(moe_layers)} layers: it is "
                         "not a MoE")
    return ModelShape(
        model=fields.model, model_type=row.model_type, layers=sum(stacks), moe_layers=moe_layers,
        d_model=fields.count("d_model"), expert_ff=width, dense_ff=width, experts=experts, top_k=top_k,
        shared_experts=0, shared_ff=0, heads=heads, kv_heads=heads, head_dim=head_dim, mla=None,
        vocab=fields.count("vocab_size"), tied_embeddings=fields.flag("tie_word_embeddings", True),
        windows=(None,) * sum(stacks), gated=False, qkv_bias=bias, output_bias=bias, norm_bias=row.norm_bias,
        router_bias=experts if fields.flag("router_bias", False) else 0,
        expert_bias=row.keys.down_bias is not None, encoder_layers=stacks[0], relative_bias=relative_bias)
