"""The six policies of the reference engine, on its own traces: the same counts, in every recorded row."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.build import build_machine, build_model
from cluster.config.load import load_hardware, load_precision
from cluster.resolve import cut
from emulation.machine import Machine
from emulation.model import NOTHING, Model
from emulation.units import seconds
from emulation.view import Routing, Step
from moe.shapes import load_shape
from schedulers.registry import load_policy
from tests.schedulers.rig import Steps, drive, fast_engine, scheduler

LAYERS, EXPERTS, D_MODEL, D_FF, CONTEXT = 6, 64, 2048, 1024, 512
FAST = (("lru_prefetch", 1, 16), ("cpu_precalc", 1, 16), ("on_demand", 1, 2))
ROWS = [(policy, batch, slots) for batch in (1, 4, 16)
        for policy, slots in (("resident", 64), ("on_demand", 2), *((name, slots) for slots in (16, 32) for name in
                              ("lru", "lru_prefetch", "cpu_static", "cpu_precalc")))]


@cache
def h200_host() -> tuple[Machine, Model]:
    """The machine file of the reference's host, and the first layers of the model's shape; the engine has no head."""
    machine = build_machine(load_hardware("h200-host"), {}, "bf16", "h200-host")
    model = build_model(cut(load_shape("olmoe-1b-7b"), LAYERS), load_precision("bf16"))
    return machine, replace(model, head=NOTHING, embedding_bytes=0)


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
    machine, model = h200_host()
    run = scheduler(machine, model, policy, fast_engine(), popularity=popularity)
    drive(run, replay(trace))
    tally = run.counts.phases["decode"]
    gpu, cpu = (int(tally.runs[machine.index[device]]) for device in ("gpu", "cpu"))
    moved = run.emit.moved_bytes.sum(axis=0).tolist()
    assert {"hits": tally.hits, "misses": tally.misses, "copied_bytes": tally.loaded_bytes, "cpu_experts": cpu,
            "substituted": tally.substituted_experts} == {
                key: row[key] for key in ("hits", "misses", "copied_bytes", "cpu_experts", "substituted")}
    assert moved[1] + moved[2] == tally.loaded_bytes == tally.loads * 3 * D_MODEL * D_FF * 2
    took = [seconds(times.end_ps - times.begin_ps) for times in run.steps][row["skip_steps"]:]
    print(f"{name:12} batch {batch:2} slots {slots:2}: {np.median(took) * 1e3:7.2f} ms emulated on h200-host, "
          f"{row['measured_step_s'] * 1e3:7.2f} ms measured{'' if row['steady'] else ' (not steady)'}; "
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
