"""FSE-DP as runs: both engines alike, never under the bound, peaks in slots, and what published machines say."""

from typing import Any

import pytest

import moelab

SMALL = ["model={name: fse-phi-3.5, layers: 2}", "workload.prompt_tokens=4", "against=[]"]


def run(*settings: str) -> moelab.Result:
    result: Any = moelab.run("fse_dp", [*SMALL, *settings])
    return result


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["chiplet-2x2", "chiplet-3x3-published"])
@pytest.mark.parametrize("policy", ["fse_dp", "{name: fse_dp, parameters: {destination: max_buffer, micro_slices: 4}}",
                                    "{name: fse_dp, parameters: {trajectory: groups, micro_slices: 8}}", "hydra",
                                    "{name: ep_chiplet, parameters: {double_buffer: true}}"])
def test_engines_agree_and_no_run_is_under_its_bound(machine: str, policy: str) -> None:
    fast, plain = (run(f"machine={machine}", f"policy={policy}", f"engine={engine}") for engine in ("compiled", "spec"))
    assert fast.digest == plain.digest
    if "published" in machine:
        assert fast.bound is None
        assert any("action times" in sentence for sentence in fast.approximations)
    else:
        assert fast.bound is not None
        assert 0 < fast.bound.lb_ps <= fast.makespan_ps


def test_peaks_are_what_slots_held() -> None:
    few = run("machine.constants.devices.chiplet.pools.expert_slots=3")
    peaks = [memory.experts_peak_bytes for memory in few.memory if memory.device.startswith("chiplet")]
    slice_bytes = 3 * 4096 * 3200 // 16
    assert max(peaks) == 3 * slice_bytes
    assert all(peak % slice_bytes == 0 for peak in peaks)
    moved = {cause: sum(link.bytes.get(cause, 0) for link in few.traffic) for cause in ("demand", "stream", "dispatch")}
    assert moved["stream"] == 3 * moved["demand"]  # each slice comes in once and hops three times
    assert moved["dispatch"] == 0
