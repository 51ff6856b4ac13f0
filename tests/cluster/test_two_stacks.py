"""Runs of models with an encoder, and of dense ones; gatings on the machine of arXiv 2303.06182."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.config.reading import load_run
from cluster.observe.result import Result
from cluster.one_run import OneRun
from cluster.resolve import resolve
from cluster.run import run
from cluster.transports.local import LocalTransport
from emulation.errors import ConfigError
from workloads.traces import write_trace

WORK = {"work": "synthetic", "generator": {"name": "zipf", "skew": 0.6}, "batch": 16, "prompt_tokens": 6,
        "output_tokens": 3}


def written(folder: Path, **more: Any) -> Path:
    data = {"machine": "v100-node", "model": "switch-base-8", "precision": "fp16", "policy": "dynamic_gating",
            "workload": WORK, **more}
    (folder / "mine.yaml").write_text(yaml.safe_dump(data))
    return folder / "mine.yaml"


def done(folder: Path, **more: Any) -> Result:
    return run(load_run(written(folder, **more)))


def test_a_translation_is_one_pass_of_the_encoder_and_a_step_a_token(tmp_path: Path) -> None:
    result = done(tmp_path)
    prefill, decode = result.phases["prefill"], result.phases["decode"]
    assert (prefill.steps, decode.steps, result.emitted_tokens) == (1, 3, 3 * 16)
    assert result.requests.emitted_tokens == (3,) * 16
    assert result.ttft is not None
    assert result.ttft.exact_ps is not None
    assert result.ttft.exact_ps[0] > prefill.time_ps  # the first token comes of the decoder
    assert result.makespan_ps == prefill.time_ps + decode.time_ps
    assert result.bound is None
    assert any("no lower bound" in sentence for sentence in result.approximations)
    gpu = result.memory[0]  # two sequences of six source and three decoded positions, 12 layers of 2 x 768 values
    assert gpu.kv_peak_bytes == 2 * (6 + 3) * 12 * 2 * 768 * 2


def test_both_engines_and_a_replay_agree(tmp_path: Path) -> None:
    compiled, spec = done(tmp_path), done(tmp_path, engine="spec")
    assert compiled.digest == spec.digest
    setup = resolve(load_run(written(tmp_path)))
    one = OneRun(setup, setup.policies[0], LocalTransport(), _Silent())
    one.replay(None)
    trace = one.session.record.trace("switch-base-8", 8, setup.model.moe_layers)
    write_trace(tmp_path / "t.npz", trace)
    again = done(tmp_path, workload={"work": "replay", "trace": str(tmp_path / "t.npz")})
    assert again.makespan_ps == compiled.makespan_ps
    assert again.hashes["spans"] == compiled.hashes["spans"]
    assert again.emitted_tokens == compiled.emitted_tokens


class _Silent:
    def update(self, done: int, total: int, text: str) -> None:
        """Say nothing."""


def test_a_dense_model_runs_beside(tmp_path: Path) -> None:
    result = done(tmp_path, model="lm-dense-355m")
    assert result.makespan_ps > 0
    assert result.bound is None
    assert all(memory.experts_peak_bytes == 0 for memory in result.memory)


def test_a_model_of_two_stacks_is_not_cut(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has an encoder and a decoder: leave it out"):
        resolve(load_run(written(tmp_path, model={"name": "switch-base-8", "layers": 2})))


def test_a_served_workload_has_no_encoder(tmp_path: Path) -> None:
    served = {"work": "synthetic", "generator": "balanced", "serving": {
        "requests": 2, "prompt_tokens": 4, "output_tokens": 2, "max_batch": 2, "token_budget": 8}}
    with pytest.raises(ConfigError, match="static batches"):
        resolve(load_run(written(tmp_path, workload=served)))


@pytest.mark.parametrize(("policy", "slower"), [
    ({"name": "dynamic_gating", "parameters": {"overlap": False}}, 1.0),
    ({"name": "static_gating", "parameters": {"capacity_factor": "1", "indexing": True}}, 1.1),
    ({"name": "static_gating", "parameters": {"capacity_factor": "1"}}, 1.1), ("tutel_gating", 1.0)])
def test_dynamic_gating_is_faster_than(policy: Any, slower: float, tmp_path: Path) -> None:
    work = {**WORK, "batch": 64, "prompt_tokens": 64, "output_tokens": 1, "generator": {"name": "zipf", "skew": 1.0}}
    plain = done(tmp_path, workload=work, model="switch-base-64")
    other = done(tmp_path, workload=work, model="switch-base-64", policy=policy)
    assert other.makespan_ps > slower * plain.makespan_ps
    assert max(m.activations_peak_bytes for m in other.memory) >= max(m.activations_peak_bytes for m in plain.memory)


def test_a_gated_run_lies_above_its_bound(tmp_path: Path) -> None:
    for policy in ("dynamic_gating", "tutel_gating", "static_gating"):
        result = done(tmp_path, policy=policy, model={"name": "lm-moe-52b", "layers": 1})
        assert result.bound is not None
        assert 0 < result.bound.lb_ps <= result.makespan_ps
