"""Compile every kernel, so that its machine code lies beside its sources: the last step of an image's build."""

import importlib
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Import each module of kernels: they compile when they are imported, and numba keeps what came out."""
    start = time.perf_counter()
    files = sorted(file for package in ("emulation", "cluster") for file in (ROOT / package).rglob("compiled*.py"))
    for file in files:
        importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    kept = sorted(ROOT.rglob("*.nbi"))
    if not kept:
        raise SystemExit(f"warm.py: numba kept nothing beside the {len(files)} modules of kernels")
    print(f"compiled {len(kept)} kernels in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
