"""Served workloads through a whole run: memory divided, times and goodput told, the same bytes on both engines."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

import moelab
from cluster.config.load import validate
from cluster.config.reading import load_run
from cluster.config.serving import Length
from cluster.config.workload import Workload
from cluster.observe.tidy import rows
from cluster.resolve import resolve
from emulation.errors import ConfigError, MoelabError
from moelab import Result
from tests.conftest import ROOT

SERVING: dict[str, Any] = {"requests": 6, "arrivals": {"name": "poisson", "rate_per_s": 2000}, "max_batch": 3,
                           "prompt_tokens": {"mean": 10, "cv": 0.5}, "output_tokens": 3, "token_budget": 16,
                           "kv": {"block_tokens": 4}, "slo": {"ttft": "3 ms", "tpot": "1 ms"}}


def written(folder: Path, **more: Any) -> Path:
    work = {"work": "synthetic", "generator": "balanced", "serving": SERVING}
    data = {"machine": "edge-gpu-ndp", "model": "embedded", "policy": "lru", "engine": "spec", "workload": work, **more}
    (folder / "mine.yaml").write_text(yaml.safe_dump(data))
    return folder / "mine.yaml"


def served(folder: Path, settings: list[str] | None = None, **more: Any) -> Result:
    return moelab.run(written(folder, **more), settings or [])


def test_both_engines_give_the_same_digest(tmp_path: Path) -> None:
    assert served(tmp_path).digest == served(tmp_path, engine="compiled").digest


@pytest.mark.parametrize("batcher", ["fcfs", "prefill_first", "decode_first",
                                     "{name: decode_first, parameters: {exclusive: true}}"])
def test_a_result_tells_how_its_requests_were_served(batcher: str, tmp_path: Path) -> None:
    result = served(tmp_path, [f"workload.serving.batcher={batcher}"])
    requests, found = result.requests, result.serving
    assert found is not None
    assert requests.emitted_tokens == requests.output_tokens == (3,) * 6
    assert found.finished == 6
    for arrival, started, first, last in zip(requests.arrival_ps, requests.started_ps, requests.first_ps,
                                             requests.last_ps, strict=True):
        assert started is not None
        assert first is not None
        assert last is not None
        assert arrival <= started < first < last
    waits = sorted(started - arrival for started, arrival in zip(requests.started_ps, requests.arrival_ps, strict=True)
                   if started is not None)
    assert found.queueing is not None
    assert found.queueing.exact_ps == (waits[2], waits[5], waits[5])
    ttft = [first - arrival for first, arrival in zip(requests.first_ps, requests.arrival_ps, strict=True)
            if first is not None]
    assert found.slo is not None
    assert found.slo.ttft_share == sum(ps <= 3 * 10**9 for ps in ttft) / 6
    assert 0 <= found.slo.share <= min(found.slo.ttft_share, found.slo.tpot_share)
    assert found.slo.requests_per_s == round(found.slo.share * 6) * 10**12 / result.makespan_ps
    assert result.makespan_ps == max(last for last in requests.last_ps if last is not None)
    assert result.bound is not None
    assert max(requests.arrival_ps) < result.bound.lb_ps <= result.makespan_ps
    assert result.itl is not None
    assert result.itl.count == 12


def test_caches_get_what_experts_leave(tmp_path: Path) -> None:
    policies = {"lru(slots=4)": {"name": "lru", "parameters": {"slots": 4}}, "resident": "resident",
                "on_demand": "on_demand"}
    found = {}
    for name, policy in policies.items():
        result = served(tmp_path, policy=policy)
        gpu = next(memory for memory in result.memory if memory.device == "gpu")
        assert result.serving is not None
        [blocks] = result.serving.kv_capacity_blocks
        room = gpu.capacity_bytes - gpu.dense_bytes - gpu.budget_bytes
        assert 0 <= room - blocks * result.serving.block_bytes < result.serving.block_bytes
        assert gpu.experts_peak_bytes == gpu.budget_bytes  # what a policy reserves it also uses
        assert gpu.kv_peak_bytes == result.serving.kv_peak_blocks[0] * result.serving.block_bytes
        found[name] = blocks
    assert found["resident"] < found["lru(slots=4)"] < found["on_demand"]


def test_memory_for_caches_may_be_given(tmp_path: Path) -> None:
    block = resolve(load_run(written(tmp_path))).model.kv_bytes_per_token * 4
    result = served(tmp_path, [f"workload.serving.kv.capacity={10 * block} B"])
    assert result.serving is not None
    assert result.serving.kv_capacity_blocks == (10,)
    assert result.serving.kv_peak_blocks <= (10,)
    with pytest.raises(ConfigError, match=r"the KV cache holds 2 blocks of 4 tokens, and request \d"):
        served(tmp_path, [f"workload.serving.kv.capacity={2 * block} B"])
    with pytest.raises(ConfigError, match=r"caches take 20\.\d\d GB on gpu, which holds 16\.00 GB"):
        served(tmp_path, ["workload.serving.kv.capacity=20 GB"])


def test_scarce_memory_preempts_and_serves_all_the_same(tmp_path: Path) -> None:
    block = resolve(load_run(written(tmp_path))).model.kv_bytes_per_token
    scarce = served(tmp_path, ["workload.serving.kv.block_tokens=1", f"workload.serving.kv.capacity={20 * block} B",
                               "workload.serving.arrivals=at_once", "workload.serving.prompt_tokens=8",
                               "workload.serving.output_tokens=6"])
    assert scarce.serving is not None
    assert scarce.serving.preemptions == sum(scarce.requests.preemptions) > 0
    assert scarce.serving.recomputed_tokens > 0
    assert scarce.requests.emitted_tokens == (6,) * 6


def test_a_trace_lends_its_routing_to_requests(tmp_path: Path) -> None:
    work = {"work": "replay", "trace": "embedded-prose", "serving": SERVING}
    result = served(tmp_path, workload=work)
    assert result.requests.emitted_tokens == (3,) * 6
    assert result.digest == served(tmp_path, workload=work).digest
    assert result.digest != served(tmp_path, ["seed=1"], workload=work).digest


def test_an_objective_is_met_to_the_picosecond(tmp_path: Path) -> None:
    """TPOT is the time between first and last token over the gaps; its longest is met, a picosecond less is not."""
    requests = served(tmp_path).requests
    longest = max(-(-(last - first) // 2) for first, last in zip(requests.first_ps, requests.last_ps, strict=True)
                  if first is not None and last is not None)
    shares = []
    for limit in (longest, longest - 1):
        result = served(tmp_path, [f"workload.serving.slo={{tpot: {limit} ps}}"])
        assert result.serving is not None
        assert result.serving.slo is not None
        shares.append(result.serving.slo.tpot_share)
    assert shares == [1.0, 5 / 6]


def test_policies_are_compared_on_the_same_requests(tmp_path: Path) -> None:
    results = moelab.compare(written(tmp_path, against=["on_demand"]), [])
    first, second = (result.requests for result in results.values())
    assert first.arrival_ps == second.arrival_ps
    assert first.prompt_tokens == second.prompt_tokens
    assert first.emitted_tokens == second.emitted_tokens


def test_a_run_cut_short_tells_who_is_unfinished(tmp_path: Path) -> None:
    result = served(tmp_path, ["limits.steps=2"])
    assert result.serving is not None
    assert sum(phase.steps for phase in result.phases.values()) == 2
    assert result.serving.finished < 6
    assert None in result.requests.started_ps


def test_a_batcher_of_ones_own(tmp_path: Path) -> None:
    """The one that docs/serving.md shows."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "serving.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    result = served(tmp_path, ["workload.serving.batcher=mine.py", "workload.serving.arrivals=at_once",
                               "workload.serving.token_budget=64"])
    order = [first for first in result.requests.first_ps if first is not None]
    assert order == sorted(order)
    assert sum(phase.steps for phase in result.phases.values()) == 18


