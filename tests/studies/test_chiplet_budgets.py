"""Budgets of chiplet arrays by hand, action times as the simulator's table has them, and the contour's picture."""

import pytest

from cluster.build import build_machine, build_model
from cluster.config.load import load_hardware, load_precision
from emulation.costs import Costs
from emulation.lowering.emit import Emitter
from moe.shapes import load_shape
from studies import chiplet_budgets as b
from studies.reproduce.claims import load_claims
from studies.reproduce.fse_dp import MEASURES


def test_budgets_of_the_default_array() -> None:
    assert b.area(288, b.BUFFER_MB) == pytest.approx(16.75)
    assert b.power(288, 25.6) == pytest.approx(25.044832)
    assert b.fits(288, 25.6, b.BUFFER_MB)
    assert not b.fits(700, 25.6, b.BUFFER_MB)  # 23.33 + 5.45 + 1.7 = 30.48
    assert not b.fits(288, 95, b.BUFFER_MB)  # 2.55 + 48.24 + 9.49 = 60.28


# papers.md 2a: frames of 50 ns for a token's compute, a load and a hop, at 16 slices and whole.
@pytest.mark.parametrize(("name", "compute", "load", "hop"), [
    ("fse-deepseek", (5, 71), (141, 2253), 201), ("fse-qwen3", (3, 39), (77, 1229), 110),
    ("fse-phi-3.5", (20, 320), (640, 10240), 911), ("fse-yuan-2.0", (13, 205), (410, 6554), 583)])
def test_published_machines_take_the_published_frames(name: str, compute: tuple[int, int], load: tuple[int, int],
                                                      hop: int) -> None:
    precision = load_precision("int8")
    machine = build_machine(load_hardware("chiplet-2x2-published"), {}, precision.compute)
    model, frame = build_model(load_shape(name), precision), 50_000
    emit = Emitter(machine, model)
    ddr = machine.index["ddr0"]
    for parts, per_token, loads in zip((16, 1), compute, load, strict=True):
        columns = model.columns(0, parts)
        assert emit.acted_ps(0, columns, 7) == 7 * per_token * frame
        assert emit.acted_ps(0, columns, 0) == frame
        move = emit.move([(ddr, 0)], model.expert_work(columns).weight_bytes, "demand", columns)
        assert set(move.holds.values()) == {loads * frame}
        assert move.length_ps == (loads + 1) * frame  # a frame to allocate
        moved = emit.move([(0, 1)], model.expert_work(columns).weight_bytes, "stream", columns)
        assert moved.length_ps == (hop + 1) * frame
    assert emit.move([(0, 1)], 3 * model.token_row_bytes(1), "dispatch").length_ps == 3 * 5 * frame
    assert emit.move([(0, 1)], 3 * model.token_row_bytes(1), "return").length_ps == 0
    costs = Costs(machine, model, 16)
    assert costs.run_ps(0, 7) == 7 * compute[1] * frame
    assert costs.load_ps(ddr, 0, 0) == (load[0] + 1) * frame
    assert costs.send_ps(0, 1, 3) == 3 * 5 * frame


@pytest.mark.slow
def test_contour_counts_useful_work_and_outlines_what_fits() -> None:
    points = list(b.contour(b.qwen3_used("chiplet-2x2-published"), ((288, 700), (16, 64)), b.BUFFER_MB))
    assert [(p.d2d, p.ddr, p.fits) for p in points] == [
        (288, 16, True), (288, 64, True), (700, 16, False), (700, 64, False)]
    assert points[0].used < points[1].used <= 1
    drawn = b.picture(points, "a & b")
    assert drawn.count("<rect") == 4
    assert "a &amp; b" in drawn


def test_every_claim_has_a_measure_in_its_order() -> None:
    assert [claim.id for claim in load_claims("fse_dp").claims] == list(MEASURES)
