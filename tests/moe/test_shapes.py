import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from emulation.errors import InputError
from moe.families import FAMILIES
from moe.shapes import CONFIGS, from_config, load_shape, names, read_config
from moe.tiny import write_tiny

# Published totals: model cards and papers (Mixtral arXiv 2401.04088, Qwen3 2505.09388, DeepSeek-V2 2405.04434,
# Phi-3 2404.14219, OLMoE 2409.02060, gpt-oss model card).
PUBLISHED_TOTAL = {
    "mixtral-8x7b": 46.7e9,
    "qwen3-30b-a3b": 30.5e9,
    "deepseek-v2-lite": 15.7e9,
    "phi-3.5-moe": 41.9e9,
    "olmoe-1b-7b": 6.92e9,
    "gpt-oss-20b": 20.9e9,
}
PUBLISHED_ACTIVE = {"mixtral-8x7b": 12.9e9, "qwen3-30b-a3b": 3.3e9, "phi-3.5-moe": 6.6e9, "olmoe-1b-7b": 1.28e9}


# Models of two stacks, or read from such a config: NLLB-200 (arXiv 2207.04672), the 52B language model and its dense
# counterpart (arXiv 2303.06182). The papers give "54.5B", "3.3B", "52B", "355M"; Switch's are its checkpoints' totals.
STACKED_TOTAL = {"nllb-moe-54b": 54.5e9, "nllb-200-3.3b": 3.3e9, "lm-moe-52b": 52e9, "lm-dense-355m": 355e6,
                 "switch-base-8": 0.62e9, "switch-base-64": 3.8e9, "switch-base-128": 7.4e9}


def test_all_models_ship() -> None:
    assert {name for name in names() if not name.startswith("fse-")} == set(PUBLISHED_TOTAL) | set(STACKED_TOTAL)


@pytest.mark.parametrize("name", sorted(STACKED_TOTAL))
def test_models_of_two_stacks_have_the_published_totals(name: str) -> None:
    assert load_shape(name).total_params() == pytest.approx(STACKED_TOTAL[name], rel=0.02)


@pytest.mark.parametrize("name", ["nllb-200-3.3b", "switch-base-8",
                                  pytest.param("nllb-moe-54b", marks=pytest.mark.slow)])
def test_transformers_builds_as_many_parameters_in_two_stacks(name: str) -> None:
    fields = read_config(CONFIGS / f"{name}.json")
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch.device("meta"):
        model = AutoModelForSeq2SeqLM.from_config(config)
    assert sum(tensor.numel() for tensor in model.parameters()) == load_shape(name).total_params()


def test_every_second_or_fourth_layer_of_a_stack_routes() -> None:
    assert load_shape("nllb-moe-54b").moe_layers == (3, 7, 11, 15, 19, 23, 27, 31, 35, 39, 43, 47)
    assert load_shape("lm-moe-52b").moe_layers == tuple(range(1, 24, 2))
    assert load_shape("switch-base-8").moe_layers == tuple(range(1, 24, 2))
    assert load_shape("nllb-200-3.3b").moe_layers == ()
    assert [load_shape("nllb-moe-54b").cross_params(layer) for layer in (23, 24)] == [0, 4 * (2048 * 2048 + 2048)]


def test_the_shapes_of_fse_dps_simulator_are_its_own() -> None:
    # Routed experts only, 3 d f each: half of the released Phi-3.5-MoE and Yuan2.0-M32, and what was released of two.
    routed = {name: load_shape(name) for name in names() if name.startswith("fse-")}
    billions = {name: round(of.expert_params * of.experts * len(of.moe_layers) / 1e9, 1) for name, of in routed.items()}
    assert billions == {"fse-phi-3.5": 20.1, "fse-yuan-2.0": 19.3, "fse-deepseek": 15.5, "fse-qwen3": 29.0}


@pytest.mark.parametrize("name", sorted(PUBLISHED_TOTAL))
def test_total_parameters_are_the_published_ones(name: str) -> None:
    assert load_shape(name).total_params() == pytest.approx(PUBLISHED_TOTAL[name], rel=0.01)


@pytest.mark.parametrize("name", sorted(PUBLISHED_ACTIVE))
def test_active_parameters_are_the_published_ones(name: str) -> None:
    assert load_shape(name).active_params() == pytest.approx(PUBLISHED_ACTIVE[name], rel=0.02)


@pytest.mark.parametrize("name", sorted(PUBLISHED_TOTAL))
def test_transformers_builds_the_same_number_of_parameters(name: str) -> None:
    fields = read_config(CONFIGS / f"{name}.json")
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert sum(tensor.numel() for tensor in model.parameters()) == load_shape(name).total_params()


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_a_saved_config_of_every_family_counts_what_transformers_builds(model_type: str, tmp_path: Path) -> None:
    folder = write_tiny(model_type, tmp_path)
    kind = AutoModelForSeq2SeqLM if FAMILIES[model_type].stacks else AutoModelForCausalLM
    model = kind.from_pretrained(folder)
    assert load_shape(folder).total_params() == sum(tensor.numel() for tensor in model.parameters())