@pytest.mark.parametrize(("settings", "sentence"), [
    (["workload.serving.batcher=fcsf"], "unknown batcher 'fcsf'; did you mean 'fcfs'"),
    (["workload.serving.batcher={name: decode_first, parameters: {exclusiv: true}}"], "did you mean 'exclusive'"),
    (["workload.serving.batcher=nowhere.py"], "there is no such file"),
    (["workload.serving.requests=null"], "serving needs requests"),
    (["workload.serving.requests=10000000"], "requests: 10000000"),
    (["workload.serving.arrivals=poison"], "did you mean 'poisson'"),
    (["workload.serving.arrivals=poisson"], "poisson needs rate_per_s"),
    (["workload.serving.arrivals={name: gamma, rate_per_s: 3}"], "gamma needs cv"),
    (["workload.serving.arrivals={name: poisson, rate_per_s: 3, cv: 2}"], "cv belongs to gamma"),
    (["workload.serving.arrivals={name: poisson, rate_per_s: 1.0e-12}"], "emulated time ends at"),
    (["workload.serving.prompt_tokens=0"], "prompt_tokens.mean"),
    (["workload.serving.prompt_tokens=2.5"], "prompt_tokens"),
    (["workload.serving.prompt_tokens={mean: 2.5}"], "a fixed length is a whole number"),
    (["workload.serving.prompt_tokens={mean: 8, cv: 1, min: 9, max: 8}"], "min 9 is above max 8"),
    (["workload.serving.kv.capacity=3"], "has no unit"),
    (["workload.serving.kv.capacity=0 B"], "it is above zero"),
    (["workload.serving.slo={ttft: 3 m}"], "unknown unit of time"),
    (["workload.serving.slo={}"], "names ttft, tpot or both"),
    (["workload.batch=3"], "batch belongs to static batches"),
    (["workload.prompt_tokens=3"], "prompt_tokens belongs to static batches"),
    (["workload.work=execute", "workload.generator=null", "workload.texts=[hello]", "workload.output_tokens=3"],
     "serving belongs to synthetic and replay")])
