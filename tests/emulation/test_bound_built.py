"""The lower bound on machines built for one figure: what a good plan avoids is not counted."""

import numpy as np
import pytest

from emulation.ledger import Start
from emulation.machine import Device, Issuer, Kernel, Link, Machine
from emulation.ops import Lane
from emulation.view import Routing, Setting, Step
from schedulers.registry import load_policy
from tests.emulation.bound_cases import DENSE, US, Case, Scripted, model, timed


def built(units: int, *, kernel_bytes_per_s: int, link_bytes_per_s: int, gather_ps: int = 0) -> Machine:
    """A home and units that run experts alike, one overhead of 1 us, on links of their own without latency."""
    run = Kernel(US, kernel_bytes_per_s, 10**15)
    at_home = {"expert": run, "gather": Kernel(gather_ps, 10**15, 10**15), "router": Kernel(US, 10**12, 10**15)}
    lanes, links = [Lane("gpu"), *(Lane(f"unit{i}") for i in range(units))], []
    for i in range(units):
        lanes += [Lane(f"out{i}"), Lane(f"back{i}")]
        links += [Link(f"out{i}", 0, 1 + i, len(lanes) - 2, link_bytes_per_s),
                  Link(f"back{i}", 1 + i, 0, len(lanes) - 1, link_bytes_per_s)]
    devices = [Device("gpu", "gpu", 10**9, (0,), (), at_home, rests=True),
               *(Device(f"unit{i}", "ndp", 10**9, (1 + i,), (), {"expert": run}, rests=True) for i in range(units))]
    return Machine("built", tuple(devices), tuple(links), tuple(lanes))


@pytest.mark.parametrize(("what", "tokens", "slots", "unit_of", "link", "gather_ps", "near"), [
    ("gathers spared by a plan that splits the experts of one token", 1, 4, [0, 0, 1, 1], 10**12, 50 * US, 1.1),
    ("units that share the work", 1, 0, [1, 1, 2, 2], 10**12, 0, 1.1),
    ("rows that are sent once to the unit of all their experts", 3, 0, [1, 1, 1, 1], 10**6, 0, 1.2)])
def test_bound_leaves_out(what: str, tokens: int, slots: int, unit_of: list[int], link: int, gather_ps: int,
                          near: float) -> None:
    of = model(1, 4, 4)
    on = built(2 if 2 in unit_of else 1, kernel_bytes_per_s=10**10, link_bytes_per_s=link, gather_ps=gather_ps)
    budget = np.full(len(on.devices), 10**9)
    budget[0] = slots * of.expert_work(of.d_ff).weight_bytes
    rows = np.arange(tokens)
    every = Routing(np.tile(np.arange(4), (tokens, 1)), np.full((tokens, 4), 0.25))
    step = Step(0, rows, rows, np.zeros(tokens, np.int64), np.zeros(tokens, np.int64), np.ones(tokens, bool))
    case = Case(Setting(on, of, budget), [(step, [every])])
    end_ps = timed(case, Scripted(Start(np.array(unit_of).reshape(1, 4, 1)), [tuple(enumerate(unit_of))], "unicast"))
    bound = case.collected().bound()
    assert bound.lb_ps <= end_ps, what
    assert end_ps <= near * bound.lb_ps


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("routed", [[[0]], [[0, 1]], [[0, 1], [1, 2]]])
@pytest.mark.parametrize(("issue_ps", "sync_ps"), [(5 * US, 3 * US), (0, 0)])
def test_bound_is_the_time_of_a_home_alone_that_its_host_or_its_kernels_keep_busy(
        issue_ps: int, sync_ps: int, routed: list[list[int]], shared: bool) -> None:
    kernels = {family: Kernel(US, 10**10, 10**15, issue_ps) for family in (*DENSE, "copy", "record", "wait")}
    gpu = Device("gpu", "gpu", 10**9, (0,), (), kernels, Issuer(1, sync_ps), rests=True)
    on = Machine("alone", (gpu,), (), (Lane("gpu", in_order=True), Lane("host", in_order=True)))
    of, rows = model(2, 3, len(routed[0]), shared), np.arange(len(routed))
    step = Step(0, rows, rows, np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64), np.ones(len(rows), bool))
    every = Routing(np.array(routed), np.full((len(rows), len(routed[0])), 0.5))
    case = Case(Setting(on, of, np.array([10**9])), [(step, [every] * 2)])
    assert case.collected().bound().lb_ps == timed(case, load_policy("resident", {}))
