"""How long a run takes from nothing: on each transport, beside Ray's own floor, and to the first timed operation.

    moelab bench startup

The floor is a Ray cluster's start, as many actors that only import torch as the run has, and its shutdown. A replay
needs neither torch nor Ray: what it takes until its engine is given its first operations is a figure of its own.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.harness import MOELAB, ROOT, Folder, Spread, figure, host

FLOOR = "from cluster.transports.ray.floor import floor; floor({actors})"
FIRST = """
import os, sys, time
from actors.scheduler import Scheduler
def first(self):
    print(time.clock_gettime(time.CLOCK_MONOTONIC), flush=True)
    os._exit(0)
Scheduler._submit = first
from cluster.main import main
main()
"""
"""A replay that stops where the engine would get its first operations, and says when that was."""
ACTORS = 6
"""Of the demo: a scheduler and five devices."""
TRANSPORTS = ("local", "processes", "ray")
TARGETS = {"local": 5.0, "ray": 15.0, "first_operation": 1.0}


def seconds(command: Sequence[str]) -> float:
    """Of a command in a process of its own, from its start to its end."""
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - began


def run_s(transport: str) -> float:
    """The demo's first policy."""
    with Folder() as folder:
        return seconds([*MOELAB, "run", "demo", "--transport", transport, "--set", "against=[]", "--out",
                        str(folder / "out")])


def first_operation_s() -> float:
    """From process start to the first operation of the replay benchmark's run."""
    with Folder() as folder:
        began = time.clock_gettime(time.CLOCK_MONOTONIC)
        said = subprocess.run([sys.executable, "-c", FIRST, "run", str(ROOT / "benchmarks" / "replay.yaml"), "--out",
                               str(folder / "out")], cwd=ROOT, check=True, capture_output=True, text=True)
    return float(said.stdout.split()[-1]) - began


def floor_s() -> float:
    """Ray's own part."""
    return seconds([sys.executable, "-c", FLOOR.format(actors=ACTORS)])


def bench_startup(repeats: int = 3, transports: Sequence[str] = TRANSPORTS) -> dict[str, Any]:
    """Seconds by case, in turn."""
    taken: dict[str, list[float]] = {}
    for _ in range(repeats):
        taken.setdefault("first_operation", []).append(first_operation_s())
        for transport in transports:
            if transport == "ray":
                taken.setdefault("ray_floor", []).append(floor_s())
            taken.setdefault(transport, []).append(run_s(transport))
    cases = {name: Spread.of(values).json() for name, values in taken.items()}
    if "ray" in taken:
        cases["ray_over_floor"] = Spread.of(
            ray - floor for ray, floor in zip(taken["ray"], taken["ray_floor"], strict=True)).json()
    return {"bench": "startup", "host": host(), "targets_s": TARGETS, "seconds": cases}


def rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The report as lines of the table."""
    return [figure("startup", name.replace("_", " "), "seconds", Spread(**found),
                   note=f"target {TARGETS[name]:g}" if name in TARGETS else "")
            for name, found in report["seconds"].items()]

