"""Faults of a run, from its config to its result."""

import json
from pathlib import Path

import pytest

from cluster.config.load import validate
from cluster.config.run import RunConfig
from cluster.faults import inject
from cluster.observe.result import Result
from cluster.one_run import OneRun
from cluster.resolve import resolve
from cluster.run import Host, run
from cluster.session import Silent
from cluster.transports.local import LocalTransport
from emulation.errors import ConfigError, PlanError

STRAGGLER = {"fault": "straggler", "device": "ndp1", "to": "10 %", "at": "2 ms"}
DEATH = {"fault": "unit_dies", "device": "ndp3", "at": "2 ms"}


def config(policy: object, faults: list[dict[str, str]], **more: object) -> RunConfig:
    """The embedded model's shape on an edge GPU with four NDP units; generated routing."""
    data = {"machine": {"name": "edge-gpu-ndp"}, "model": "embedded", "policy": policy, "faults": faults,
            "workload": {"work": "synthetic", "generator": "balanced", "batch": 8, "prompt_tokens": 4,
                         "output_tokens": 12}, **more}
    return validate(RunConfig, data, "the run")


def test_a_run_without_faults_is_what_it_was_before_there_were_any() -> None:
    told = json.loads(run(config("expert_parallel", [])).to_json())
    assert "faults" not in told
    assert "faults" not in told["config"]
    assert "storage" not in told["config"]
    assert not any(row["path"].startswith("storage") for row in told["provenance"])


