"""What all benchmarks share: medians with their spread, commands timed in processes of their own, one table."""

import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MOELAB = (sys.executable, "-c", "from cluster.main import main; main()")
"""The command line of this checkout, whichever checkout the environment was installed from."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Spread:
    """A median of n measurements, with the least and the largest."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Of what was measured, at least once."""
        all_ = sorted(values)
        return cls(statistics.median(all_), all_[0], all_[-1], len(all_))

    def json(self) -> dict[str, float]:
        """With as many digits as a measurement has."""
        return {key: value if key == "n" else digits(value) for key, value in asdict(self).items()}


def digits(value: float, count: int = 4) -> float:
    """Rounded to so many significant digits."""
    return float(f"{value:.{count}g}")


@dataclass(frozen=True)
class Ended:
    """A command that ended: seconds to its result.json (or to its end, where it wrote none), code and last words."""

    seconds: float
    code: int
    said: str


def timed(command: Sequence[str], folder: Path, limit_s: float) -> Ended:
    """Carry out a command in a process of its own, from this checkout, and time it from the process's start.

    result.json appears whole, by a rename: the change of its entry is the instant at which it was there.
    """
    result = folder / "result.json"
    began, began_ns = time.perf_counter(), time.time_ns()
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit_s, check=False,
                              env={**os.environ, "HF_HUB_OFFLINE": "1"})
    except subprocess.TimeoutExpired:
        return Ended(limit_s, -1, f"not done after {limit_s:.0f} s")
    taken = time.perf_counter() - began
    if result.is_file():
        taken = (result.stat().st_ctime_ns - began_ns) / 1e9
    words = (done.stderr or done.stdout).strip().splitlines()
    return Ended(taken, done.returncode, words[-1].removeprefix("moelab: ") if words else "")


class Folder:
    """A folder for what a benchmark writes, gone when it is over."""

    def __enter__(self) -> Path:
        self._path = Path(tempfile.mkdtemp(prefix="moelab-bench-"))
        return self._path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path, ignore_errors=True)


def host() -> dict[str, Any]:
    """What it was measured on."""
    model = ""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text(errors="replace").splitlines()
                 if line.startswith("model name")]
        model = names[0] if names else ""
    return {"cpu": model or platform.processor(), "cores": len(os.sched_getaffinity(0)),
            "load_1min": round(os.getloadavg()[0], 2), "python": platform.python_version()}


def figure(bench: str, case: str, name: str, value: Spread | float, *, note: str = "") -> dict[str, Any]:
    """One line of the table: a figure with its spread, or a single number."""
    spread = value if isinstance(value, Spread) else Spread(value, value, value, 1)
    return {"bench": bench, "case": case, "figure": name, **spread.json(), "note": note}


def refused(bench: str, case: str, sentence: str) -> dict[str, Any]:
    """A line of the table for a case that gave no figure, with the reason."""
    return {"bench": bench, "case": case, "figure": "", "median": None, "low": None, "high": None, "n": 0,
            "note": sentence}
