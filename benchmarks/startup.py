"""How long a run takes from nothing: on each transport, and beside Ray's own floor in the same run.

    python benchmarks/startup.py [REPEATS]

The floor is a Ray cluster's start, as many actors that only import torch as the run has, and its shutdown.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

MOELAB = [sys.executable, "-c", "from cluster.main import main; main()"]
FLOOR = "from cluster.transports.ray import floor; import json; print(json.dumps(floor({actors})))"
ACTORS = 6
"""Of the demo: a scheduler and five devices."""


def run_s(transport: str) -> float:
    """The demo's first policy, from the start of its process to its end."""
    folder = tempfile.mkdtemp()
    begin = time.perf_counter()
    subprocess.run([*MOELAB, "run", "demo", "--transport", transport, "--set", "against=[]", "--out",
                    str(Path(folder) / "out")], check=True, capture_output=True)
    taken = time.perf_counter() - begin
    shutil.rmtree(folder)
    return taken


def floor_s() -> float:
    """Ray's own part, in a process of its own."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", FLOOR.format(actors=ACTORS)], check=True, capture_output=True)
    return time.perf_counter() - begin


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    taken: dict[str, list[float]] = {"local": [], "processes": [], "ray_floor": [], "ray": []}
    for _ in range(repeats):
        for transport in ("local", "processes"):
            taken[transport].append(run_s(transport))
        taken["ray_floor"].append(floor_s())
        taken["ray"].append(run_s("ray"))
    rows = {name: {"median_s": round(median(values), 2), "all_s": [round(v, 2) for v in values]}
            for name, values in taken.items()}
    over = [ray - floor for ray, floor in zip(taken["ray"], taken["ray_floor"], strict=True)]
    print(json.dumps({**rows, "ray_over_floor_s": [round(v, 2) for v in over]}, indent=1))


if __name__ == "__main__":
    main()
