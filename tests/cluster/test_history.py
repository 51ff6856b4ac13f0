"""A part of a workload's steps is set aside as history: it is told to policies, and not run."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import moelab
from cluster.config.names import trace_path
from cluster.config.reading import load_run
from cluster.feed import divided, told
from cluster.resolve import resolve
from emulation.errors import ConfigError
from schedulers.registry import load_policy
from workloads.traces import read_trace

REPLAY = {"work": "replay", "trace": "embedded-code"}
DRAWN = {"work": "synthetic", "generator": {"name": "zipf"}, "batch": 4, "requests": 8, "prompt_tokens": 6,
         "output_tokens": 5}


def written(folder: Path, **more: Any) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"machine": "edge-gpu-ndp", "model": "embedded", "policy": "expert_parallel",
                                    **more}))
    return path


@pytest.mark.parametrize("workload", [REPLAY, DRAWN])
def test_the_first_half_is_told_and_the_second_runs(workload: dict[str, Any], tmp_path: Path) -> None:
    whole = divided(resolve(load_run(str(written(tmp_path, workload=workload)), [])))
    setup = resolve(load_run(str(written(tmp_path, workload={**workload, "history": 0.5}, limits={"steps": 3})), []))
    before, coming = divided(setup)
    assert whole[0] == []
    half = len(whole[1]) // 2
    assert [step.number for step, _ in before] == [step.number for step, _ in whole[1][:half]]
    assert [step.number for step, _ in coming] == [step.number for step, _ in whole[1][half:half + 3]]
    setting = told(setup, load_policy("expert_parallel", {}), "expert_parallel", setup.setting, partial(divided, setup))
    assert setting.history is not None
    assert setting.popularity is not None
    assert setting.future is None
    assert (setting.history.counts.sum(axis=0) == setting.popularity).all()
    tokens = sum(len(step) for step, _ in before)
    assert (setting.popularity.sum(axis=1) == tokens * setup.model.top_k).all()
    seer = load_policy("expert_buffering", {"eviction": "belady"})
    future = told(setup, seer, "expert_buffering", setup.setting, partial(divided, setup)).future
    assert future is not None
    assert future.step.tolist() == [step.number for step, _ in coming]


def test_a_run_has_the_rest_of_the_steps_and_another_history_in_its_hashes(tmp_path: Path) -> None:
    steps = len(np.unique(read_trace(trace_path("embedded-code", Path())).step))
    whole = moelab.run(written(tmp_path, workload=REPLAY))
    rest = moelab.run(written(tmp_path, workload={**REPLAY, "history": 0.75}))
    assert sum(phase.steps for phase in rest.phases.values()) == steps - int(0.75 * steps)
    assert sum(phase.steps for phase in whole.phases.values()) == steps
    assert rest.hashes["history"] != whole.hashes["history"]
    assert "history_by_step" not in whole.hashes
    assert rest.makespan_ps < whole.makespan_ps


@pytest.mark.parametrize(("work", "words"), [
    ({"work": "execute", "texts": ["a"], "output_tokens": 2, "history": 0.5}, "history sets steps of a known routing"),
    ({"work": "synthetic", "generator": {"name": "zipf"}, "history": 0.5, "serving": {
        "requests": 4, "arrivals": "at_once", "prompt_tokens": 4, "output_tokens": 4}}, "it belongs to replay"),
    ({**DRAWN, "history": 0.01}, "of 10 steps that is none")])
def test_a_history_that_cannot_be_is_refused(work: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        moelab.run(written(tmp_path, workload=work))


def test_who_sees_the_steps_to_come_is_refused_where_nobody_knows_them(tmp_path: Path) -> None:
    policy = {"name": "expert_buffering", "parameters": {"eviction": "belady", "slots": 2}}
    work = {"work": "execute", "texts": ["a"], "output_tokens": 2}
    with pytest.raises(ConfigError, match="expert_buffering sees the steps to come"):
        moelab.run(written(tmp_path, workload=work, policy=policy, engine="spec"))
