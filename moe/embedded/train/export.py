"""Join the trained parts into a checkpoint that `AutoModelForCausalLM.from_pretrained("moe/embedded")` loads."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file, save_file

from moe.embedded.train.build_tokenizer import MODEL
from moe.embedded.train.network import Shape


def config_of(shape: Shape) -> dict[str, object]:
    """The model's config.json under the hub's field names."""
    fields = asdict(shape)
    theta = fields.pop("rope_theta")
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "dtype": "bfloat16",
        **fields,
        "intermediate_size": shape.moe_intermediate_size,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
        "router_aux_loss_coef": 0.01,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "initializer_range": 0.02,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }


def export(trained: Path, model: Path) -> None:
    """Write model.safetensors, config.json, generation_config.json and the training log."""
    tensors = {}
    for part in sorted(trained.glob("weights-*.safetensors")):
        tensors.update(load_file(str(part)))
    record = json.loads((trained / "log.json").read_text())
    save_file(tensors, str(model / "model.safetensors"), metadata={"format": "pt"})
    config = config_of(Shape(**record["shape"]))
    (model / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    (model / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    (model / "train" / "log.json").write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trained", type=Path, default=Path("corpora/trained"))
    parser.add_argument("--model", type=Path, default=MODEL)
    options = parser.parse_args()
    export(options.trained, options.model)


if __name__ == "__main__":
    main()