def test_mixtral_by_hand() -> None:
    shape = load_shape("mixtral-8x7b")
    assert shape.expert_params == 3 * 4096 * 14336
    assert shape.moe_layers == tuple(range(32))
    assert shape.attention_params(0) == 4096 * (4096 + 2 * 1024) + 4096 * 4096
    assert shape.kv_elements(31) == 2 * 8 * 128
    assert shape.router_params == 8 * 4096
    assert (shape.shared_experts, shape.shared_params, shape.dense_params(0)) == (0, 0, 0)


def test_deepseek_has_a_dense_first_layer_shared_experts_and_a_latent_cache() -> None:
    shape = load_shape("deepseek-v2-lite")
    assert shape.moe_layers == tuple(range(1, 27))
    assert shape.dense_params(0) == 3 * 2048 * 10944
    assert shape.dense_params(1) == 0
    assert (shape.shared_experts, shape.shared_ff) == (2, 1408)
    assert shape.shared_params == 3 * 2048 * 2816
    assert shape.kv_elements(0) == 512 + 64


def test_gpt_oss_slides_in_every_other_layer_and_carries_biases() -> None:
    shape = load_shape("gpt-oss-20b")
    assert shape.windows == (128, None) * 12
    assert shape.expert_params == 3 * 2880 * 2880 + 2 * 2880 + 2880
    assert shape.router_params == 32 * 2880 + 32


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({}, (0, 1, 2, 3, 4, 5)),
        ({"mlp_only_layers": [0, 3]}, (1, 2, 4, 5)),
        ({"decoder_sparse_step": 2}, (1, 3, 5)),
        ({"first_k_dense_replace": 2}, (2, 3, 4, 5)),
        ({"first_k_dense_replace": 1, "moe_layer_freq": 2}, (2, 4)),
        ({"moe_layer_freq": [0, 1, 1, 0, 0, 1]}, (1, 2, 5)),
        ({"moe_layer_start_index": 1, "moe_layer_end_index": 4, "moe_layer_interval": 1}, (1, 2, 3, 4)),
        ({"mlp_layer_types": ["dense", "sparse", "sparse", "sparse", "dense", "sparse"]}, (1, 2, 3, 5)),
    ],
)
def test_which_layers_route(extra: dict[str, object], expected: tuple[int, ...]) -> None:
    config = {**read_config(CONFIGS / "qwen3-30b-a3b.json"), "num_hidden_layers": 6, "mlp_only_layers": [], **extra}
    assert from_config(config).moe_layers == expected


def test_a_config_is_read_by_path(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text((CONFIGS / "olmoe-1b-7b.json").read_text())
    assert load_shape(folder) == load_shape(str(folder / "config.json"))
    assert load_shape(folder).model == "mine"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model_type": "mixtrall"}, "unknown model family 'mixtrall'; did you mean 'mixtral'"),
        ({"model_type": "llama"}, r"known: deepseek_v2, .*qwen3_moe"),
        ({"hidden_size": None}, "lacks 'hidden_size'"),
        ({"num_hidden_layers": "32"}, "'num_hidden_layers' .* is '32', not a count"),
        ({"num_experts_per_tok": 9}, "routes to 9 of 8 experts"),
    ],
)
def test_a_wrong_config_is_refused_in_one_sentence(change: dict[str, object], sentence: str) -> None:
    config = {**read_config(CONFIGS / "mixtral-8x7b.json"), **change}
    with pytest.raises(InputError, match=sentence):
        from_config(config, "mine")


@pytest.mark.parametrize("model_type", ["jetmoe", "llama4", "dbrx"])
def test_a_family_that_is_not_run_is_refused_by_name(model_type: str) -> None:
    with pytest.raises(InputError, match=f"model family '{model_type}' is not run"):
        from_config({"model_type": model_type})


def test_a_mistyped_model_name_gets_a_suggestion() -> None:
    with pytest.raises(InputError, match="unknown model 'mixtral-8x7'; did you mean 'mixtral-8x7b'"):
        load_shape("mixtral-8x7")


def test_a_layer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match="layers 0 to 31, not 32"):
        load_shape("mixtral-8x7b").attention_params(32)


def test_a_config_that_is_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="is no JSON"):
        load_shape(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps([1]))
    with pytest.raises(InputError, match="holds a list"):
        load_shape(tmp_path)


@pytest.mark.parametrize(("field", "value", "told"), [
    ("mlp_only_layers", -1, "'mlp_only_layers' in the config.json of it is -1, not a list"),
    ("mlp_layer_types", 3, "'mlp_layer_types' in the config.json of it is 3, not a list"),
    ("layer_types", {}, "'layer_types' in the config.json of it is {}, not a list"),
    ("moe_layer_end_index", "x", "'moe_layer_end_index' in the config.json of it is 'x', not a count"),
    ("num_hidden_layers", 10**30, "is 10{30}, not a count"),
])
def test_a_field_of_another_type_is_refused_by_name(field: str, value: object, told: str) -> None:
    config = {**read_config(CONFIGS / "deepseek-v2-lite.json"), "sliding_window": 4, field: value}
    with pytest.raises(InputError, match=told):
        from_config(config, "it")
