"""What a result says in sentences, what a better part would give, and what differs between two results."""

import json
import math
from fractions import Fraction
from pathlib import Path

import pytest

from cluster.config.load import load_hardware
from cluster.config.quantities import Bandwidth, Time
from cluster.config.reading import load_run
from cluster.main import enter
from cluster.observe.explanation import critical_path, explain
from cluster.observe.hottest import fullest, half
from cluster.observe.result import Result
from cluster.run import run
from emulation.errors import InputError
from emulation.units import parse
from studies.difference import difference, head
from studies.sweep_crew import Processes
from studies.what_if import config_of, gains, parts_of, scaled

SMALL = ("against=[]", "workload.batch=2", "workload.prompt_tokens=8", "workload.output_tokens=3", "model.layers=3",
         "timeline.max_ops=0")


@pytest.fixture(scope="module")
def units() -> Result:
    """Two NDP units that hold all experts."""
    return run(load_run("qwen3_cxl", SMALL))


def test_a_phase_is_bound_by_the_largest_part_of_its_critical_path(units: Result) -> None:
    decode = units.phases["decode"]
    path = critical_path(units, decode)
    assert sum(share.share for share in path) == pytest.approx(1, abs=1e-12)
    assert path[0].label == max(decode.latency_ps, key=lambda label: decode.latency_ps[label])
    assert set(path[0].lanes) <= {lane.lane for lane in units.lanes if lane.busy.get(path[0].label)}
    told = explain(units)
    assert told[0].startswith("TTFT (P50 ")
    assert told[1].startswith("TPOT (P50 ")
    assert "routed experts on ndp" in told[1]
    assert "times its lower bound" in told[-1]
    assert any("The 2 devices of kind ndp (ndp0, ndp1) are busy " in sentence for sentence in told)
    assert all(sentence.endswith(".") and "\n" not in sentence for sentence in told)


def test_loads_and_prefetches_are_told_where_there_are_any() -> None:
    result = run(load_run("mixtral_3090", (*SMALL, "forecast={name: oracle, accuracy: 0.9}",
                                            "policy={name: lru_prefetch, parameters: {slots: 4}}")))
    told = " ".join(explain(result))
    assert f"{result.prefetch.issued:,} prefetches" in told
    assert f"{result.phases['decode'].loads:,} loads brought" in told
    assert "The busiest link is " in told


def test_served_requests_that_queue_are_told_so() -> None:
    result = run(load_run("qwen3_serve", ("against=[]", "workload.serving.requests=6", "workload.serving.max_batch=1",
                                          "model.layers=2", "workload.serving.output_tokens=3")))
    assert any(sentence.startswith("Requests queue for ") for sentence in explain(result))


def test_parts_of_a_machine_are_scaled_exactly_and_each_once() -> None:
    hardware = load_hardware("cxl-ndp")
    parts = {part.name: part for part in parts_of(hardware)}
    assert parts["ndp: twice the memory bandwidth"].changed == {"devices.ndp.memory_bandwidth": "1024000000000 B/s"}
    assert set(parts["port: twice the bandwidth"].changed) == {"links.port.bandwidth", "links.port.bandwidth_back"}
    assert parts["unit: half the latency"].changed["links.unit.latency"] == "0.000000075 s"
    changed = [path for part in parts.values() for path in part.changed]
    assert len(changed) == len(set(changed))
    odd = Bandwidth(value="33.7 GB/s", source="test", kind="measured")
    assert parse(scaled(odd, Fraction(2)), "bandwidth") == 2 * odd.si
    short = Time(value="7 ps", source="test", kind="measured")
    assert parse(scaled(short, Fraction(1, 2)), "time") == short.si / 2


def test_a_better_part_is_a_run_with_that_constant(units: Result) -> None:
    """The part that binds decode gives most there; what it gives is what a run with the constant set gives."""
    with Processes(2) as crew:
        same, found = gains(units, Path(), crew)
    assert same
    by_name = {gain.part: gain for gain in found}
    assert found == sorted(found, key=lambda gain: -(gain.time or 0)) or found[0].time == found[1].time
    wide = by_name["ndp: twice the memory bandwidth"]
    by_hand = run(load_run("qwen3_cxl", (*SMALL, "machine.constants={devices.ndp.memory_bandwidth: 1024 GB/s}")))
    assert wide.time == units.makespan_ps / by_hand.makespan_ps
    assert wide.tpot is not None
    assert wide.tpot > 1.2
    assert by_name["gpu: twice the memory"].time == 1


