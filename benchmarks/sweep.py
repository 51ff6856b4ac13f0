"""Points a second of a sweep on one worker and on two, and how near two come to twice as many.

    moelab bench sweep

Each sweep is a command of its own, timed from its start to its end: the workers' own start counts.
"""

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import MOELAB, ROOT, Folder, Spread, figure, host

FEW, MANY = "ndp_units", str(ROOT / "benchmarks" / "sweep.yaml")
"""Studies of 20 and of 200 short points: of the first, a third of the time is the start."""
WORKERS = (1, 2)
TARGET = 0.9


def swept(study: str, workers: int) -> tuple[float, int]:
    """Seconds of the study on so many workers, and its points."""
    with Folder() as folder:
        began = time.perf_counter()
        done = subprocess.run([*MOELAB, "sweep", study, "--workers", str(workers), "--out", str(folder / "out"),
                               "--json"], cwd=ROOT, check=True, capture_output=True, text=True)
        taken = time.perf_counter() - began
        rows = (folder / "out" / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    json.loads(done.stdout)
    return taken, len(rows)


def compared(study: str, repeats: int) -> dict[str, Any]:
    """One worker and two in turn; efficiency: one worker's time over twice that of two."""
    seconds: dict[int, list[float]] = {workers: [] for workers in WORKERS}
    points = 0
    for _ in range(repeats):
        for workers in WORKERS:
            taken, points = swept(study, workers)
            seconds[workers].append(taken)
    one, two = (seconds[workers] for workers in WORKERS)
    return {"study": Path(study).stem, "points": points,
            "points_per_s": {str(workers): Spread.of(points / s for s in seconds[workers]).json()
                             for workers in WORKERS},
            "efficiency": Spread.of(a / (2 * b) for a, b in zip(one, two, strict=True)).json()}


def bench_sweep(repeats: int = 3, studies: Sequence[str] = (FEW, MANY)) -> dict[str, Any]:
    """Each study; `efficiency` is that of the last."""
    found = [compared(study, repeats) for study in studies]
    return {"bench": "sweep", "host": host(), "target": TARGET, "studies": found,
            "efficiency": found[-1]["efficiency"]}


def rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The report as lines of the table."""
    lines = []
    for study in report["studies"]:
        case = f"{study['points']} points"
        lines += [figure("sweep", f"{case}, {workers} workers" if int(workers) > 1 else f"{case}, 1 worker",
                         "points_per_s", Spread(**found)) for workers, found in study["points_per_s"].items()]
        lines.append(figure("sweep", f"{case}, 1 to 2 workers", "efficiency", Spread(**study["efficiency"]),
                            note=f"target {TARGET}, for hundreds of points"))
    return lines
