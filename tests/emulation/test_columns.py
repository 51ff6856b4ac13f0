"""The compiled lowering and the straight engine against what they stand in for: the same operations, the same times."""

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from actors.scheduler import Scheduler
from cluster.config.run import RunConfig
from cluster.feed import divided
from cluster.resolve import Setup, resolve
from emulation.engine.choose import make_engine
from emulation.engine.contract import Engine
from emulation.lowering.dense import shares
from schedulers.registry import load_policy
from tests.conftest import ROOT
from workloads.forecasts import Forecaster

pytestmark = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")

if importlib.util.find_spec("numba") is not None:
    from actors.columnar import ColumnScheduler
    from cluster.observe.attribution import Walked
    from cluster.observe.collect import Collector
    from cluster.observe.flight import kept_flight, read_flight
    from cluster.observe.series.slices import rows_of
    from emulation.engine.straight import NotStraight
    from emulation.lowering.columns import NotPlain
    from emulation.lowering.streams import crossings, is_straight

RAGGED = ("hold", "wait", "take", "release")
FLAT = ("priority", "quantum_ps", "length_ps", "hold_lane", "hold_ps", "wait_op", "wait_edge", "take_pool",
        "take_needs", "take_amount", "release_take", "release_op", "release_edge")
MACHINES = ("h200-host", "edge-gpu-ndp", "cxl-ndp", "cpu-gpu-a6000")
POLICIES: dict[str, dict[str, Any]] = {
    "resident": {}, "on_demand": {"slots": 3}, "lru": {"slots": 5}, "lru_prefetch": {"slots": 6}, "expert_parallel": {},
    "tensor_parallel": {}, "daop": {"first_predicted": 1}, "cpu_precalc": {"slots": 9}}


def setup_of(machine: str, policy: str, parameters: dict[str, Any], **work: Any) -> Setup:
    workload = {"work": "synthetic", "generator": {"name": "zipf", "skew": 0.6}, "batch": 5, "prompt_tokens": 7,
                "output_tokens": 5, **work}
    return resolve(RunConfig.model_validate({
        "machine": {"name": machine}, "model": {"name": "olmoe-1b-7b", "layers": 5}, "workload": workload,
        "policy": {"name": policy, "parameters": parameters}, "forecast": {"name": "oracle", "accuracy": 0.9}}))


def readable(setup: Setup, kind: type[Scheduler] = Scheduler, engine: str = "compiled") -> Any:
    target, model = setup.policies[0], setup.model
    guesses = Forecaster("oracle", len(model.moe_layers), model.experts, model.top_k, 0.9, 1)
    made = kind(setup.setting, load_policy(target.target, target.parameters), partial(make_engine, engine))
    if kind is not Scheduler:
        collector = Collector(made.engine, 10**6, 0, rows_of(setup.machine), crossings(setup.machine))
        made.watch(collector)
        for step, routed in divided(setup)[1]:
            made.time(made.lower(step, shares(step), routed, guesses.guess, guesses.observe))
        made.finish()
        made.count(collector.end_ps)
        return made, collector
    for step, routed in divided(setup)[1]:
        made.begin(step)
        for moe in range(routed.experts.shape[1]):
            made.decide(routed.layer(moe), guesses.guess(step, moe + 1, routed))
        made.end()
    made.finish()
    return made


def joined(ops: Sequence[Any], name: str) -> list[int]:
    return np.concatenate([getattr(each, name) for each in ops]).tolist()


def lengths(ops: Sequence[Any], name: str) -> list[int]:
    return np.concatenate([np.diff(getattr(each, f"{name}_ptr")) for each in ops]).tolist()


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("policy", POLICIES)
def test_columns_give_the_same_operations_times_counts_and_figures(machine: str, policy: str) -> None:
    setup = setup_of(machine, policy, POLICIES[policy])
    plain = readable(setup)
    engine = "straight" if is_straight(setup.machine) else "compiled"
    assert engine == ("straight" if machine in ("h200-host",) else engine)
    columns, collector = readable(setup, ColumnScheduler, engine)
    mine, theirs = [batch.ops for batch in plain.batches], [each.ops for each in collector.kept.submitted]
    for name in FLAT:
        assert joined(mine, name) == joined(theirs, name), name
    for name in RAGGED:
        assert lengths(mine, name) == lengths(theirs, name), name
    spans, rows = plain.engine.spans(), rows_of(setup.machine)
    walked = Walked(read_flight(plain), plain.steps, rows, plain.emit.take_crossed())
    assert collector.end_ps.tolist() == spans.end_ps.tolist()
    assert collector.spans_digest == walked.spans_digest
    assert collector.latency_ps.tolist() == walked.latency_ps.tolist()
    for mine_ps, walked_ps in zip(collector.use(), walked.use(), strict=True):
        assert mine_ps.tolist() == walked_ps.tolist()
    for mine_in, walked_in in zip(collector.sliced(), walked.sliced(), strict=True):
        assert np.array_equal(mine_in, walked_in)
    assert columns.steps == plain.steps
    assert columns.counts.prefetch(spans.end_ps) == plain.counts.prefetch(spans.end_ps)
    for name, tally in plain.counts.phases.items():
        other = columns.counts.phases[name]
        assert tally.runs.tolist() == other.runs.tolist()
        assert replace(tally, runs=other.runs) == other
    assert columns.counts.at_home == plain.counts.at_home
    assert columns.counts.load.tolist() == plain.counts.load.tolist()
    assert columns.emit.moved_bytes.tolist() == plain.emit.moved_bytes.tolist()
    assert columns.emit.worked.tolist() == plain.emit.worked.tolist()
    assert plain.emit.worked[plain.setting.machine.homes[0]].min() > 0
    assert columns.ledger.peak_bytes.tolist() == plain.ledger.peak_bytes.tolist()
    flight = kept_flight(collector.kept, setup.machine, columns.engine.pools, True)
    assert flight.rows.from_ps.tolist() == read_flight(plain).rows.from_ps.tolist()


