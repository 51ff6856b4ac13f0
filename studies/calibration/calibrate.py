"""`moelab calibrate`: measure this machine, fit, and write a hardware file beside its report."""

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch

from emulation.errors import ConfigError
from studies.calibration.hardware import Host, cpu_file, cuda_file
from studies.calibration.measure import Measured, element_bytes, engines, fetches, kernels, small
from studies.offload.body import Shape
from studies.offload.measure import random_experts, randomly
from studies.offload.near import CudaNear, Near, PacedNear

Progress = Callable[[int, int, str], None]
LAYERS = 4
PACED_BYTES_PER_S = 1e9
"""How fast a CPU's far memory is made where nothing else is asked: about a PCIe 3 lane."""


@dataclass(frozen=True)
class Effort:
    """How much is measured: steps of each engine, repeats of each copy and kernel."""

    steps: int
    repeats: int


FULL, QUICK = Effort(24, 16), Effort(10, 6)

CPU_SHAPES = tuple(Shape(f"d{d}", LAYERS, d, ff, 12, 2, d // 64, max(1, d // 128), 64, 128)
                   for d, ff in ((256, 96), (256, 256), (384, 256), (512, 384)))
"""Experts of 0.3 to 2.4 MB in fp32: small enough for two cores; all of one model's, beyond most caches."""

CUDA_SHAPES = tuple(Shape(f"d{d}ff{ff}", LAYERS, d, ff, experts, 2, d // 128, d // 512, 128, 512)
                    for d, ff, experts in ((2048, 768, 32), (2048, 1408, 24), (4096, 6400, 8), (4096, 14336, 6)))
CUDA_TOKENS = (1, 4, 16, 64, 256, 1024, 2048)
BATCHES = (1, 4, 8)


def threads_of(device: str) -> int:
    """Threads that torch uses: the main thread computes near, a worker far; on a GPU's host the worker has all."""
    return 1 if device == "cpu" else os.cpu_count() or 1


def chosen_device(asked: str) -> str:
    """cuda or cpu; auto: the GPU where there is one that torch can use."""
    return asked if asked != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def make_near(device: str, bytes_per_s: float) -> Near:
    """The near memory of a device; refuses CUDA where there is none."""
    if device == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError("this machine has no CUDA device that torch can use: --device cpu measures its CPU")
        return CudaNear()
    return PacedNear(bytes_per_s)


def dtype_of(device: str) -> torch.dtype:
    """bf16 on a GPU; fp32 on a CPU, as `execute` computes there."""
    return torch.bfloat16 if device == "cuda" else torch.float32


def measure(device: str, effort: Effort, progress: Progress, bytes_per_s: float = PACED_BYTES_PER_S,
            seed: int = 7) -> Measured:
    """All that a hardware file needs, measured now; `progress` is called between its parts."""
    near, dtype, measured = make_near(device, bytes_per_s), dtype_of(device), Measured()
    torch.set_num_threads(threads_of(device))
    make = randomly(seed, near.device, dtype)
    each, shapes = element_bytes(dtype), CUDA_SHAPES if device == "cuda" else CPU_SHAPES
    stages = len(shapes) * len(BATCHES) + 3
    try:
        done = 0
        for shape in shapes:
            far = random_experts(shape, make, pinned=device == "cuda")
            for batch in BATCHES:
                size = shape.expert_elements * each / 1e6
                progress(done, stages, f"engines: experts of {size:.1f} MB, batch {batch}")
                engines(measured, shape, near, make, far, batch, effort.steps, dtype, seed)
                done += 1
        if device == "cuda":
            progress(done, stages, "copies")
            fetches(measured, near, [1 << n for n in range(16, 28, 2)], dtype, effort.repeats)
            progress(done + 1, stages, "kernels")
            kernels(measured, CUDA_SHAPES, CUDA_TOKENS, make, dtype, effort.repeats)
            for batch in (4, 16):
                small(measured, CUDA_SHAPES[0], make, batch, effort.repeats)
        progress(stages, stages, "done")
    finally:
        near.close()
    return measured


def merged(rounds: list[Measured]) -> Measured:
    """Rows of several rounds together."""
    out = Measured(overlaps=[share for each in rounds for share in each.overlaps],
                   samples=sum(each.samples for each in rounds))
    for each in rounds:
        for what, column in each.columns.items():
            into = out.column(what)
            into.bytes_ += column.bytes_
            into.flops += column.flops
            into.seconds += column.seconds
    return out


def describe_host(device: str, name: str) -> Host:
    """This machine, as the file names it."""
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    far = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if device == "cuda":
        gpu = torch.cuda.get_device_properties(0)
        title = f"{gpu.name} with {cores} CPU cores, eager PyTorch {torch.__version__}, measured"
        return Host(name, title, "bf16", date, int(gpu.total_memory), far)
    title = f"{platform.machine()} CPU with {cores} cores, eager PyTorch {torch.__version__}, paced copies, measured"
    return Host(name, title, "fp32", date, far // 2, far // 2)


def hardware(measured: Measured, device: str, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The hardware file as a mapping, and the report of its fits."""
    host = describe_host(device, name)
    return (cuda_file if device == "cuda" else cpu_file)(measured, host)


