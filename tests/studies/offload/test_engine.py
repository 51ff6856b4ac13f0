"""The real engine: what its policies do, what they compute, and that the emulated ones decide the same."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from studies.fidelity import compare_all, read_reference
from studies.offload.body import Shape, ffn
from studies.offload.measure import Routes, measure, random_experts, randomly
from studies.offload.near import PacedNear, Worker
from studies.offload.policies import ENGINES
from studies.offload.reference import Case, Rows, cases_of, write_reference

SHAPE = Shape("tiny", 3, 32, 16, 8, 2, 2, 1, 16, 8)
STEPS, EXACT = 12, ("resident", "on_demand", "lru", "lru_prefetch", "cpu_static")
FAST = 1e12


def routing(batch: int, seed: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([seed, batch])
    ids = rng.random((2, STEPS * batch, SHAPE.layers, SHAPE.experts)).argsort(axis=-1)[..., :SHAPE.top_k]
    rows = np.arange(STEPS * batch)
    return {"experts": ids[0], "forecast": ids[1], "step": rows // batch, "sequence": rows % batch,
            "phase": np.ones_like(rows)}


def routes(trace: dict[str, np.ndarray]) -> Routes:
    return Routes.of(trace["experts"], trace["forecast"], trace["step"], SHAPE.experts, torch.device("cpu"))


@pytest.fixture
def near() -> PacedNear:
    return PacedNear(FAST)


@pytest.mark.parametrize("batch", [1, 3])
def test_exact_policies_compute_the_same(near: PacedNear, batch: int) -> None:
    make = randomly(7, near.device, torch.float64)
    far, routed, seen = random_experts(SHAPE, make, pinned=False), routes(routing(batch)), {}
    for policy in EXACT:
        kind = ENGINES[policy]
        slots = 3 if policy != "resident" else 8
        engine = kind(SHAPE, near, randomly(11, near.device, torch.float64), far, batch, slots, routed.popular)
        with torch.inference_mode():
            for chosen, guess in zip(routed.steps, routed.guesses, strict=True):
                engine.step(chosen, guess)
        engine.worker.close()
        seen[policy] = engine.last
    near.close()
    for policy, x in seen.items():
        assert torch.allclose(x, seen["resident"], rtol=0, atol=1e-12), policy


def test_one_expert_is_silu_of_gate_times_up_through_down() -> None:
    flat = torch.randn(SHAPE.expert_elements, dtype=torch.float64)
    x = torch.randn(5, SHAPE.d_model, dtype=torch.float64)
    gate, up, down = flat.chunk(3)
    hidden = x @ gate.view(16, 32).T
    hidden = hidden * torch.sigmoid(hidden) * (x @ up.view(16, 32).T)
    assert torch.allclose(ffn(flat, SHAPE, x), hidden @ down.view(32, 16).T)


@pytest.mark.parametrize("batch", [1, pytest.param(2, marks=pytest.mark.soak), 5])
def test_emulated_policies_decide_as_the_real_ones_do(near: PacedNear, batch: int, tmp_path: Path) -> None:
    trace = routing(batch)
    make, routed, rows = randomly(7, near.device, torch.float32), routes(trace), Rows(2)
    far = random_experts(SHAPE, make, pinned=False)
    for case in cases_of(SHAPE, {batch: "trace.npz"}):
        rows.add(case, measure(case.policy, case.slots, SHAPE, near, make, far, routed, 2))
    near.close()
    path = write_reference(tmp_path, "tiny", SHAPE, "fp16", "h200-host", rows.rows(), {"trace.npz": trace}, {})
    compared = compare_all(read_reference(path), "h200-host", lambda *_: None)
    element = 2  # the reference was measured in fp32 and is emulated in fp16
    for row, measured in zip(compared, rows.rows(), strict=True):
        assert (row.hits, row.misses, row.cpu_experts, row.substituted) == tuple(
            measured[name] for name in ("hits", "misses", "cpu_experts", "substituted")), (row.policy, row.slots)
        assert row.copied_bytes * 4 == measured["copied_bytes"] * element
    assert {row.policy for row in compared} == set(ENGINES)
    assert any(row.substituted for row in compared)
    assert any(row.misses for row in compared)


def test_copies_are_paced_and_whole() -> None:
    near = PacedNear(100e6)
    [slot], source = near.slots(1, 1 << 18, torch.float32), torch.arange(1 << 18, dtype=torch.float32)
    begin = time.perf_counter()
    near.fetch(slot, source)
    near.take(slot)
    took = time.perf_counter() - begin
    near.close()
    assert torch.equal(slot.flat, source)
    assert took >= (1 << 20) / 100e6


def test_an_error_on_the_worker_is_told_where_the_result_is_asked_for() -> None:
    worker = Worker()

    def fails() -> torch.Tensor:
        raise RuntimeError("no such expert")
    job = worker.start(fails)
    with pytest.raises(RuntimeError, match="no such expert"):
        job.result()
    worker.close()


def test_a_row_is_steady_where_its_rounds_agree_but_for_the_extremes() -> None:
    make = randomly(1, torch.device("cpu"), torch.float32)
    near = PacedNear(FAST)
    row = measure("resident", 8, SHAPE, near, make, random_experts(SHAPE, make, pinned=False), routes(routing(1)), 2)
    near.close()
    rows = Rows(2)
    for seconds in (1.0, 1.05, 1.09, 9.0):
        rows.add(Case("resident", 1, 8, "t.npz"), replace(row, steps_s=[9.0, 9.0, seconds]))
    [told] = rows.rows()
    assert told["steady"]
    assert told["measured_step_s"] == (1.05 + 1.09) / 2
    rows.add(Case("resident", 1, 8, "t.npz"), replace(row, steps_s=[9.0, 9.0, 9.0]))
    assert not rows.rows()[0]["steady"]
