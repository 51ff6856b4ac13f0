"""`moelab fidelity --host`: calibrate this machine, emulate it, measure a real engine on it, and tell the error."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cluster.observe.files import write_texts
from studies.calibration.calibrate import (
    PACED_BYTES_PER_S,
    Effort,
    dtype_of,
    hardware,
    make_near,
    measure,
    merged,
    threads_of,
)
from studies.calibration.hardware import as_yaml
from studies.calibration.measure import PRECISIONS, Measured
from studies.offload import embedded
from studies.offload.measure import Routes
from studies.offload.measure import measure as measure_row
from studies.offload.reference import Case, Rows, cases_of, write_reference

Progress = Callable[[int, int, str], None]
SKIP, DOMAIN, USUAL = 8, "code", Effort(16, 8)


@dataclass(frozen=True)
class Plan:
    """How much is measured: rounds of calibration and rows side by side, steps of each row, batches."""

    rounds: int = 3
    steps: int = 40
    batches: tuple[int, ...] = (1, 4, 8)
    effort: Effort = USUAL


def measure_host(folder: Path, device: str, plan: Plan, progress: Progress,
                 bytes_per_s: float = PACED_BYTES_PER_S) -> tuple[Path, Path, dict[str, Any]]:
    """Calibrate and measure in turns. Returns the reference file, the hardware file and the report of its fits.

    The embedded model's own weights and recorded routing run through the engine. A machine drifts: so cases are
    measured between the parts of each calibration, and both sides are judged by their medians over the rounds.
    """
    shape, dtype = embedded.shape(), dtype_of(device)
    near = make_near(device, bytes_per_s)
    torch.set_num_threads(threads_of(device))
    make, far = embedded.maker(dtype, near.device, 7), embedded.experts(dtype, pinned=device == "cuda")
    traces = {f"trace_host_b{batch}.npz": embedded.decode(DOMAIN, batch, plan.steps) for batch in plan.batches}
    routes = {name: Routes.of(trace["experts"], trace["forecast"], trace["step"], shape.experts, near.device)
              for name, trace in traces.items()}
    cases = cases_of(shape, dict(zip(plan.batches, traces, strict=True)))
    rows, samples = Rows(SKIP, {case: [] for case in cases}), list[Measured]()
    waiting: list[Case] = []
    total = plan.rounds * len(cases)

    def some(done: int, parts: int, _: str) -> None:
        """Measure as many cases as keep step with the calibration."""
        while waiting and len(waiting) > len(cases) * (1 - (done + 1) / parts):
            case = waiting.pop()
            progress(len(samples) * len(cases) + len(cases) - len(waiting) - 1, total,
                     f"calibrating; measuring {case.policy}, batch {case.batch}")
            rows.add(case, measure_row(case.policy, case.slots, shape, near, make, far, routes[case.trace], SKIP))

    try:
        for number in range(plan.rounds):
            waiting[:] = cases[number % len(cases):] + cases[:number % len(cases)]
            samples.append(measure(device, plan.effort, some, bytes_per_s))
    finally:
        near.close()
    file, report = hardware(merged(samples), device, "host")
    write_texts(folder, {"host.yaml": as_yaml(file), "host.fit.json": json.dumps(report, indent=1)})
    path = write_reference(folder, "host", shape, PRECISIONS[dtype_of(device)], "host.yaml", rows.rows(),
                           traces, {"title": file["title"]})
    return path, folder / "host.yaml", report
