"""From a shape to what it costs: bytes and flops by hand."""

from fractions import Fraction

import pytest

from cluster.build import build_model
from cluster.config.load import load_precision
from cluster.config.names import names
from emulation.model import NOTHING, Model, Work
from moe.shapes import load_shape


def model_of(name: str, precision: str = "bf16") -> Model:
    return build_model(load_shape(name), load_precision(precision))


def test_mixtral_expert_is_352_megabytes_in_bf16() -> None:
    model = model_of("mixtral-8x7b")
    weights = 3 * 4096 * 14336
    assert model.expert_work(model.d_ff) == Work(2 * weights, 2 * (2 * 4096 + 2 * 14336), 2 * weights)
    assert 2 * weights == 352_321_536
    assert model.expert_flops(model.d_ff, 5) == 10 * weights


def test_mixtral_layer_by_hand() -> None:
    layer = model_of("mixtral-8x7b").layers[0]
    projections = 4096 * (4096 + 2 * 1024) + 4096 * 4096
    assert layer.attention.weight_bytes == 2 * (projections + 2 * 4096)
    assert layer.attention.token_flops == 2 * projections
    assert layer.attention.token_bytes == 2 * (2 * 4096 + 2 * 4096 + 2 * 1024)
    assert layer.kv_bytes == 2 * 2 * 8 * 128
    assert layer.context_flops == 4 * 32 * 128
    assert layer.router == Work(2 * 8 * 4096, 2 * (4096 + 8), 2 * 8 * 4096)
    assert layer.dense == NOTHING
    assert layer.shared == NOTHING


def test_all_bytes_of_mixtral_are_two_for_each_parameter() -> None:
    shape, model = load_shape("mixtral-8x7b"), model_of("mixtral-8x7b")
    routed = len(model.moe_layers) * model.experts * model.expert_work(model.d_ff).weight_bytes
    assert routed + model.dense_bytes == 2 * shape.total_params()
    assert shape.total_params() == 46_702_792_704


@pytest.mark.parametrize("name", ["qwen3-30b-a3b", "olmoe-1b-7b", "deepseek-v2-lite", "phi-3.5-moe"])
def test_no_parameter_is_lost_or_counted_twice(name: str) -> None:
    shape, model = load_shape(name), model_of(name)
    routed = len(model.moe_layers) * model.experts * model.expert_work(model.d_ff).weight_bytes
    assert routed + model.dense_bytes == 2 * shape.total_params()


def test_tied_embeddings_are_held_once() -> None:
    shape = load_shape("mixtral-8x7b")
    tied = build_model(type(shape)(**{**vars(shape), "tied_embeddings": True}), load_precision("bf16"))
    assert tied.embedding_bytes == 0
    assert tied.head == model_of("mixtral-8x7b").head


def test_deepseek_has_a_dense_layer_and_shared_experts() -> None:
    model = model_of("deepseek-v2-lite")
    first, second = model.layers[:2]
    assert not first.is_moe
    assert first.dense.weight_bytes == 2 * 3 * 2048 * 10944
    assert first.shared == NOTHING
    assert second.is_moe
    assert second.dense == NOTHING
    assert second.shared == Work(2 * 3 * 2048 * 2816, 2 * (2 * 2048 + 2 * 2816), 2 * 3 * 2048 * 2816)
    assert second.kv_bytes == 2 * (512 + 64)
    assert second.context_flops == 2 * 16 * (2 * 512 + 64)


@pytest.mark.parametrize(("precision", "each"), [
    ("bf16", Fraction(2)), ("fp16", Fraction(2)), ("int8", Fraction(1)), ("fp8", Fraction(4097, 4096)),
    ("int4", Fraction(33, 64)), ("mxfp4", Fraction(17, 32)),
])
def test_a_weight_carries_its_part_of_the_groups_scale(precision: str, each: Fraction) -> None:
    assert precision in names("precision")
    model = model_of("mixtral-8x7b", precision)
    assert model.weight_bytes == each
    assert model.expert_work(model.d_ff).weight_bytes == each * 3 * 4096 * 14336


def test_dense_weights_stay_wide_where_experts_are_packed() -> None:
    assert model_of("mixtral-8x7b", "int4").dense_bytes == model_of("mixtral-8x7b", "bf16").dense_bytes
    assert model_of("mixtral-8x7b", "int8").dense_bytes * 2 == model_of("mixtral-8x7b", "bf16").dense_bytes


def test_unpacking_costs_flops_once_a_kernel() -> None:
    packed, plain = model_of("mixtral-8x7b", "int4"), model_of("mixtral-8x7b", "bf16")
    weights = 3 * 4096 * 14336
    for tokens in (1, 7):
        assert packed.expert_flops(14336, tokens) - plain.expert_flops(14336, tokens) == 2 * weights


def test_activations_of_fp8_are_half_as_wide() -> None:
    assert model_of("mixtral-8x7b", "fp8").token_row_bytes(3) == 3 * 4096
    assert model_of("mixtral-8x7b", "bf16").token_row_bytes(3) == 3 * 4096 * 2
