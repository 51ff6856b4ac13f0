"""The embedded model keeps what its card says: size, quality, expert use, and traces that are its own."""

import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moe.embedded.train import bigram
from moe.embedded.train.evaluate import load, measure, token_bytes, total_variation
from moe.embedded.train.fetch_corpora import DOMAINS, held_out

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "moe" / "embedded"
TRACES = ROOT / "configs" / "workload" / "traces"
NO_EXPERT = 65535


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    return load(MODEL)


@pytest.fixture(scope="module")
def evaluation() -> dict[str, Any]:
    result: dict[str, Any] = json.loads((MODEL / "evaluation.json").read_text(encoding="utf-8"))
    return result


def read(domain: str) -> dict[str, Any]:
    with np.load(TRACES / f"embedded-{domain}.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_it_is_a_small_mixture_in_the_hub_layout(loaded: tuple[Any, Any], evaluation: dict[str, Any]) -> None:
    model, tokenizer = loaded
    assert 5_000_000 <= model.num_parameters() <= 12_000_000
    assert model.num_parameters() == evaluation["parameters"]
    assert model.config.num_hidden_layers >= 4
    assert model.config.num_experts >= 16
    assert model.config.num_experts_per_tok >= 2
    assert len(tokenizer) == model.config.vocab_size
    assert json.loads((MODEL / "config.json").read_text())["dtype"] == "bfloat16"


def test_what_ships_stays_under_its_cap() -> None:
    assert (MODEL / "model.safetensors").stat().st_size <= 24_000_000
    assert sum(path.stat().st_size for path in TRACES.glob("embedded-*.npz")) <= 400_000


@pytest.mark.parametrize("text", ["def f(x):\n\treturn  x+1\n", "Größe – «ß»", "选择单元格 🧮\x00\r\n", " a  b   "])
def test_the_tokenizer_gives_every_text_back(loaded: tuple[Any, Any], text: str) -> None:
    _, tokenizer = loaded
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    stands_for = token_bytes(tokenizer)
    assert b"".join(stands_for[i] for i in ids) == text.encode()


def test_the_same_prompt_gives_the_same_text(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    prompt = tokenizer("import os\n\ndef ", return_tensors="pt")
    first, second = (model.generate(**prompt, max_new_tokens=24, do_sample=False)[0].tolist() for _ in range(2))
    assert first == second
    assert len(set(first[prompt.input_ids.shape[1] :])) > 4


def standard_library(kept: bool) -> Iterator[bytes]:
    root = Path(sysconfig.get_paths()["stdlib"])
    folders = (".", "asyncio", "json", "logging", "http", "unittest", "concurrent/futures", "importlib")
    for folder in folders:
        for path in sorted((root / folder).glob("*.py")):
            if held_out(path.relative_to(root).as_posix()) == kept:
                yield path.read_bytes()


def test_held_out_code_costs_at_most_three_quarters_of_a_bigram(
    loaded: tuple[Any, Any], evaluation: dict[str, Any]
) -> None:
    model, tokenizer = loaded
    stands_for = token_bytes(tokenizer)
    ids: list[int] = []
    for source in standard_library(kept=True):
        ids += tokenizer(source.decode("utf-8", errors="replace")).input_ids
    blocks = np.array(ids[: 8 * 1024]).reshape(8, 1024)
    bits, loads = measure(model, blocks)
    texts = [[stands_for[i] for i in block] for block in blocks]
    size = sum(len(word) for text in texts for word in text[1:])
    pairs = np.sum([bigram.counts(b"".join(text)) for text in texts], axis=0)
    trained = bigram.counts(b"\n".join(standard_library(kept=False)))
    assert trained.sum() > 1_000_000
    assert bits / size <= 0.75 * bigram.bits_per_byte(trained, pairs)
    assert bits / size <= 1.4 * evaluation["domains"]["code"]["model_bits_per_byte"]
    assert loads.sum() == 8 * 1023 * model.config.num_experts_per_tok * model.config.num_hidden_layers


def test_every_domain_beats_the_stronger_bigram(evaluation: dict[str, Any]) -> None:
    assert set(evaluation["domains"]) == set(DOMAINS)
    for row in evaluation["domains"].values():
        stronger = min(row["bigram_own_bits_per_byte"], row["bigram_pooled_bits_per_byte"])
        assert row["ratio"] == pytest.approx(row["model_bits_per_byte"] / stronger, abs=2e-4)
        assert row["ratio"] <= 0.75


def test_domains_use_different_experts_and_together_all_of_them(evaluation: dict[str, Any]) -> None:
    loads = {domain: np.array(row["expert_load"]) for domain, row in evaluation["domains"].items()}
    recomputed = total_variation(loads)
    for pair, layers in evaluation["total_variation"].items():
        assert recomputed[pair] == pytest.approx(layers, abs=1e-3)
        assert sum(value >= 0.2 for value in layers) >= len(layers) / 2, pair
    mean = np.mean(list(loads.values()), axis=0)
    assert mean.min() > 0.25 / mean.shape[1]


def test_the_card_says_what_was_measured(evaluation: dict[str, Any]) -> None:
    card = (MODEL / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"{evaluation['parameters']:,}" in card
    for domain, row in evaluation["domains"].items():
        (line,) = [line for line in card.splitlines() if line.startswith(f"| {domain} | ") and "ratio" not in line
                   and f"{row['model_bits_per_byte']:.3f}" in line]
        for key in ("bigram_own_bits_per_byte", "bigram_pooled_bits_per_byte", "ratio"):
            assert f"{row[key]:.3f}" in line
    for pair, layers in evaluation["total_variation"].items():
        assert f"| {pair} | " + " | ".join(f"{value:.2f}" for value in layers) + " |" in card


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_trace_has_the_shape_of_the_model(domain: str) -> None:
    config = json.loads((MODEL / "config.json").read_text())
    trace = read(domain)
    tokens = len(trace["step"])
    shape = (tokens, config["num_hidden_layers"], config["num_experts_per_tok"])
    assert trace["experts"].shape == trace["weights"].shape == trace["forecast"].shape == shape
    assert [trace[name].dtype for name in ("experts", "weights", "forecast", "step", "sequence", "phase")] == [
        np.uint16, np.float16, np.uint16, np.int32, np.int32, np.uint8,
    ]
    assert int(trace["format_version"]) == 1
    assert int(trace["num_experts"]) == config["num_experts"] > trace["experts"].max()
    assert trace["layer_ids"].tolist() == list(range(config["num_hidden_layers"]))
    assert (np.diff(trace["step"]) >= 0).all()
    assert ((trace["step"] > 0) == (trace["phase"] == 1)).all()
    assert (trace["experts"][..., 0] != trace["experts"][..., 1]).all()
    assert trace["weights"].astype(np.float64).sum(-1) == pytest.approx(np.ones(shape[:2]), abs=2e-3)
    assert (trace["forecast"][:, 0] == NO_EXPERT).all()
    assert trace["forecast"][:, 1:].max() < config["num_experts"]


def test_the_traces_together_use_every_expert_of_every_layer() -> None:
    traces = [read(domain) for domain in DOMAINS]
    experts = np.concatenate([trace["experts"] for trace in traces])
    for layer in range(experts.shape[1]):
        assert len(np.unique(experts[:, layer])) == int(traces[0]["num_experts"])


@pytest.mark.parametrize("domain", ["code", "chinese"])
def test_the_model_routes_the_recorded_tokens_as_recorded(loaded: tuple[Any, Any], domain: str) -> None:
    model, _ = loaded
    trace = read(domain)
    order = np.lexsort((trace["position"], trace["sequence"]))
    sequences = int(trace["sequence"].max()) + 1
    tokens = torch.from_numpy(trace["tokens"][order].astype(np.int64).reshape(sequences, -1))
    routers = [layer.mlp.gate for layer in model.model.layers]
    shown: list[torch.Tensor] = []
    handles = [router.register_forward_hook(lambda _m, args, _out: shown.append(args[0])) for router in routers]
    try:
        with torch.no_grad():
            model(tokens)
    finally:
        for handle in handles:
            handle.remove()
    for layer, router in enumerate(routers):
        agrees(router, shown[layer], trace["experts"][order, layer], trace["weights"][order, layer])
        if layer:
            agrees(router, shown[layer - 1], trace["forecast"][order, layer], None)


@torch.no_grad()
def agrees(router: Any, hidden: torch.Tensor, recorded: Any, weights: Any) -> None:
    """The router picks what was recorded, but for ties closer than rounding; and weighs it as recorded."""
    logits, scores, picks = router(hidden.reshape(-1, hidden.shape[-1]))
    probabilities = logits.softmax(-1).numpy()
    picked = picks.numpy()
    rows, places = np.nonzero(picked != recorded)
    assert len(rows) <= 0.002 * picked.size
    gap = probabilities[rows, picked[rows, places]] - probabilities[rows, recorded[rows, places]]
    assert (np.abs(gap) < 1e-4).all()
    if weights is not None:
        same = (picked == recorded).all(-1)
        assert scores.numpy()[same] == pytest.approx(weights[same].astype(np.float32), abs=2e-3)
