"""A model with an encoder, by hand: the source passes it once, each step of the decoder reads what it left."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from emulation.engine.spec import SpecEngine
from emulation.errors import InputError
from emulation.lowering.dense import Share, shares
from emulation.machine import Device, Machine
from emulation.model import Layer, Model, Work
from emulation.ops import Lane
from emulation.plan import Plan
from emulation.trace import NO_EXPERT
from emulation.view import View
from tests.schedulers.rig import GB, Scripted, drive, kernels, resting, routing, scheduler, timeline
from workloads.routing.router import Router
from workloads.synthetic import Request, static_steps, synthetic_trace

ENCODER = Layer(Work(10, 1), 2, 0, Work(5, 0, 1))
DECODER = Layer(Work(20, 1), 3, 0, Work(7, 0, 1), cross=Work(11, 1, 1), source=Work(13, 1, 1), source_bytes=4)
MODEL = Model("both", (ENCODER, DECODER), 4, 1, 8, 8, 3, Fraction(2), Fraction(2), encoder_layers=1)


def steps():
    return list(static_steps([Request(3, 2)], encoder=True))


def one_gpu() -> Machine:
    of = kernels(1000 * GB, ("attention", "router", "dense", "expert"))
    return Machine("one", (Device("gpu", "gpu", GB, (0,), (), of, rests=True),), (), (Lane("gpu"),))


def first_expert(view: View) -> Plan:
    plan = Plan(view.layer)
    plan.run(0, on=0)
    return plan


def test_a_sequence_passes_the_encoder_once_and_the_decoder_step_by_step() -> None:
    # A kernel takes 1 ps a byte. Encoder, three tokens: attention 10 + 3 and three positions of 2; router 5; expert 384
    # and 3 x 64; keys and values for the decoder 13 + 3. Decoder, a token: attention 20 + 1 and its own positions of 3;
    # across 11 + 1 and three positions of 4; router 7; expert 384 + 64.
    run = scheduler(one_gpu(), MODEL, Scripted(resting(2, [[0]] * 4), [first_expert] * 3), SpecEngine)
    drive(run, [(step, [routing([[0]] * len(step))], [None]) for step in steps()])
    assert [(times.begin_ps, times.end_ps) for times in run.steps] == [(0, 616), (616, 1119), (1119, 1625)]
    assert timeline(run) == {
        "attention gpu": [(0, 19), (616, 640), (640, 664), (1119, 1146), (1146, 1170)],
        "router gpu": [(19, 24), (664, 671), (1170, 1177)],
        "expert e0 gpu": [(24, 600), (671, 1119), (1177, 1625)],
        "dense gpu": [(600, 616)]}
    assert [times.prefill_tokens for times in run.steps] == [3, 0, 0]


def test_what_a_home_attends_to_in_either_stack() -> None:
    both = list(static_steps([Request(3, 2), Request(5, 1)], encoder=True))
    assert shares(both[0]) == {0: Share(tokens=8, attended=3 * 3 + 5 * 5, kept=3 + 5, ends=0)}
    assert shares(both[1]) == {0: Share(tokens=2, attended=2, kept=2, ends=2, source=8, source_kept=8)}
    assert shares(both[2]) == {0: Share(tokens=1, attended=2, kept=2, ends=1, source=3, source_kept=3)}
    assert len(both) == 3


def test_stacks_and_what_is_kept() -> None:
    assert (MODEL.stack(True), MODEL.stack(False)) == (range(1), range(1, 2))
    assert (MODEL.moe_stack(True), MODEL.moe_stack(False)) == (range(1), range(1, 2))
    assert (MODEL.kv_bytes_per_token, MODEL.source_bytes_per_token) == (3, 4)
    assert MODEL.dense_bytes == 10 + 5 + 20 + 7 + 11 + 13
    plain = replace(MODEL, encoder_layers=0)
    assert plain.moe_stack(False) == range(2)
    assert plain.kv_bytes_per_token == 5


def test_routing_covers_the_stack_that_is_passed_and_a_trace_gives_the_steps_back() -> None:
    router = Router(MODEL, "balanced", 3)
    source, first = router.route(steps()[0]).experts, router.route(steps()[1]).experts
    assert (source[:, 1] == NO_EXPERT).all()
    assert (source[:, 0] != NO_EXPERT).all()
    assert (first[:, 0] == NO_EXPERT).all()
    trace = synthetic_trace(MODEL, router, steps())
    for (step, routed), made in zip(trace.steps(encoder=True), steps(), strict=True):
        for name in ("sequence", "position", "phase", "home", "ends", "source"):
            assert (getattr(step, name) == getattr(made, name)).all(), name
        assert step.encoder == made.encoder
        assert (routed.experts == router.route(made).experts).all()


def test_a_step_passes_one_stack() -> None:
    trace = synthetic_trace(MODEL, Router(MODEL, "balanced", 3), steps())
    mixed = replace(trace, step=np.zeros_like(trace.step))
    with pytest.raises(InputError, match="step 0 of the trace has tokens in prefill and in decode"):
        list(mixed.steps(encoder=True))


def test_the_next_layer_is_one_that_the_step_passes() -> None:
    seen = []

    def plan(view: View) -> Plan:
        seen.append(view.next_layer)
        return first_expert(view)

    run = scheduler(one_gpu(), MODEL, Scripted(resting(2, [[0]] * 4), [plan] * 3), SpecEngine)
    drive(run, [(step, [routing([[0]] * len(step))], [None]) for step in steps()])
    assert seen == [None, None, None]
