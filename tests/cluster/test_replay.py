"""Recorded routing through a run: a model cut to a trace's layers, caches of the trace's lengths, reference counts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import moelab
from cluster.config.reading import load_run
from cluster.resolve import cache_tokens, resolve
from emulation.errors import ConfigError, InputError
from emulation.trace import Trace
from workloads.foreign import convert
from workloads.traces import write_trace


def written(folder: Path, trace: Path, **more: Any) -> Path:
    data = {"machine": "edge-gpu-ndp", "model": {"name": "olmoe-1b-7b", "layers": 2}, "policy": "expert_parallel",
            "engine": "spec", "workload": {"work": "replay", "trace": str(trace)}, **more}
    (folder / "mine.yaml").write_text(yaml.safe_dump(data))
    return folder / "mine.yaml"


def staggered(folder: Path, layers: int = 2) -> Path:
    """Three sequences: 0 in steps 0 to 2, 1 in steps 1 to 3, 2 in step 3 alone, of 3, 3 and 1 positions."""
    step, sequence = [0, 1, 1, 2, 2, 3, 3], [0, 0, 1, 0, 1, 1, 2]
    position = [0, 1, 0, 2, 1, 2, 0]
    experts = np.tile(np.arange(8, dtype=np.uint16), (7, layers, 1))
    trace = Trace("olmoe-1b-7b", 64, np.arange(layers), experts, np.full(experts.shape, 1 / 8, np.float32),
                  np.array(step), np.array(sequence), np.array(position), np.ones(7, np.uint8))
    write_trace(folder / "t.npz", trace)
    return folder / "t.npz"


def test_caches_of_a_replay_are_those_of_its_sequences(tmp_path: Path) -> None:
    run = written(tmp_path, staggered(tmp_path))
    assert cache_tokens(resolve(load_run(run))) == [6]  # 0 and 1 in steps 1 and 2; 1 and 2 in step 3 are 4
    assert cache_tokens(resolve(load_run(run, ["workload.context_tokens=10"]))) == [26]
    assert cache_tokens(resolve(load_run(run, ["limits.steps=1"]))) == [1]
    assert cache_tokens(resolve(load_run(run, ["limits.steps=2"]))) == [2 + 1]
    chiplets = load_run(run, ["machine=chiplet-2x2", "precision=int8", "limits.steps=99"])
    assert cache_tokens(resolve(chiplets)) == [3, 3, 1, 0]
    with pytest.raises(ConfigError, match=r"caches take .* on gpu, which holds 16\.00 GB"):
        resolve(load_run(run, ["workload.context_tokens=1000000"]))


def test_what_a_replay_reserves_is_what_it_uses(tmp_path: Path) -> None:
    result = moelab.run(written(tmp_path, staggered(tmp_path)), ["workload.context_tokens=10"])
    gpu = next(memory for memory in result.memory if memory.device == "gpu")
    assert gpu.capacity_bytes - gpu.budget_bytes - gpu.dense_bytes == 26 * 2 * 2 * 2 * 16 * 128
    assert 0 < gpu.kv_peak_bytes <= gpu.capacity_bytes - gpu.budget_bytes - gpu.dense_bytes


@pytest.mark.parametrize("option", ["batch=8", "requests=2", "prompt_tokens=4", "output_tokens=4"])
def test_a_replay_refuses_what_its_trace_settles(option: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"work: replay takes no {option.split('=')[0]}: the trace says"):
        load_run(written(tmp_path, staggered(tmp_path)), [f"workload.{option}"])


def test_a_cut_model_costs_its_first_layers_and_says_so(tmp_path: Path) -> None:
    run = written(tmp_path, staggered(tmp_path))
    setup = resolve(load_run(run))
    assert setup.approximations[0] == ("The model is cut to its first 2 of 16 MoE layers (2 of 16 layers), with "
                                       "embedding and head whole.")
    assert setup.approximations[0] in moelab.run(run).approximations
    whole = resolve(load_run(run, ["model.layers=16", "workload={work: synthetic, generator: balanced, "
                                   "prompt_tokens: 1, output_tokens: 1}"]))
    assert not any("cut" in sentence for sentence in whole.approximations)
    assert setup.model.layers == whole.model.layers[:2]
    assert setup.model.head == whole.model.head
    deep = resolve(load_run(run, ["model={name: deepseek-v2-lite, layers: 3}", "workload={work: synthetic, generator: "
                                  "balanced, prompt_tokens: 1, output_tokens: 1}"]))
    assert (len(deep.model.layers), deep.model.moe_layers) == (4, (1, 2, 3))


def test_a_trace_of_fewer_layers_is_refused_with_the_remedy(tmp_path: Path) -> None:
    run = written(tmp_path, staggered(tmp_path), model="olmoe-1b-7b")
    with pytest.raises(InputError, match=r"has 16 MoE layers, 64 experts, top-8; model\.layers: 2 times the"):
        resolve(load_run(run))
    with pytest.raises(InputError, match=r"top-2$"):
        resolve(load_run(run, ["model=mixtral-8x7b"]))


def test_weights_are_run_whole() -> None:
    with pytest.raises(ConfigError, match=r"model\.layers cuts the shape of a model"):
        load_run("demo", ["model.layers=2"])


@pytest.mark.parametrize("batch", [1, 4, 16])
@pytest.mark.parametrize("policy", ["lru", "lru_prefetch"])
def test_reference_traces_give_the_reference_counts(batch: int, policy: str, tmp_path: Path, shared: Path) -> None:
    reference = json.loads((shared / "hardware" / "reference_olmoe-1b-7b.json").read_text())
    [row] = [row for row in reference["rows"] if (row["policy"], row["batch"], row["slots"]) == (policy, batch, 16)]
    result = moelab.run(written(
        tmp_path, shared / "hardware" / f"trace_olmoe-1b-7b_b{batch}.npz", machine="h200-host",
        model={"name": "olmoe-1b-7b", "layers": 6}, policy={"name": policy, "parameters": {"slots": 16}},
        forecast="recorded", engine="compiled"))
    found = result.phases["decode"]
    assert {key: row[key] for key in ("hits", "misses") if key in row} == {"hits": found.hits, "misses": found.misses}


def plain_lru_hits(experts: np.ndarray, slots: int, first: list[int]) -> int:
    """Hits of one layer [tokens, top_k]: a token's experts are looked up together, then taken hits first."""
    hits, cache = 0, first[:slots][::-1]
    for row in experts.tolist():
        found = [expert for expert in row if expert in cache]
        hits += len(found)
        cache = [expert for expert in cache if expert not in found] + found
        for expert in row:
            if expert not in found:
                cache = [*cache[1:], expert]
    return hits


@pytest.mark.parametrize(("machine", "slots"), [("edge-gpu-ndp", 2), ("edge-gpu-ndp", 4), ("cpu-gpu-a6000", 2),
                                                ("cpu-gpu-a6000", 4), ("cpu-gpu-a6000", 6)])
def test_a_cache_on_mixtral_hits_as_often_as_plain_lru(machine: str, slots: int, tmp_path: Path, shared: Path) -> None:
    steps, layers = 200, 32
    trace = convert(shared / "traces" / "mixtral-8x7b_math.npz", model="mixtral-8x7b", num_experts=8, batch=1)
    write_trace(tmp_path / "m.npz", trace)
    result = moelab.run(written(
        tmp_path, tmp_path / "m.npz", machine=machine, model="mixtral-8x7b", precision="int4", engine="compiled",
        policy={"name": "lru", "parameters": {"slots": slots}}, limits={"steps": steps}))
    first = np.argsort(-trace.popularity(), axis=1, kind="stable").tolist()
    hits = sum(plain_lru_hits(trace.experts[:steps, layer], slots, first[layer]) for layer in range(layers))
    found = result.phases["decode"]
    assert (found.hits, found.hits + found.misses) == (hits, 2 * steps * layers)
