"""Machines whose time is what their one link needs for the bytes of the experts, and studies that compare them.

An expert of OLMoE-1B-7B in bf16 is 3 x 2048 x 1024 weights of 2 bytes. `on_demand` with one slot copies each routed
expert, then runs it, one after the other; all else takes a few picoseconds. So a run takes COPIES times (latency +
EXPERT_BYTES / bandwidth), whatever else a machine has.
"""

import json
from pathlib import Path
from typing import Any

from studies.decide.decide import decide
from studies.decide.decision import Decision
from studies.decide.study import Decide, load_decide
from studies.sweep import Options

EXPERT_BYTES = 3 * 2048 * 1024 * 2

RUN: dict[str, Any] = {
    "machine": "template", "model": {"name": "olmoe-1b-7b", "layers": 1}, "engine": "spec",
    "policy": {"name": "on_demand", "parameters": {"slots": 1}},
    "workload": {"work": "synthetic", "generator": "balanced", "prompt_tokens": 1, "output_tokens": 2}}


def quantity(value: str, low: str | None = None, high: str | None = None) -> dict[str, Any]:
    """A constant: assumed where it has a range, else from a paper."""
    if low is None:
        return {"value": value, "source": "a test", "kind": "paper"}
    return {"value": value, "source": "a test", "kind": "assumed", "range": [low, high]}


def machine(folder: Path, name: str, bandwidth: dict[str, Any], latency: dict[str, Any] | None = None,
            memory: str = "64 GB", **more: Any) -> str:
    """Writes a machine's file: experts rest in `stores` stores of so much memory, each behind a link of its own."""
    gpu = {"kind": "gpu", "memory": quantity("80 GB"), "memory_bandwidth": quantity("999 PB/s"),
           "peak": {"bf16": quantity("999 PFLOP/s")}, "overhead": quantity("0 s"), "runs": ["expert"]}
    store = {"kind": "memory", "count": "stores", "rests": True, "memory": quantity(memory)}
    data = {"title": name, "parameters": {"stores": {"default": 1, "min": 1, "max": 8, "meaning": "stores of experts"}},
            "devices": {"gpu": {**gpu, **more.pop("gpu", {})}, "store": {**store, **more.pop("store", {})}},
            "links": [{"name": "link", "from": "store", "to": "gpu", "bandwidth": bandwidth,
                       "latency": latency or quantity("0 s"), "latency_back": quantity("0 s"), **more}],
            "homes": ["gpu"]}
    (folder / f"{name}.yaml").write_text(json.dumps(data), encoding="utf-8")  # which is YAML
    return f"./{name}.yaml"


def pair(folder: Path) -> dict[str, Any]:
    """Two candidates: `wide` has the wider link and the longer latency."""
    machine(folder, "near", quantity("6 GB/s", "2 GB/s", "40 GB/s"))
    machine(folder, "wide", quantity("8 GB/s", "5 GB/s", "20 GB/s"), quantity("0.2 ms", "0.1 ms", "2 ms"))
    return {"near": {"machine": "./near.yaml"}, "wide": {"machine": "./wide.yaml"}}


def written(folder: Path, **more: Any) -> Path:
    """A study's file: the pair, or the candidates that are given instead."""
    data = {"run": RUN, "uncertainty": {"samples": 0}, **more}
    if "candidates" not in data:
        data["candidates"] = pair(folder)
    path = folder / "mine.yaml"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def studied(folder: Path, **more: Any) -> Decide:
    return load_decide(written(folder, **more))


def decided(folder: Path, workers: int = 2, **more: Any) -> Decision:
    """The decision of a study of this folder."""
    return decide(studied(folder, **more), folder / "out", Options(workers=workers))[0]


def seconds(bandwidth: float, latency: float = 0.0) -> float:
    """How long one copy takes: bytes a second, seconds."""
    return latency + EXPERT_BYTES / bandwidth
