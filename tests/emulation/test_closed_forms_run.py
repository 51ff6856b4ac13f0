"""Times that theory gives in a line, for whole runs: machine, model, policy, lowering and engine, to the picosecond.

A formula uses the bytes, flops and rates of the case and rounds each duration up once, as the lowering does;
docs/closed_forms.md lists it with its conditions. Where theory says so, the lower bound is the time as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.scheduler import MakeEngine, Scheduler
from emulation.bound import Bound, BoundInput
from emulation.machine import Device, Kernel, Link, Machine
from emulation.model import Layer, Model, Work
from emulation.ops import Lane
from emulation.view import Routing, Setting, Step
from schedulers.registry import load_policy
from tests.schedulers.rig import routing, step
from tests.workloads.serving_rig import asked, serving

law = settings(max_examples=25, deadline=None, derandomize=True, database=None,
               suppress_health_check=[HealthCheck.function_scoped_fixture])
PS = 10**12
GB = 10**9


def per_second_ps(amount: int, rate: int) -> int:
    return -(-amount * PS // rate)


@dataclass(frozen=True)
class Sizes:
    """An expert of three matrices d x f, two bytes a number; a kernel, and a link in each direction."""

    d: int
    f: int
    overhead_ps: int
    bytes_per_s: int
    flops_per_s: int
    link_per_s: int
    latency_ps: int

    @property
    def weights(self) -> int:
        return 2 * 3 * self.d * self.f

    def model(self, layers: int, experts: int, top_k: int) -> Model:
        """Nothing outside the experts costs anything."""
        moe = Layer(Work(), 0, 0, Work(0, 0, 1))
        return Model("experts", (moe,) * layers, experts, top_k, self.d, self.f, 3, Fraction(2), Fraction(2))

    @property
    def kernel(self) -> Kernel:
        return Kernel(self.overhead_ps, self.bytes_per_s, self.flops_per_s)

    def run_ps(self, tokens: int) -> int:
        read = self.weights + tokens * 2 * (2 * self.d + 2 * self.f)
        return self.overhead_ps + max(per_second_ps(read, self.bytes_per_s),
                                      per_second_ps(tokens * 6 * self.d * self.f, self.flops_per_s))

    @property
    def load_ps(self) -> int:
        """How long the link is held; an expert arrives a latency later."""
        return per_second_ps(self.weights, self.link_per_s)

    def rows_ps(self, tokens: int) -> int:
        return per_second_ps(2 * self.d * tokens, self.link_per_s)


sizes = st.builds(Sizes, d=st.integers(1, 4096), f=st.integers(1, 4096), overhead_ps=st.integers(0, 10**8),
                  bytes_per_s=st.integers(GB, 10**13), flops_per_s=st.integers(GB, 10**15),
                  link_per_s=st.integers(10**8, 10**12), latency_ps=st.integers(0, 10**7))


def beside(at: Sizes, *, stores: int = 1, computing: bool = False) -> Machine:
    """A home, and devices on which experts rest behind one link each way that they share."""
    kernels = {"expert": at.kernel}
    devices = [Device("home", "gpu", 10**15, (0,), (), kernels)]
    devices += [Device(f"store{i}", "ndp", 10**15, (3 + i,) if computing else (), (), kernels if computing else {},
                       rests=True) for i in range(stores)]
    links = [Link(f"{way}{i}", a, b, lane, at.link_per_s, at.latency_ps) for i in range(stores)
             for way, a, b, lane in (("out", 0, 1 + i, 1), ("back", 1 + i, 0, 2))]
    return Machine("beside", tuple(devices), tuple(links), (Lane("home"), Lane("out"), Lane("back"),
                                                           *(Lane(f"store{i}") for i in range(stores))))


def alone(at: Sizes) -> Machine:
    """One device that holds everything."""
    return Machine("alone", (Device("home", "gpu", 10**15, (0,), (), {"expert": at.kernel}, rests=True),), (),
                   (Lane("home"),))


def star(at: Sizes, out_per_s: Sequence[int], in_per_s: Sequence[int]) -> Machine:
    """Homes on which experts rest, each with an egress to a switch and an ingress from it."""
    n = len(out_per_s)
    homes = [Device(f"gpu{i}", "gpu", 10**15, (i,), (), {"expert": at.kernel}, rests=True) for i in range(n)]
    links = [Link(f"out{i}", i, n, n + i, out_per_s[i], at.latency_ps) for i in range(n)]
    links += [Link(f"in{i}", n, i, 2 * n + i, in_per_s[i], at.latency_ps) for i in range(n)]
    lanes = [Lane(f"{what}{i}") for what in ("gpu", "out", "in") for i in range(n)]
    return Machine("star", (*homes, Device("switch", "switch")), tuple(links), tuple(lanes), homes=tuple(range(n)))


Feed = Sequence[tuple[Step, Sequence[Routing]]]


def ran(engine: MakeEngine, on: Machine, of: Model, policy: str, feed: Feed, *, home_bytes: int = 10**15,
        **parameters: Any) -> tuple[int, Bound, Bound]:
    """When a run ends, the bound of its work, and that with the placement that the policy chose."""
    budget = np.array([home_bytes, *[10**15] * (len(on.devices) - 1)], np.int64)
    setting = Setting(on, of, budget)
    scheduler = Scheduler(setting, load_policy(policy, parameters), engine)
    work = BoundInput(on, of, budget)
    for now, routed in feed:
        scheduler.begin(now)
        work.add_step(now)
        for moe, each in enumerate(routed):
            decision = scheduler.decide(each, routed[moe + 1] if moe + 1 < len(routed) else None)
            work.add_layer(moe, decision.served, decision.early)
        scheduler.end()
    return scheduler.steps[-1].end_ps, work.bound(), work.bound(scheduler.ledger.start)


# A hot link, and the overlap of loads with compute


@law
@given(at=sizes, k=st.integers(1, 6), stores=st.integers(1, 3))
def test_loads_behind_one_link_come_one_after_the_other(engine: MakeEngine, at: Sizes, k: int, stores: int) -> None:
    """One token visits k experts; each has a slot, is copied over the shared link, and then runs."""
    end_ps, _, bound = ran(engine, beside(at, stores=stores), at.model(1, k, k), "on_demand",
                           [(step(0, 1), [routing([list(range(k))])])], slots=k)
    assert end_ps == at.load_ps + at.latency_ps + (k - 1) * max(at.load_ps, at.run_ps(1)) + at.run_ps(1)
    assert bound.lb_ps <= end_ps


@law
@given(at=sizes, k=st.integers(1, 6))
def test_one_slot_lets_nothing_overlap(engine: MakeEngine, at: Sizes, k: int) -> None:
    end_ps, _, _ = ran(engine, beside(at), at.model(1, k, k), "on_demand",
                       [(step(0, 1), [routing([list(range(k))])])], slots=1)
    assert end_ps == k * (at.load_ps + at.latency_ps + at.run_ps(1))


@law
@given(at=sizes, layers=st.integers(1, 8), tokens=st.integers(1, 5))
def test_a_prefetch_of_the_next_layer_hides_behind_this_one(engine: MakeEngine, at: Sizes, layers: int,
                                                            tokens: int) -> None:
    """Each layer's expert is absent at first; the first is a demand load, the others are foreseen a layer ahead."""
    at = Sizes(at.d, at.f, at.overhead_ps, at.bytes_per_s, at.flops_per_s, at.link_per_s, 0)
    routed = [routing([[2]] * tokens)] * layers
    end_ps, _, _ = ran(engine, beside(at), at.model(layers, 3, 1), "lru_prefetch", [(step(0, tokens), routed)], slots=2)
    load_ps, run_ps = at.load_ps, at.run_ps(tokens)
    assert end_ps == load_ps + (layers - 1) * max(load_ps, run_ps) + run_ps
    blind_ps, _, _ = ran(engine, beside(at), at.model(layers, 3, 1), "lru", [(step(0, tokens), routed)], slots=2)
    assert blind_ps == layers * (load_ps + run_ps)


