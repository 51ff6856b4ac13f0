"""Points a second of a sweep on one worker and on two, and how near two come to twice as many.

    moelab bench sweep

Each sweep is a command of its own, timed from its start to its end: the workers' own start counts.
"""

import json
import subprocess
import time
from typing import Any

from benchmarks.harness import MOELAB, ROOT, Folder, Spread, figure, host

STUDY = "ndp_units"
WORKERS = (1, 2)
TARGET = 0.9


def swept(workers: int) -> tuple[float, int]:
    """Seconds of the study on so many workers, and its points."""
    with Folder() as folder:
        began = time.perf_counter()
        done = subprocess.run([*MOELAB, "sweep", STUDY, "--workers", str(workers), "--out", str(folder / "out"),
                               "--json"], cwd=ROOT, check=True, capture_output=True, text=True)
        taken = time.perf_counter() - began
        rows = (folder / "out" / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    json.loads(done.stdout)
    return taken, len(rows)


def bench_sweep(repeats: int = 3) -> dict[str, Any]:
    """One worker and two in turn; efficiency: one worker's time over twice that of two."""
    seconds: dict[int, list[float]] = {workers: [] for workers in WORKERS}
    points = 0
    for _ in range(repeats):
        for workers in WORKERS:
            taken, points = swept(workers)
            seconds[workers].append(taken)
    one, two = (seconds[workers] for workers in WORKERS)
    return {"bench": "sweep", "host": host(), "study": STUDY, "points": points, "target": TARGET,
            "points_per_s": {str(workers): Spread.of(points / s for s in seconds[workers]).json()
                             for workers in WORKERS},
            "efficiency": Spread.of(a / (2 * b) for a, b in zip(one, two, strict=True)).json()}


def rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The report as lines of the table."""
    lines = [figure("sweep", f"{workers} workers" if int(workers) > 1 else "1 worker", "points_per_s", Spread(**found))
             for workers, found in report["points_per_s"].items()]
    return [*lines, figure("sweep", "1 to 2 workers", "efficiency", Spread(**report["efficiency"]),
                           note=f"target {TARGET}")]