def test_a_result_is_run_again_from_its_own_config(units: Result) -> None:
    again = run(config_of(units, Path()))
    assert again.digest == units.digest


def test_the_same_run_does_not_differ_and_another_names_what_was_asked(units: Result) -> None:
    assert difference(units, units) == (True, (), ())
    other = run(load_run("qwen3_cxl", (*SMALL, "policy=tensor_parallel",
                                       "machine.constants={links.port.bandwidth: 21 GB/s}")))
    found = difference(units, other)
    assert not found.same
    asked = {row.path: (row.first, row.second) for row in found.asked}
    assert asked["policy.name"] == ("expert_parallel", "tensor_parallel")
    assert asked["hardware.links.port.bandwidth"] == ("28 GB/s", "21 GB/s")
    changes = [abs(math.log(row.ratio)) for row in found.found if row.ratio]
    assert changes == sorted(changes, reverse=True)
    assert len(difference(units, other, whole=True).found) > len(found.found)


def test_half_as_much_is_as_large_a_change_as_twice(units: Result) -> None:
    other = units.model_copy(update={"makespan_ps": units.makespan_ps // 2, "emitted_tokens": units.emitted_tokens * 3})
    found = [(row.figure, row.ratio) for row in difference(units, other).found]
    assert found == [("emitted_tokens", 3.0), ("makespan", pytest.approx(0.5))]
    assert [row.figure for row in head(units, other)] == ["makespan", "p50", "p50", "output_tokens_per_s"]


def test_the_hottest_experts_are_those_of_the_load(units: Result) -> None:
    hot, load = fullest(units), units.load
    assert len(hot) == len(load.layers)
    most = max(one + other for one, other in zip(load.prefill[hot[0].layer], load.decode[hot[0].layer], strict=True))
    assert hot[0].tokens == most
    assert hot[0].times == max(each for each in units.skew.layers if each is not None)
    few, all_ = half(units)
    pairs = sorted((one + other for rows in zip(load.prefill, load.decode, strict=True)
                    for one, other in zip(*rows, strict=True)), reverse=True)
    assert 2 * sum(pairs[:few]) >= sum(pairs) > 2 * sum(pairs[:few - 1])
    assert all_ == len(pairs)


def test_faults_and_queues_are_told_as_what_they_are() -> None:
    faulty = run(load_run("faulty_ndp", ("against=[]", "workload.batch=2", "workload.output_tokens=4", "faults=["
                                         "{fault: straggler, device: ndp1, to: 25 %, at: 1 ms},"
                                         "{fault: unit_dies, device: ndp3, at: 900 s}]")))
    told = " ".join(explain(faulty))
    assert "on, ndp1 computes at 25 % of its speed" in told
    assert "The fault ndp3 dies never took effect" in told
    served = run(load_run("qwen3_serve", ("against=[]", "workload.serving.requests=6", "workload.serving.max_batch=1",
                                          "model.layers=2", "workload.serving.output_tokens=3")))
    assert "is mostly waiting in the queue; computing the prompts is bound by" in explain(served)[0]


def test_the_commands_tell_it(units: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    units.write(tmp_path / "a")
    assert enter(["explain", str(tmp_path / "a"), "--no-runs"]) == 0
    out = capsys.readouterr().out
    assert "- TPOT (P50" in out
    assert f"with seed {units.config['seed']}" in " ".join(out.split())
    assert units.hashes["routing"][:8] in out
    assert enter(["explain", str(tmp_path / "a" / "result.json"), "--no-runs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == units.digest
    assert enter(["diff", str(tmp_path / "a"), str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out.startswith("The same result")
    assert enter(["explain", str(tmp_path / "none")]) == InputError.exit_code
    assert "there is no result " in capsys.readouterr().err
