"""Reference files: cases measured in rounds, written as `moelab fidelity` reads them."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.observe.files import write_whole
from studies.offload.body import Shape
from studies.offload.measure import Row

STEADY = 1.1
"""Repeats of a row within this ratio agree; the highest and the lowest are left out where there are four."""
COUNTS = ("copied_bytes", "hits", "misses", "cpu_experts", "substituted")


@dataclass(frozen=True)
class Case:
    """One row that is measured: a policy, a batch with its trace, and slots."""

    policy: str
    batch: int
    slots: int
    trace: str


@dataclass
class Rows:
    """What was measured of each case, round by round."""

    skip_steps: int
    seen: dict[Case, list[Row]] = field(default_factory=dict)

    def add(self, case: Case, row: Row) -> None:
        """One more round of a case."""
        self.seen.setdefault(case, []).append(row)

    def rows(self) -> list[dict[str, Any]]:
        """Rows of a reference: the median over the rounds, and each of them."""
        return [self._row(case, rounds) for case, rounds in self.seen.items()]

    def _row(self, case: Case, rounds: list[Row]) -> dict[str, Any]:
        took = [row.step_s for row in rounds]
        kept = sorted(took)[1:-1] if len(took) >= 4 else took
        return {**asdict(case), "skip_steps": self.skip_steps, "measured_step_s": statistics.median(took),
                "repeats_s": took, "steady": max(kept) <= STEADY * min(kept),
                **{name: getattr(rounds[0], name) for name in COUNTS}}


def cases_of(shape: Shape, batches: Mapping[int, str]) -> list[Case]:
    """Six policies by batch: all resident, two staging slots, and caches of a quarter and of half the experts."""
    cached = ("lru", "lru_prefetch", "cpu_static", "cpu_precalc")
    quarters = (max(1, shape.experts // 4), max(1, shape.experts // 2))
    return [Case(policy, batch, slots, trace) for batch, trace in batches.items() for policy, slots in (
        ("resident", shape.experts), ("on_demand", 2), *((name, slots) for slots in quarters for name in cached))]


def write_reference(folder: Path, name: str, shape: Shape, dtype: str, host: str, rows: Sequence[Mapping[str, Any]],
                    traces: Mapping[str, Mapping[str, NDArray[Any]]], measured_on: Mapping[str, Any]) -> Path:
    """Write reference_NAME.json and the traces that it names; nothing is half written."""
    head = {**asdict(shape), "dtype": dtype, "host": host, "measured_on": dict(measured_on),
            "initial_residency": "most frequent experts of each layer over the whole trace"}
    text = json.dumps({**head, "rows": list(rows)}, indent=1).encode()
    files: dict[str, Any] = {trace: (lambda file, columns=columns: np.savez_compressed(file, **columns))
                             for trace, columns in traces.items()}
    write_whole(folder, {**files, f"reference_{name}.json": lambda file: file.write(text)})
    return folder / f"reference_{name}.json"
