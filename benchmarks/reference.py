"""Measures a reference: the offloading engine on this host's GPU, with random weights of a model's shape.

    python -m benchmarks.reference --out FOLDER [--shape olmoe-1b-7b ...] [--repeats 2] [--steps 40] [--traces FOLDER]

Writes FOLDER/reference_SHAPE.json in the format that `moelab fidelity` reads, and the traces beside it. Traces that
FOLDER does not hold are generated: popular experts, sequences with favourites, forecasts that are right four times of
five.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from studies.offload.body import Shape
from studies.offload.measure import Routes, measure, random_experts, randomly
from studies.offload.near import CudaNear
from studies.offload.reference import Rows, cases_of, write_reference

LAYERS, CONTEXT, SEED = 6, 512, 7
SHAPES = {name: Shape(name, LAYERS, *sizes, CONTEXT) for name, sizes in {
    "olmoe-1b-7b": (2048, 1024, 64, 8, 16, 16, 128), "qwen3-30b-a3b": (2048, 768, 128, 8, 32, 4, 128),
    "deepseek-v2-lite": (2048, 1408, 64, 6, 16, 16, 128), "phi-3.5-moe": (4096, 6400, 16, 2, 32, 8, 128),
    "mixtral-8x7b": (4096, 14336, 8, 2, 32, 8, 128)}.items()}
BATCHES = (1, 4, 16)
RIGHT = 0.8


def trace(shape: Shape, batch: int, steps: int, seed: int) -> dict[str, NDArray[Any]]:
    """A generated trace [batch * steps tokens], steps of one token a sequence."""
    rng = np.random.default_rng([seed, batch])
    base = rng.gumbel(size=(shape.layers, shape.experts)) * 0.5
    favourite = rng.gumbel(size=(batch, shape.layers, shape.experts)) * 0.5
    experts = np.empty((steps, batch, shape.layers, shape.top_k), np.uint16)
    forecast = np.empty_like(experts)
    for step in range(steps):
        score = base + favourite + rng.gumbel(size=favourite.shape) * 0.7
        order = np.argsort(-score, axis=-1, kind="stable")
        experts[step] = order[..., :shape.top_k]
        wrong = rng.random(experts[step].shape) > RIGHT
        forecast[step] = np.where(wrong, order[..., shape.top_k:2 * shape.top_k], experts[step])
    flat = (steps * batch, shape.layers, shape.top_k)
    return {"experts": experts.reshape(flat), "forecast": forecast.reshape(flat),
            "step": np.repeat(np.arange(steps, dtype=np.int32), batch),
            "sequence": np.tile(np.arange(batch, dtype=np.int32), steps),
            "phase": np.ones(steps * batch, np.uint8)}


def reference(shape: Shape, repeats: int, steps: int, given: Path | None, out: Path) -> None:
    """All rows of one shape."""
    began, near = time.perf_counter(), CudaNear()
    make = randomly(SEED, near.device, torch.bfloat16)
    far = random_experts(shape, make, pinned=True)
    print(f"{shape.model}: weights made in {time.perf_counter() - began:.0f} s", flush=True)
    traces, names = {}, {batch: f"trace_{shape.model}_b{batch}.npz" for batch in BATCHES}
    for batch, name in names.items():
        path = given / name if given else None
        traces[name] = dict(np.load(path)) if path and path.exists() else trace(shape, batch, steps, SEED)
    skip = steps // 5
    rows, routes = Rows(skip), {}
    for name, recorded in traces.items():
        routes[name] = Routes.of(recorded["experts"].astype(np.int64), recorded["forecast"].astype(np.int64),
                                 recorded["step"], shape.experts, near.device)
    for number in range(repeats):  # round by round: a host drifts, and a row should not hang on one moment
        for case in cases_of(shape, names):
            row = measure(case.policy, case.slots, shape, near, make, far, routes[case.trace], skip)
            rows.add(case, row)
            print(f"{shape.model:17} round {number} {case.policy:13} batch {case.batch:2} slots {case.slots:3}: "
                  f"{row.step_s * 1e3:8.3f} ms", flush=True)
    measured_on = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    write_reference(out, shape.model, shape, "bf16", "h200-host", rows.rows(), traces, measured_on)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--traces", type=Path, help="a folder with trace_SHAPE_bN.npz, used instead of generated ones")
    parser.add_argument("--shape", action="append", choices=list(SHAPES))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    for name in arguments.shape or list(SHAPES):
        reference(SHAPES[name], arguments.repeats, arguments.steps, arguments.traces, arguments.out)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
