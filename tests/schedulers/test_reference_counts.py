"""The six policies of the reference engine, on its own traces: the same counts, in every recorded row."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emulation.model import Layer, Model, Work
from emulation.units import seconds
from emulation.view import Routing, Step
from schedulers.registry import load_policy
from tests.schedulers.rig import Steps, drive, eager_host, fast_engine, scheduler

LAYERS, EXPERTS, D_MODEL, D_FF, CONTEXT = 6, 64, 2048, 1024, 512
FAST = (("lru_prefetch", 1, 16), ("cpu_precalc", 1, 16), ("on_demand", 1, 2))
ROWS = [(policy, batch, slots) for batch in (1, 4, 16)
        for policy, slots in (("resident", 64), ("on_demand", 2), *((name, slots) for slots in (16, 32) for name in
                              ("lru", "lru_prefetch", "cpu_static", "cpu_precalc")))]


def olmoe() -> Model:
    attention = Work(4 * D_MODEL * D_MODEL * 2, 0, 2 * 4 * D_MODEL * D_MODEL)
    router = Work(D_MODEL * EXPERTS * 2, 0, 2 * D_MODEL * EXPERTS)
    layer = Layer(attention, 2 * D_MODEL * 2, 4 * D_MODEL, router)
    return Model("olmoe", (layer,) * LAYERS, EXPERTS, 8, D_MODEL, D_FF, 3, Fraction(2), Fraction(2))


def replay(trace: dict[str, Any]) -> Steps:
    experts, forecast = trace["experts"].astype(np.int64), trace["forecast"].astype(np.int64)
    weights = np.full((1, 8), 1 / 8)
    for number in np.unique(trace["step"]).tolist():
        rows = trace["step"] == number
        n = int(rows.sum())
        step = Step(number, trace["sequence"][rows].astype(np.int64), np.full(n, CONTEXT),
                    trace["phase"][rows].astype(np.int64), np.zeros(n, np.int64), np.ones(n, np.bool_))
        yield (step, [Routing(experts[rows, layer], weights.repeat(n, 0)) for layer in range(LAYERS)],
               [Routing(forecast[rows, layer], weights.repeat(n, 0)) for layer in range(LAYERS)])


def check(shared: Path, name: str, batch: int, slots: int) -> None:
    hardware = shared / "hardware"
    reference = json.loads((hardware / "reference_olmoe-1b-7b.json").read_text())
    [row] = [row for row in reference["rows"] if (row["policy"], row["batch"], row["slots"]) == (name, batch, slots)]
    trace = dict(np.load(hardware / row["trace"]))
    popularity = np.stack([np.bincount(ids.ravel(), minlength=EXPERTS) for ids in trace["experts"].swapaxes(0, 1)])
    policy = load_policy(name, {} if name == "resident" else {"slots": slots})
    run = scheduler(eager_host(), olmoe(), policy, fast_engine(), popularity=popularity)
    drive(run, replay(trace))
    tally = run.counts.phases["decode"]
    gpu, cpu = tally.runs.tolist()
    moved = run.emit.moved_bytes.sum(axis=0).tolist()
    assert {"hits": tally.hits, "misses": tally.misses, "copied_bytes": tally.loaded_bytes, "cpu_experts": cpu,
            "substituted": tally.substituted_experts} == {
                key: row[key] for key in ("hits", "misses", "copied_bytes", "cpu_experts", "substituted")}
    assert moved[1] + moved[2] == tally.loaded_bytes == tally.loads * 3 * D_MODEL * D_FF * 2
    took = [seconds(times.end_ps - times.begin_ps) for times in run.steps][row["skip_steps"]:]
    print(f"{name:12} batch {batch:2} slots {slots:2}: {np.median(took) * 1e3:7.2f} ms emulated on a hand-made "
          f"machine, {row['measured_step_s'] * 1e3:7.2f} ms measured{'' if row['steady'] else ' (not steady)'}; "
          f"{gpu} runs on the GPU, {tally.dropped} pairs dropped")


@pytest.mark.parametrize(("name", "batch", "slots"), FAST)
def test_counts_equal_the_reference_engine_at_batch_one(shared: Path, name: str, batch: int, slots: int) -> None:
    check(shared, name, batch, slots)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "batch", "slots"), [row for row in ROWS if row not in FAST])
def test_counts_equal_the_reference_engine(shared: Path, name: str, batch: int, slots: int) -> None:
    check(shared, name, batch, slots)


def test_the_rows_are_all_that_were_recorded(shared: Path) -> None:
    reference = json.loads((shared / "hardware" / "reference_olmoe-1b-7b.json").read_text())
    assert sorted(ROWS) == sorted((row["policy"], row["batch"], row["slots"]) for row in reference["rows"])