# All-to-all


@law
@given(at=sizes, data=st.data(), n=st.integers(2, 5), tokens=st.integers(1, 12))
def test_expert_parallel_homes_exchange_in_the_time_of_the_fullest_port(engine: MakeEngine, at: Sizes,
                                                                        data: st.DataObject, n: int,
                                                                        tokens: int) -> None:
    """2 n experts on n homes, one visited by each token; rows go out, are computed and come back."""
    rates = st.lists(st.integers(10**8, 10**12), min_size=n, max_size=n)
    out_per_s, in_per_s = data.draw(rates), data.draw(rates)
    chosen = data.draw(st.lists(st.integers(0, 2 * n - 1), min_size=tokens, max_size=tokens))
    end_ps, _, _ = ran(engine, star(at, out_per_s, in_per_s), at.model(1, 2 * n, 1), "expert_parallel",
                       [(step(0, tokens, range(n)), [routing([[e] for e in chosen])])])
    sent = np.zeros((n, n), int)  # rows from the home of a token to the owner of its expert
    for token, expert in enumerate(chosen):
        sent[token % n, expert // 2] += 1
    sent = np.where(np.eye(n, dtype=bool), 0, sent)

    def exchange_ps(rows: Any) -> int:
        ports = [per_second_ps(2 * at.d * int(count), rate)
                 for count, rate in zip([*rows.sum(axis=1), *rows.sum(axis=0)], [*out_per_s, *in_per_s], strict=True)]
        return max(ports) + 2 * at.latency_ps if rows.any() else 0

    ready_ps = [exchange_ps(sent) if sent[:, i].any() else 0 for i in range(n)]
    busy_ps = [sum(at.run_ps(chosen.count(e)) for e in (2 * i, 2 * i + 1) if e in chosen) for i in range(n)]
    assert end_ps == max(a + b for a, b in zip(ready_ps, busy_ps, strict=True) if b) + exchange_ps(sent.T)


# A queue


@law
@given(at=sizes, count=st.integers(1, 12), layers=st.integers(1, 3), tokens=st.integers(1, 4),
       every=st.fractions(Fraction(1, 5), 3))
@pytest.mark.parametrize("batcher", ["fcfs", "prefill_first", "decode_first"])
def test_requests_that_come_in_steady_time_queue_as_d_d_1(engine: MakeEngine, batcher: str, at: Sizes, count: int,
                                                          layers: int, tokens: int, every: Fraction) -> None:
    """One request at a time, a step each: arrivals through the batcher, service through the engine."""
    of, on = at.model(layers, 2, 1), alone(at)
    service_ps = layers * at.run_ps(tokens)
    every_ps = max(int(every * service_ps), 1)
    of_requests = serving(asked(*[(tokens, 1)] * count, arrivals=[every_ps * i for i in range(count)]), batcher,
                          max_batch=1)
    setting = Setting(on, of, np.array([10**15]))
    scheduler, work = Scheduler(setting, load_policy("resident", {}), engine), BoundInput(on, of, setting.budget_bytes)
    while (found := of_requests.next(lambda: scheduler.engine.now_ps)) is not None:
        now, not_before_ps = found
        scheduler.begin(now, not_before_ps)
        work.add_step(now, not_before_ps)
        for moe in range(layers):
            work.add_layer(moe, scheduler.decide(routing([[1]] * tokens)).served)
        scheduler.end()
    waits_ps = [times.begin_ps - every_ps * i for i, times in enumerate(scheduler.steps)]
    assert waits_ps == [i * max(service_ps - every_ps, 0) for i in range(count)]
    assert [times.end_ps - times.begin_ps for times in scheduler.steps] == [service_ps] * count
    assert work.bound().lb_ps == scheduler.steps[-1].end_ps == (count - 1) * max(service_ps, every_ps) + service_ps


# The bound is the time


@law
@given(at=sizes, layers=st.integers(1, 4), data=st.data())
def test_one_device_with_everything_takes_the_sum_of_its_runs_and_no_less(engine: MakeEngine, at: Sizes, layers: int,
                                                                          data: st.DataObject) -> None:
    steps = data.draw(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=4))
    feed = [(step(i, len(chosen)), [routing([[e] for e in chosen])] * layers) for i, chosen in enumerate(steps)]
    end_ps, free, given_ = ran(engine, alone(at), at.model(layers, 4, 1), "resident", feed)
    assert end_ps == layers * sum(at.run_ps(chosen.count(e)) for chosen in steps for e in set(chosen))
    assert end_ps == free.lb_ps == given_.lb_ps


