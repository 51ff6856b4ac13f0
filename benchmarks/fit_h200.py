"""Fits `overhead + max(bytes/bandwidth, flops/peak)` to the measured tables of one H200 host (`studies.fitting`).

    python -m benchmarks.fit_h200 FOLDER      where h200-host.json and h200-host-ops.json lie

Prints the constants that configs/hardware/h200-host.yaml carries, with their residuals. Copies are
overhead + bytes/bandwidth; a queued FFN takes the longer of its kernel and what issuing it costs the host.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from studies.fitting import Fit, fit_line, fit_roofline

SHAPES = {"mixtral-8x7b": (4096, 14336), "phi-3.5-moe": (4096, 6400), "deepseek-v2-lite": (2048, 1408),
          "qwen3-30b-a3b": (2048, 768), "olmoe-1b-7b": (2048, 1024)}
BF16_BYTES = 2
QUEUED = 8


def work(model: str, tokens: int) -> tuple[float, float]:
    """Bytes and flops of one gated expert over some tokens, as emulation.model counts them."""
    d, f = SHAPES[model]
    return BF16_BYTES * (3 * d * f + tokens * (2 * d + 2 * f)), 6.0 * tokens * d * f


def show(name: str, units: str, fit: Fit) -> None:
    """One line: the parameters, and for one that the rows do not tell how far it may go."""
    found = {key: getattr(fit, key) for key in fit.identified if fit.limits.get(key) != 0.0}
    words = [f"{value:.4g}" if value is not None
             else f"{'at most' if key == 'overhead_s' else 'at least'} {fit.limits[key]:.4g}"
             for key, value in found.items()]
    words += [] if fit.floor_s is None else [f"{fit.floor_s:.4g}"]
    worst = fit.residuals[np.abs(fit.residuals).argmax()]
    print(f"{name} ({units}): {', '.join(words)}; median |error| {fit.p50:.1%}, worst {worst:+.0%}, {fit.n} rows")


def copies(host: dict[str, Any], key: str) -> None:
    rows = [(int(size), row["median"]) for size, row in host[key].items()]
    size, measured = (np.array(column, float) for column in zip(*rows, strict=True))
    show(key, "overhead s, B/s", fit_line(size, measured))


def queued(host: dict[str, Any]) -> None:
    """Sixteen copies one after another, as an engine loads experts: bytes a second by size."""
    rates = [(int(size), 16 * int(size) / row["median"]) for size, row in host["h2d_queued16"].items()]
    print(f"h2d queued (B/s by size): {', '.join(f'{rate:.4g}' for _, rate in rates)}; sizes "
          f"{', '.join(str(size) for size, _ in rates)}")


def gpu(host: dict[str, Any], ops: dict[str, Any]) -> None:
    rows = [(*work(model, int(tokens)), row["median"] / QUEUED)
            for model, table in host["gpu_ffn_queued"].items() for tokens, row in table.items()]
    bytes_, flops, measured = (np.array(column) for column in zip(*rows, strict=True))
    show("gpu expert", "overhead s, B/s, FLOP/s; issue s in this table",
         fit_roofline(bytes_, flops, measured, floor="fitted"))
    issue = [row["host_each"] for key, row in ops.items() if key.startswith("ffn|")]
    print(f"gpu expert issue: median host_each {np.median(issue):.4g} s, {len(issue)} rows")


def cpu(host: dict[str, Any], ops: dict[str, Any]) -> None:
    prefix = "cpu ffn, uncached, worker thread|"
    rows = [(*work(key.split("|")[1], int(key.split("|t")[1])), row["single"])
            for key, row in ops.items() if key.startswith(prefix)]
    rows += [(*work(model, 64), host["cpu_ffn"][model]["64"]["median"]) for model in SHAPES]
    bytes_, flops, measured = (np.array(column) for column in zip(*rows, strict=True))
    show("cpu expert", "overhead s, B/s, FLOP/s", fit_roofline(bytes_, flops, measured))


def issues(ops: dict[str, Any]) -> None:
    for prefix in ("attention ctx512|", "router softmax topk cpu|", "rms_norm|", "index_select|", "index_add_|",
                   "add_|", "x.to(cpu)|", "event record", "wait_event", "copy issue", "cpu index_select|",
                   "cpu index_add_|"):
        rows = [row["host_each"] for key, row in ops.items() if key.startswith(prefix)]
        print(f"{prefix} host_each: median {np.median(rows):.4g}, {min(rows):.3g}..{max(rows):.3g} s, {len(rows)} rows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    host = json.loads((folder / "h200-host.json").read_text())
    ops = json.loads((folder / "h200-host-ops.json").read_text())
    ops = ops.get("ops", ops)
    for key in ("h2d", "d2h", "d2d"):
        copies(host, key)
    queued(host)
    gpu(host, ops)
    cpu(host, ops)
    issues(ops)


if __name__ == "__main__":
    main()