def test_a_machine_whose_lanes_are_no_streams_is_not_straight() -> None:
    assert is_straight(setup_of("h200-host", "resident", {}).machine)
    edge = setup_of("edge-gpu-ndp", "lru_prefetch", {"slots": 6})
    assert not is_straight(edge.machine)
    with pytest.raises(NotStraight):
        readable(edge, ColumnScheduler, "straight")


def test_a_few_transfers_tell_that_a_machine_of_many_units_is_not_straight(monkeypatch: pytest.MonkeyPatch) -> None:
    family = str(ROOT / "benchmarks" / "family.yaml")
    setup = resolve(RunConfig.model_validate({
        "machine": {"name": family, "options": {"units": 64}}, "model": {"name": "olmoe-1b-7b", "layers": 2},
        "workload": {"work": "synthetic", "generator": "balanced", "batch": 2, "prompt_tokens": 1, "output_tokens": 1},
        "policy": "expert_parallel"}))
    looked_at = []

    class Watched(dict[Any, Any]):
        def __getitem__(self, pair: Any) -> Any:
            looked_at.append(pair)
            return super().__getitem__(pair)

    routes = Watched({pair: setup.machine.routes[pair] for pair in setup.machine.routes})
    monkeypatch.setitem(setup.machine.__dict__, "routes", routes)
    assert not is_straight(setup.machine)
    assert len(looked_at) < 2 * 64


def test_a_plan_that_is_wrong_is_left_to_the_readable_path() -> None:
    setup = setup_of("h200-host", "resident", {})
    target = setup.policies[0]
    policy = load_policy(target.target, target.parameters)

    class Forgetful:
        exact = True

        def start(self, setting: Any) -> Any:
            return policy.start(setting)

        def plan(self, view: Any, state: Any) -> Any:
            plan, state = policy.plan(view, state)
            plan.rows = plan.rows[1:]
            return plan, state

    made = ColumnScheduler(setup.setting, Forgetful(), partial(make_engine, "compiled"))
    made.watch(Collector(made.engine))
    step, routed = next(iter(divided(setup)[1]))
    with pytest.raises(NotPlain):
        made.lower(step, shares(step), routed, lambda *_: None, lambda *_: None)


@pytest.mark.parametrize("chunk", [1, 3, 10**9])
@pytest.mark.parametrize("policy", ["lru_prefetch", "on_demand"])
def test_figures_do_not_depend_on_when_they_are_collected(policy: str, chunk: int) -> None:
    plain = readable(setup_of("edge-gpu-ndp", policy, POLICIES[policy]))
    engine: Engine = make_engine("compiled", plain.engine.lanes, plain.engine.pools)
    collector, walked = Collector(engine), Walked(read_flight(plain), plain.steps)
    ends = {step.end_op: step.begin_ps for step in plain.steps}
    decisions = [batch.after for batch in plain.batches[1:]] + [plain.steps[-1].end_op]
    for i, (batch, labels, decision) in enumerate(zip(plain.batches, plain.labels, decisions, strict=True)):
        collector.batch(batch.ops, labels, batch.at_ps, batch.after)
        engine.submit(batch.ops)
        engine.run([decision])
        if decision in ends:
            collector.step(ends[decision], decision)
        if i % chunk == 0:
            collector.flush()
    engine.run()
    collector.flush()
    assert collector.latency_ps.tolist() == walked.latency_ps.tolist()
    assert [part.tolist() for part in collector.use()] == [part.tolist() for part in walked.use()]
    assert collector.spans_digest == walked.spans_digest