@law
@given(at=sizes, layers=st.integers(1, 4), tokens=st.integers(1, 6))
def test_the_only_unit_takes_rows_out_run_and_rows_back_and_no_less(engine: MakeEngine, at: Sizes, layers: int,
                                                                    tokens: int) -> None:
    """The home has no room, so all runs on the unit."""
    feed = [(step(0, tokens), [routing([[0]] * tokens)] * layers)]
    end_ps, free, given_ = ran(engine, beside(at, computing=True), at.model(layers, 1, 1), "expert_parallel", feed,
                               home_bytes=0)
    assert end_ps == layers * (2 * (at.rows_ps(tokens) + at.latency_ps) + at.run_ps(tokens))
    assert end_ps == free.lb_ps == given_.lb_ps


@law
@given(d=st.integers(64, 4096), f=st.integers(64, 4096), rate=st.integers(10**8, 10**10), k=st.integers(1, 6),
       layers=st.integers(1, 3))
def test_experts_that_must_cross_a_link_take_its_time_and_no_less(engine: MakeEngine, d: int, f: int, rate: int, k: int,
                                                                  layers: int) -> None:
    """The home has room and nothing in it: the bound is the link's work, a little rounded down."""
    at = Sizes(d, f, 1000, 10**13, 10**18, rate, 300)
    feed = [(step(0, 1), [routing([list(range(k))])] * layers)]
    end_ps, _, bound = ran(engine, beside(at), at.model(layers, k, k), "on_demand", feed, slots=k,
                           home_bytes=layers * k * at.weights)
    link_ps = layers * k * at.load_ps
    assert end_ps == link_ps + layers * (at.latency_ps + at.run_ps(1))
    rounded_ps = 1 + layers * k + link_ps // 10**8
    assert bound.lb_ps == bound.relaxation_ps <= link_ps <= bound.lb_ps + rounded_ps
