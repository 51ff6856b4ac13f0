"""How the time of a replay grows with units, tokens a step, experts and layers.

    moelab bench growth

One size is varied at a time, the others stand at BASE. Timed are the replay (policy, lowering and engine, step by
step) and the whole run around it, from its config to its result. A line is fitted through the logarithms; so that a
constant part does not hide what grows, also through the larger half of the sizes.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time
from typing import Any

from benchmarks.harness import ROOT, Folder, Spread, figure, host

FAMILY = ROOT / "benchmarks" / "family.yaml"
LIMIT = 1.1
CONFIDENCE = 0.95
STEPS = 4


@dataclass(frozen=True)
class Size:
    """What is replayed: STEPS steps of so many tokens, in a model of so many MoE layers and experts."""

    units: int = 16
    tokens: int = 64
    experts: int = 64
    layers: int = 8


BASE = Size()
AXES: dict[str, tuple[int, ...]] = {
    "units": (4, 16, 64, 128, 256, 512, 1024),
    "tokens": (1, 4, 16, 64, 256, 1024, 4096),
    "experts": (8, 16, 32, 64, 128, 256, 512),
    "layers": (4, 8, 16, 24, 32, 48, 96),
}


@dataclass(frozen=True)
class Slope:
    """A fitted exponent with its confidence interval."""

    slope: float
    low: float
    high: float

    def json(self) -> dict[str, float]:
        return {"slope": round(self.slope, 3), "low": round(self.low, 3), "high": round(self.high, 3)}


def fit(x: Sequence[float], y: Sequence[float], confidence: float = CONFIDENCE) -> Slope:
    """The exponent p of y ~ x**p by least squares over the logarithms, with the interval of Student's t."""
    from scipy import stats

    found = stats.linregress([math.log(v) for v in x], [math.log(v) for v in y])
    half = float(stats.t.ppf((1 + confidence) / 2, len(x) - 2)) * float(found.stderr)
    return Slope(float(found.slope), float(found.slope) - half, float(found.slope) + half)


def shape(size: Size) -> dict[str, Any]:
    """A config.json: Qwen3-30B-A3B's layer, with two experts a token so that even 8 experts leave a choice."""
    like = json.loads((ROOT / "configs" / "model" / "qwen3-30b-a3b.json").read_text(encoding="utf-8"))
    return {**like, "num_experts": size.experts, "num_experts_per_tok": 2, "num_hidden_layers": size.layers}


def settings(size: Size, model: Path) -> list[str]:
    """A run of this size, as overrides of the replay benchmark's."""
    workload = (f"workload={{work: synthetic, generator: balanced, batch: {size.tokens}, prompt_tokens: 1, "
                f"output_tokens: {STEPS}}}")
    return [f"machine={{name: {FAMILY}, options: {{units: {size.units}}}}}", f"model={{config: {model}}}",
            "policy=expert_parallel", workload]


def measure(size: Size, folder: Path) -> tuple[float, float, int]:
    """CPU seconds of the replay and of the whole run, over all its threads, and its operations."""
    from cluster import session
    from cluster.config.reading import load_run
    from cluster.run import run

    model = folder / "growth.json"
    model.write_text(json.dumps(shape(size)), encoding="utf-8")
    spent = [0.0]
    whole = {name: getattr(session.Session, name) for name in ("replay", "replay_columns")}

    def timed(name: str) -> Callable[..., None]:
        def replay(self: session.Session, *given: Any, **named: Any) -> None:
            began = process_time()
            whole[name](self, *given, **named)
            spent[0] += process_time() - began
        return replay

    for name in whole:
        setattr(session.Session, name, timed(name))
    try:
        began = process_time()
        result = run(load_run(str(ROOT / "benchmarks" / "replay.yaml"), settings(size, model)))
        return spent[0], process_time() - began, result.host.operations
    finally:
        for name, method in whole.items():
            setattr(session.Session, name, method)


def slopes(values: Sequence[int], seconds: Sequence[float]) -> dict[str, Any]:
    """The exponent over all sizes and over the larger half; `over` where either is above the limit.

    Three sizes are the fewest that give an interval.
    """
    half = min(len(values) // 2, len(values) - 3)
    whole, larger = fit(values, seconds), fit(values[half:], seconds[half:])
    return {"all": {**whole.json(), "n": len(values)}, "larger_half": {**larger.json(), "n": len(values) - half},
            "over": max(whole.slope, larger.slope) > LIMIT}


def bench_growth(repeats: int = 3, axes: Sequence[str] = tuple(AXES),
                 heard: Callable[[int, int, str], None] | None = None,
                 sizes: dict[str, tuple[int, ...]] | None = None) -> dict[str, Any]:
    """Medians at every size of every axis, and the exponents."""
    sizes = sizes or AXES
    total, done = sum(len(sizes[axis]) for axis in axes), 0
    told = []
    with Folder() as folder:
        measure(BASE, folder)  # what a process pays once
        for axis in axes:
            points: list[dict[str, Any]] = []
            for value in sizes[axis]:
                if heard is not None:
                    heard(done, total, f"{axis} {value}")
                rounds = [measure(replace(BASE, **{axis: value}), folder) for _ in range(repeats)]
                points.append({"value": value, "operations": rounds[0][2],
                               "replay_s": Spread.of(r[0] for r in rounds).json(),
                               "run_s": Spread.of(r[1] for r in rounds).json()})
                done += 1
            of = {name: [point[name]["median"] for point in points] for name in ("replay_s", "run_s")}
            told.append({"axis": axis, "points": points,
                         "slopes": {name: slopes(sizes[axis], seconds) for name, seconds in of.items()}})
    return {"bench": "growth", "host": host(), "base": vars(BASE), "steps": STEPS, "limit": LIMIT,
            "confidence": CONFIDENCE, "axes": told}


def rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The report as lines of the table: exponents, with their confidence intervals as spread."""
    lines = []
    for axis in report["axes"]:
        for name, found in axis["slopes"].items():
            for part in ("all", "larger_half"):
                slope = found[part]
                note = "over the limit" if slope["slope"] > LIMIT else f"limit {LIMIT}"
                spread = Spread(slope["slope"], slope["low"], slope["high"], slope["n"])
                lines.append(figure("growth", f"{axis['axis']}, {part.replace('_', ' ')}",
                                    f"{name.removesuffix('_s')} exponent", spread, note=note))
    return lines
