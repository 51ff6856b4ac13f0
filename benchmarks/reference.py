"""Measures a reference: the offloading engine on this host's GPU, with random weights of a model's shape.

    python -m benchmarks.reference --out FOLDER [--shape olmoe-1b-7b ...] [--repeats 2] [--traces FOLDER]

Writes FOLDER/reference_SHAPE.json in the format that `moelab fidelity` reads, and the traces beside it. Traces of
other names than OLMoE's are generated: popular experts, sequences with favourites, forecasts that are right four times
of five.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from studies.offload.body import Shape
from studies.offload.measure import Routes, measure, random_experts, randomly
from studies.offload.near import CudaNear

LAYERS, CONTEXT = 6, 512
SHAPES = {name: Shape(name, LAYERS, *sizes, CONTEXT) for name, sizes in {
    "olmoe-1b-7b": (2048, 1024, 64, 8, 16, 16, 128), "qwen3-30b-a3b": (2048, 768, 128, 8, 32, 4, 128),
    "deepseek-v2-lite": (2048, 1408, 64, 6, 16, 16, 128), "phi-3.5-moe": (4096, 6400, 16, 2, 32, 8, 128),
    "mixtral-8x7b": (4096, 14336, 8, 2, 32, 8, 128)}.items()}
BATCHES = (1, 4, 16)


def trace(shape: Shape, batch: int, steps: int, seed: int) -> dict[str, np.ndarray]:
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
        wrong = rng.random(experts[step].shape) > 0.8
        guess = np.where(wrong, order[..., shape.top_k:2 * shape.top_k], experts[step])
        forecast[step] = guess
    flat = (steps * batch, shape.layers, shape.top_k)
    return {"experts": experts.reshape(flat), "forecast": forecast.reshape(flat),
            "step": np.repeat(np.arange(steps, dtype=np.int32), batch),
            "sequence": np.tile(np.arange(batch, dtype=np.int32), steps),
            "phase": np.ones(steps * batch, np.uint8)}


def rows_of(shape: Shape) -> list[tuple[str, int]]:
    """Policies and slots: a quarter and a half of the experts, as the first reference had them."""
    cached = [(policy, slots) for slots in (shape.experts // 4, shape.experts // 2)
              for policy in ("lru", "lru_prefetch", "cpu_static", "cpu_precalc")]
    return [("resident", shape.experts), ("on_demand", 2), *cached]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--traces", type=Path, help="a folder with trace_SHAPE_bN.npz, used instead of generated ones")
    parser.add_argument("--shape", action="append", choices=list(SHAPES))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    skip = arguments.steps // 5
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.matmul.allow_tf32 = False
    for name in arguments.shape or list(SHAPES):
        began = time.perf_counter()
        shape, near = SHAPES[name], CudaNear()
        make = randomly(7, near.device, torch.bfloat16)
        far = random_experts(shape, make, pinned=True)
        print(f"{name}: weights made in {time.perf_counter() - began:.0f} s", flush=True)
        rows = []
        for batch in BATCHES:
            file = f"trace_{name}_b{batch}.npz"
            if arguments.traces and (arguments.traces / file).exists():
                recorded = dict(np.load(arguments.traces / file))
            else:
                recorded = trace(shape, batch, arguments.steps, 7)
            np.savez_compressed(arguments.out / file, **recorded)
            experts, forecast = (recorded[key].astype(np.int64) for key in ("experts", "forecast"))
            routes = Routes.of(experts, forecast, recorded["step"], shape.experts, near.device)
            for policy, slots in rows_of(shape):
                runs = [measure(policy, slots, shape, near, make, far, routes, skip) for _ in range(arguments.repeats)]
                took = [run.step_s for run in runs]
                steady = max(took) <= 1.1 * min(took)
                rows.append({"policy": policy, "batch": batch, "slots": slots, "trace": file, "skip_steps": skip,
                             "measured_step_s": statistics.median(took), "repeats_s": took, "steady": steady,
                             **{key: getattr(runs[0], key) for key in (
                                 "copied_bytes", "hits", "misses", "cpu_experts", "substituted")}})
                print(f"{name:17} {policy:13} batch {batch:2} slots {slots:3}: {rows[-1]['measured_step_s'] * 1e3:8.3f} ms "
                      f"{[round(each * 1e3, 2) for each in took]}", flush=True)
        head = {key: getattr(shape, key) for key in Shape.__dataclass_fields__}
        host = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
        (arguments.out / f"reference_{name}.json").write_text(json.dumps(
            {**head, "dtype": "bf16", "host": "h200-host", "measured_on": host,
             "initial_residency": "most frequent experts of each layer over the whole trace", "rows": rows}, indent=1))
        del far
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