def test_what_is_wrong_is_one_sentence(settings: list[str], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(MoelabError, match=sentence) as caught:
        served(tmp_path, settings)
    assert "\n" not in str(caught.value)


def test_drawn_requests_have_the_statistics_that_are_asked_for() -> None:
    from workloads.requests import Arrivals, Lengths, Prefixes, draw

    many = draw(40_000, Arrivals("gamma", 50.0, 3.0), Lengths(512, 0.7), Lengths(128), Prefixes(8, 64), 5)
    gaps = np.diff(many.arrival_ps, prepend=0)
    assert gaps.mean() == pytest.approx(10**12 / 50, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(3.0, rel=0.05)
    assert many.prompt_tokens.mean() == pytest.approx(512 + 64, rel=0.02)
    assert many.prompt_tokens.std() == pytest.approx(512 * 0.7, rel=0.05)
    assert set(many.output_tokens.tolist()) == {128}
    assert np.bincount(many.prefix).min() > 40_000 / 8 * 0.9
    again = draw(40_000, Arrivals("gamma", 50.0, 3.0), Lengths(512, 0.7), Lengths(128), Prefixes(8, 64), 5)
    assert (again.arrival_ps == many.arrival_ps).all()
    poisson = draw(40_000, Arrivals("poisson", 50.0), Lengths(512, 0.7), Lengths(128), None, 5)
    assert (poisson.prompt_tokens == many.prompt_tokens - 64).all()  # each column has a stream of its own


def test_recorded_requests_are_served_as_they_came(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"arrival_s": 0.001, "prompt_tokens": 9, "output_tokens": 2}\n'
                                      '{"arrival_s": 0, "prompt_tokens": 5, "output_tokens": 3}\n')
    run = written(tmp_path, workload={"work": "synthetic", "generator": "balanced", "serving": {"recorded": "r.jsonl"}})
    result = moelab.run(run)
    assert result.requests.arrival_ps == (0, 10**9)
    assert result.requests.prompt_tokens == (5, 9)
    assert result.requests.emitted_tokens == (3, 2)
    assert "requests" in result.hashes
    drawn = moelab.run(run, ["workload.serving.arrivals={name: poisson, rate_per_s: 1000}"])
    assert drawn.requests.output_tokens == (2, 3)  # as listed
    assert 0 < drawn.requests.arrival_ps[0] < drawn.requests.arrival_ps[1]
    with pytest.raises(ConfigError, match="prompt_tokens is told by the recorded requests"):
        moelab.run(run, ["workload.serving.prompt_tokens=3"])


def test_the_example_of_the_docs_is_a_workload() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "serving.md").read_text(encoding="utf-8"), re.DOTALL)
    work = validate(Workload, yaml.safe_load(text), "docs/serving.md")
    assert work.serving is not None
    assert work.serving.output_tokens == Length(mean=128.0)