def test_a_result_says_when_each_fault_took_effect_and_what_it_cost() -> None:
    healthy = run(config("expert_parallel", []))
    result = run(config("expert_parallel", [DEATH]))
    assert result.faults is not None
    (death,) = result.faults
    assert (death.fault, death.of, death.at_ps) == ("unit_dies", "ndp3", 2 * 10**9)
    assert death.took_ps is not None
    assert death.took_ps >= death.at_ps
    before, during = death.before, death.during
    assert before is not None
    assert during is not None
    assert death.after is None
    assert before.steps + during.steps == 12
    assert before.time_ps + during.time_ps == result.makespan_ps
    assert result.makespan_ps > healthy.makespan_ps
    assert death.stored_bytes > 0
    assert death.recovery_ps == -(-death.stored_bytes * 10**12 // 6_800_000_000)
    assert sum(phase.latency_ps.get("recovery", 0) for phase in result.phases.values()) == death.recovery_ps
    assert result.bound is None
    assert any(row.path == "storage" and row.range for row in result.provenance)
    assert Result.from_json(result.to_json()) == result
    assert result.digest != run(config("expert_parallel", [{**DEATH, "device": "ndp2"}])).digest


def test_the_same_faults_give_the_same_bytes_on_both_engines_and_transports() -> None:
    faults = [STRAGGLER, DEATH, {"fault": "link_flaps", "link": "pcie", "to": "50 %", "period": "1 ms", "duty": "30 %"}]
    workload = {"work": "synthetic", "generator": "balanced", "batch": 4, "prompt_tokens": 2, "output_tokens": 6}
    digests = [run(config("gpu_ndp", faults, workload=workload, **more)).digest for more in (
        {}, {"engine": "spec"}, {"transport": "processes", "workers": 2})]
    assert digests == digests[:1] * 3


def test_gpu_ndp_moves_work_from_a_straggler_and_loses_less_than_expert_parallel() -> None:
    lost, on_home = {}, {}
    for policy in ({"name": "gpu_ndp", "parameters": {"prefetch": "none"}}, {"name": "expert_parallel"}):
        healthy, slow = (run(config(policy, faults, model={"name": "qwen3-30b-a3b", "layers": 1}))
                         for faults in ([], [{**STRAGGLER, "at": "1 us"}]))
        lost[policy["name"]] = slow.makespan_ps / healthy.makespan_ps
        on_home[policy["name"]] = [result.phases["decode"].runs.get("gpu", 0) for result in (healthy, slow)]
    assert on_home["gpu_ndp"][1] > on_home["gpu_ndp"][0]
    assert on_home["expert_parallel"] == [0, 0]
    assert lost["gpu_ndp"] < lost["expert_parallel"]


def test_the_timeline_marks_faults(tmp_path: Path) -> None:
    result = run(config("expert_parallel", [DEATH, {**STRAGGLER, "until": "3 ms"}]))
    result.write(tmp_path)
    data = (tmp_path / "timeline.perfetto-trace").read_bytes()
    for what in (b"ndp3 dies", b"recovered: ndp3 dies", b"ndp1 computes at 10 % of its speed",
                 b"over: ndp1 computes at 10 % of its speed"):
        assert what in data


def answered(policy: str, faults: list[dict[str, str]]) -> tuple[Result, dict[str, int], int]:
    """The embedded model's answers, how many shards each device held at the end, and how many there are."""
    transport = LocalTransport()
    setup = resolve(config(policy, faults, workload={"work": "execute", "texts": ["The house was built"], "batch": 1,
                                                     "prompt_tokens": 4, "output_tokens": 6}))
    result = OneRun(setup, setup.policies[0], transport, Silent()).execute()
    held = {actor.spec.name: len(actor._held) for actor in transport._devices.values()}
    return result, held, len(setup.model.moe_layers) * setup.model.experts


@pytest.mark.parametrize("policy", ["expert_parallel", pytest.param("tensor_parallel", marks=pytest.mark.soak)])
def test_a_dead_device_holds_nothing_and_the_answers_stay(policy: str) -> None:
    healthy, before, shards = answered(policy, [])
    result, held, _ = answered(policy, [{**DEATH, "at": "1 us"}])
    assert result.text == healthy.text
    assert result.faults is not None
    assert result.faults[0].step == 1
    assert result.faults[0].stored_bytes > 0
    parts = 1 if policy == "expert_parallel" else 3
    assert before["ndp3"] > 0
    assert held["ndp3"] == 0
    assert sum(held.values()) == shards * parts


def test_a_fault_that_is_injected_at_a_step_is_the_same_each_time() -> None:
    def steps() -> list[tuple[int, int]]:
        one = OneRun(resolve(config("gpu_ndp", [])), resolve(config("gpu_ndp", [])).policies[0], LocalTransport(),
                     Silent())
        one.begin()
        for number, (step, routed) in enumerate(one.parts[1]):
            if number == 3:
                said = inject(one.scheduler, {"fault": "unit_dies", "device": "ndp0"})
                assert said.startswith("ndp0 dies at the next step from ")
            if number == 5:
                with pytest.raises(PlanError, match="dense weights and tokens"):
                    inject(one.scheduler, {"fault": "unit_dies", "device": "gpu"})
            one.scheduler.begin(step)
            for moe in range(routed.experts.shape[1]):
                one.scheduler.decide(routed.layer(moe))
            one.scheduler.end()
        one.scheduler.finish()
        assert [h.step for h in one.scheduler.faults.happened] == [3]
        return [(each.begin_ps, each.end_ps) for each in one.scheduler.steps]

    assert steps() == steps()


@pytest.mark.parametrize(("fault", "sentence"), [
    ({"fault": "unit_dies", "device": "npd1"}, "faults.0: unknown device 'npd1'; did you mean 'ndp1'?"),
    ({"fault": "link_slows", "link": "pci", "to": "50 %"}, "unknown link 'pci'; did you mean 'pcie'?"),
    ({"fault": "straggler", "device": "root", "to": "50 %"}, "'root' computes nothing"),
    ({"fault": "memory_shrinks", "device": "ndp0", "to": "64 GB"}, "cannot shrink to 64 GB"),
    ({"fault": "unit_dies", "device": "gpu"}, "'gpu' cannot die in a run"),
])
def test_a_fault_that_the_machine_cannot_have_is_refused(fault: dict[str, str], sentence: str) -> None:
    with pytest.raises((ConfigError, PlanError), match=r"^[^\n]*$") as refused:
        run(config("expert_parallel", [fault]))
    assert sentence in str(refused.value)


@pytest.mark.parametrize(("fault", "sentence"), [
    ({"fault": "unit_die", "device": "ndp1"}, "did you mean 'unit_dies'?"),
    ({"fault": "straggler", "device": "ndp1"}, "straggler needs to"),
    ({"fault": "unit_dies", "device": "ndp1", "to": "50 %"}, "unit_dies has no to; it takes device, at"),
    ({"fault": "straggler", "device": "ndp1", "to": "0 %"}, "a share above 0 % and at most 100 %"),
    ({"fault": "straggler", "device": "ndp1", "to": "1/0 %"}, "a share above 0 % and at most 100 %"),
    ({"fault": "straggler", "device": "ndp1", "to": "half"}, "a share above 0 % and at most 100 %"),
    ({"fault": "straggler", "device": "ndp1", "to": "50 %", "at": "soon"}, "'soon' is no quantity"),
    ({"fault": "straggler", "device": "ndp1", "to": "5 %", "at": "3 ms", "until": "2 ms"}, "is not after at 3 ms"),
    ({"fault": "link_flaps", "link": "pcie", "to": "5 %", "period": "0 s", "duty": "5 %"}, "it is above zero"),
    ({"fault": "unit_dies", "device": "ndp1", "when": "2 ms"}, "unknown key 'when'"),
])
def test_a_fault_that_says_nothing_sound_is_refused(fault: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=r"^[^\n]*$") as refused:
        config("expert_parallel", [fault])
    assert sentence in str(refused.value)


def test_what_no_survivor_can_hold_is_refused_with_the_story() -> None:
    faults = [{"fault": "memory_shrinks", "device": f"ndp{i}", "to": "1 MB", "at": "1 us"} for i in range(4)]
    with pytest.raises(PlanError, match=r"the memory of ndp0 shrinks to 0\.001 GB, and the run cannot go on: 'ndp0' "
                                        r"has room for 1\.000 MB of experts"):
        run(config("expert_parallel", faults))


def test_faults_belong_to_the_virtual_clock() -> None:
    with pytest.raises(ConfigError, match="faults belong to clock: virtual"):
        config("expert_parallel", [DEATH], clock="wall")


def test_compare_gives_every_policy_the_same_faults() -> None:
    setup = config("expert_parallel", [DEATH], against=["monde"])
    results = Host(compare=True).run(setup, LocalTransport(), Silent())
    for result in results.values():
        assert result.faults is not None
        assert result.faults[0].took_ps is not None
