"""What a result says of a run is possible: found by running every machine, model, precision and policy."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import moelab
from moelab import Result

TINY: dict[str, Any] = {"model": "embedded", "engine": "spec", "workload": {
    "work": "synthetic", "generator": "balanced", "batch": 2, "prompt_tokens": 3, "output_tokens": 3}}


def tiny(tmp_path: Path, **more: object) -> Result:
    """A run of three steps."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**TINY, **more}))
    return moelab.run(tmp_path / "tiny.yaml")


def rates(result: Result) -> list[float | None]:
    return [phase.hit_rate for phase in result.phases.values()]


def test_a_home_that_never_holds_an_expert_has_no_hit_rate(tmp_path: Path) -> None:
    for policy in ("expert_parallel", "tensor_parallel"):
        result = tiny(tmp_path, machine="edge-gpu-ndp", policy=policy)
        assert rates(result) == [None, None]
        assert result.phases["decode"].misses > 0
    none = {"name": "cpu_static", "parameters": {"slots": 0}}
    assert rates(tiny(tmp_path, machine="edge-gpu-ndp", policy=none)) == [None, None]


def test_a_home_that_forgets_its_copies_hits_nothing(tmp_path: Path) -> None:
    assert rates(tiny(tmp_path, machine="edge-gpu-ndp", policy="on_demand")) == [0.0, 0.0]
    assert rates(tiny(tmp_path, machine="edge-gpu-ndp", policy="resident")) == [1.0, 1.0]


@pytest.mark.parametrize("policy", ["expert_parallel", "tensor_parallel"])
def test_homes_that_run_no_attention_hold_no_dense_weights(policy: str, tmp_path: Path) -> None:
    result = tiny(tmp_path, machine="chiplet-2x2", policy=policy, precision="int8")
    chiplets = [memory for memory in result.memory if memory.device.startswith("chiplet")]
    assert len(chiplets) == 4
    for memory in chiplets:
        assert memory.dense_bytes == memory.kv_peak_bytes == 0
        assert 0 < memory.peak_bytes <= memory.capacity_bytes