def test_tables_and_frames_tell_of_the_service(tmp_path: Path) -> None:
    result = served(tmp_path)
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(result.table())
    text = console.export_text()
    for word in ("queueing", "end to end", "KV peak", "pre-emptions", "goodput", "TTFT 3 ms, TPOT 1 ms"):
        assert word in text
    assert {row.figure for row in rows(result) if row.part in ("serving", "slo")} >= {"finished", "share", "ttft_share"}


@pytest.mark.parametrize("policy", ["lru", "expert_parallel", "tensor_parallel", "lru_prefetch"])
def test_buffered_tokens_are_served_alike_on_both_engines(policy: str, tmp_path: Path) -> None:
    batcher = "workload.serving.batcher={name: token_buffering, parameters: {slackness: 25}}"
    results = [served(tmp_path, [batcher], policy=policy, engine=engine) for engine in ("spec", "compiled")]
    assert results[0].digest == results[1].digest
    assert results[0].requests.emitted_tokens == (3,) * 6
    assert results[0].bound is None
    assert any("There is no lower bound" in sentence for sentence in results[0].approximations)
    plain = served(tmp_path, policy=policy)
    assert sum(phase.steps for phase in results[0].phases.values()) > sum(p.steps for p in plain.phases.values())
    runs = [sum(sum(phase.runs.values()) for phase in result.phases.values()) for result in (results[0], plain)]
    assert min(runs) > 0


ALONE = """
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from workloads.batchers.contract import Batch

@dataclass(frozen=True)
class Batcher:
    moe: int = -1
    first: int = 0
    clock: ClassVar[bool] = False

    def batch(self, queues):
        one = queues.waiting if len(queues.waiting) else queues.running
        return Batch(one.number, one.todo, resume=queues.parked.number)

    def park(self, layer):
        here = (layer.moe == self.moe) & (np.arange(layer.experts.shape[1]) >= self.first)
        return here & (layer.experts >= 0) & ~layer.back[:, None]
"""


@pytest.mark.parametrize("policy", ["resident", "expert_parallel"])
@pytest.mark.parametrize("moe", [0, 2, 5])
def test_a_step_that_is_parked_whole_takes_as_long_in_two_parts(moe: int, policy: str, tmp_path: Path) -> None:
    """Nothing else is there to overlap with: the parts of a step add up to the whole, to the picosecond."""
    (tmp_path / "alone.py").write_text(ALONE)
    alone = {"requests": 1, "prompt_tokens": 7, "output_tokens": 3}
    work = {"work": "synthetic", "generator": "balanced", "serving": alone}
    whole, parked = (served(tmp_path, [f"workload.serving.batcher={{name: alone.py, parameters: {{moe: {at}}}}}"],
                            policy=policy, workload=work) for at in (-1, moe))
    assert parked.makespan_ps == whole.makespan_ps
    assert parked.requests.last_ps == whole.requests.last_ps
    steps = [sum(phase.steps for phase in result.phases.values()) for result in (whole, parked)]
    assert steps == [3, 6]


def test_a_step_ends_when_what_parked_sequences_ran_is_back(tmp_path: Path) -> None:
    (tmp_path / "alone.py").write_text(ALONE)
    work = {"work": "synthetic", "generator": "balanced",
            "serving": {"requests": 1, "prompt_tokens": 7, "output_tokens": 1}}
    first_part = []
    for first in (0, 1):  # all pairs wait; all but each token's first
        choice = f"{{name: alone.py, parameters: {{moe: 2, first: {first}}}}}"
        result = served(tmp_path, [f"workload.serving.batcher={choice}", "limits.steps=1"], policy="expert_parallel",
                        workload=work)
        first_part.append(result.phases["prefill"].time_ps)
    assert first_part[0] < first_part[1]
