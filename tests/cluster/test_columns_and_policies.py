"""What a policy does to what it sees has one outcome, in columns and on the readable path."""

from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest
import yaml

import moelab
from cluster.one_run import OneRun
from emulation.errors import MoelabError
from tests.conftest import ROOT

POLICY = """
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from moelab import Plan, Start


@dataclass(frozen=True)
class Policy:
    exact: ClassVar[bool] = True

    def start(self, setting):
        units = np.array(setting.machine.units)
        rest = units[np.arange(setting.model.experts) % len(units)]
        return Start(np.tile(rest[:, None], (len(setting.model.moe_layers), 1, 1))), rest

    def plan(self, view, rest):
        plan = Plan(view.layer)
        active = view.routing.active
        experts = view.setting.model.experts
{body}
        for expert in active:
            plan.run(expert, on=rest[expert])
        return plan, rest
"""

WORK = ["model={name: olmoe-1b-7b, layers: 2}", "machine=edge-gpu-ndp", "against=[]", "workload.batch=3",
        "workload.prompt_tokens=5", "workload.output_tokens=3"]

HARMLESS = {
    "its own counts": "counts = view.routing.counts(experts); counts *= 2; counts[:] = 10**9",
    "more counts than experts": "assert len(view.routing.counts(experts + 3)) == experts + 3",
    "a routing of its own": "assert len(replace(view.routing).active) == len(active)",
    "a routing of its own, counted": "assert replace(view.routing).counts(experts).sum() == view.routing.experts.size",
    "the time": "now = view.now_ps",
    "the time, carefully": """
        try:
            now = view.now_ps
        except Exception:
            active = active[:0]""",
    "a backlog, carefully": """
        try:
            late = view.backlog_ps(0)
        except Exception:
            active = active[:0]""",
}

REFUSED = {
    "the order of experts": ("view.routing.active.sort()", "read-only"),
    "phases": ("view.step.phase[:] = 1", "read-only"),
    "positions": ("view.step.position += 1", "read-only"),
    "experts": ("view.routing.experts[:] = 0", "read-only"),
    "weights": ("view.routing.weights[:] = 0", "read-only"),
    "an exchange that there is not": ("plan.exchange = 'foo'", "unknown exchange 'foo'"),
    "a priority beyond all bounds": ("plan.load(0, to=0, priority=2**70)", "is the most there is"),
    "half a device": ("plan.extend(0, active, rest[active] + 0.5)", "a plan's device is float64: it is whole numbers"),
    "half an expert": ("plan.extend(0, active / 2, rest[active])", "a plan's expert is float64: it is whole numbers"),
}


def outcome(folder: Path, body: str, engine: str) -> str:
    file = folder / "my_policy.py"
    file.write_text(POLICY.format(body=indent(dedent(body), " " * 8)), encoding="utf-8")
    return moelab.run("mixtral_edge", [*WORK, f"policy={file}", f"engine={engine}"]).digest


@pytest.mark.parametrize("does", HARMLESS)
def test_what_changes_nothing_has_the_same_result(does: str, tmp_path: Path) -> None:
    body = HARMLESS[does]
    plain = outcome(tmp_path, "pass", "compiled")
    assert outcome(tmp_path, body, "spec") == plain
    assert outcome(tmp_path, body, "compiled") == plain


@pytest.mark.parametrize("engine", ["spec", "compiled"])
@pytest.mark.parametrize("does", REFUSED)
def test_what_is_not_its_to_change_or_to_ask_is_refused(does: str, engine: str, tmp_path: Path) -> None:
    body, told = REFUSED[does]
    with pytest.raises((MoelabError, ValueError), match=told):
        outcome(tmp_path, body, engine)


def many_homes(folder: Path, homes: int, units: int) -> list[str]:
    """Homes whose threads issue for units that have none: what asks for most operations by home and unit."""
    machine = yaml.safe_load((ROOT / "configs/hardware/h200-host.yaml").read_text(encoding="utf-8"))
    machine["devices"]["gpu"]["count"], machine["devices"]["cpu"]["count"] = homes, units
    machine["devices"]["cpu"]["memory"] = {"value": "64 GB", "source": "x", "kind": "measured"}
    machine.pop("leaves_out")
    (folder / "many.yaml").write_text(yaml.safe_dump(machine), encoding="utf-8")
    return [f"machine={folder / 'many.yaml'}", "model={name: olmoe-1b-7b, layers: 2}", "against=[]",
            "policy=expert_parallel", "workload.generator={name: zipf, skew: 0}", "workload.batch=24",
            "workload.prompt_tokens=20", "workload.output_tokens=2"]


def test_many_homes_and_units_are_timed_alike(tmp_path: Path) -> None:
    settings = many_homes(tmp_path, 3, 6)
    fast, slow = (moelab.run("mixtral_edge", [*settings, f"engine={engine}"]) for engine in ("compiled", "spec"))
    assert fast.digest == slow.digest


def test_there_is_room_for_what_most_homes_and_units_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The compiled lowering writes without looking: what it wrote is held against what was promised for it.
    from emulation.lowering import columns

    reserve, layer = columns.ColumnLowering._reserve, columns.ColumnLowering.layer
    spent: list[tuple[int, ...]] = []

    def noted(self: columns.ColumnLowering, moe: int, plan: Any, exchange: str) -> int:
        reserve(self, plan.shape[1])
        before, promised = self._out.n.copy(), self._room_for(plan.shape[1])
        decision = layer(self, moe, plan, exchange)
        wrote = self._out.n - before
        spent.append(tuple(int(wrote[i]) - most for i, most in zip(columns.COUNTED, promised, strict=True)))
        return decision

    monkeypatch.setattr(columns.ColumnLowering, "layer", noted)
    monkeypatch.setattr("actors.columnar.whole_steps", lambda _: None)  # whole steps look before each layer
    moelab.run("mixtral_edge", many_homes(tmp_path, 8, 62))
    assert len(spent) == 4
    assert max(max(each) for each in spent) <= 0


@pytest.mark.parametrize("policy", ["fiddler", "{name: gpu_ndp, parameters: {cap: 2, prefetch: running}}"])
def test_a_model_whose_first_layer_is_dense_is_timed_in_columns(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [f"policy={policy}", "model={name: deepseek-v2-lite, layers: 2}", *WORK[1:]]
    slow = moelab.run("mixtral_edge", [*settings, "engine=spec"]).digest
    monkeypatch.setattr(OneRun, "begin", lambda _: pytest.fail("it was taken up by the readable path"))
    assert moelab.run("mixtral_edge", settings).digest == slow


@pytest.mark.parametrize("machine", ["chiplet-accelerator", "chiplet-2x2"])
def test_homes_with_memory_at_the_edge_are_timed_in_columns(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-duplex channel leads to that memory, and no tokens: its lane and the copy's target tell the direction."""
    model = "fse-qwen3" if machine == "chiplet-2x2" else "qwen3-30b-a3b"
    settings = [f"machine={machine}", f"model={{name: {model}, layers: 2}}", "precision=int8", "policy=expert_parallel",
                "workload.batch=4", *WORK[1:]]
    slow = moelab.run("mixtral_edge", [*settings, "engine=spec"]).digest
    monkeypatch.setattr(OneRun, "begin", lambda _: pytest.fail("it was taken up by the readable path"))
    assert moelab.run("mixtral_edge", settings).digest == slow


PREDICTED = """
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from moelab import Plan, Served, Start


@dataclass(frozen=True)
class Policy:
    exact: ClassVar[bool] = False

    def start(self, setting):
        units = np.array(setting.machine.units)
        rest = units[np.arange(setting.model.experts) % len(units)]
        return Start(np.tile(rest[:, None], (len(setting.model.moe_layers), 1, 1))), rest

    def plan(self, view, rest):
        plan, pairs, tokens = Plan(view.layer), view.routing.pairs, len(view.step)
        fed = np.full(len(pairs.token), view.layer)
        expert, routed = pairs.expert.copy(), pairs.expert
        if len(view.early.token):
            ran = np.isin(pairs.expert * tokens + pairs.token, view.early.expert * tokens + view.early.token)
            fed[ran] = view.early.input_layer[0]
        rows = np.arange(len(fed))
{body}
        plan.served = Served(pairs.token[rows], expert[rows], pairs.weight[rows], fed[rows], routed[rows])
        for each in dict.fromkeys(expert[rows][fed[rows] == view.layer].tolist()):
            plan.run(each, on=rest[each])
        if view.forecast is not None and view.next_layer is not None:
            guess = view.forecast.pairs
            for each in guess.active.tolist()[:5]:
                plan.run(each, on=rest[each], layer=view.next_layer, tokens=guess.tokens_of(each))
{behind}
        return plan, rest
"""

SERVED = {
    "some pairs only": ("rows = rows[::2]", ""),
    "one expert for all that runs now": ("expert[fed == view.layer] = expert[-1]", ""),
    "in another order": ("rows = rows[::-1]", ""),
    "experts that ran early, again": ("fed[:] = view.layer", ""),
}
WRONG = {
    "early, and never was": ("fed[:] = view.layer - 1", "", "is said to have run early|which was not routed"),
    "one pair twice": ("rows = np.r_[rows, rows[:1]]", "", "is served twice"),
    "what is not routed": ("routed = (routed + 1) % 64", "", "which was not routed or cannot be"),
    "early twice": ("", "plan.rows += plan.rows[-1:]", "ran early twice"),
    "early for nobody": ("", "plan.run(0, on=rest[0], layer=view.next_layer or 1, tokens=[])", "for no token"),
    "early for strangers": ("", "plan.run(63, on=rest[63], layer=view.next_layer or 1, tokens=[99])", "names token 99"),
    "early on a device without it": ("", "plan.run(63, on=view.setting.machine.homes[0], layer=view.next_layer or 1, "
                                         "tokens=[0])", "which does not hold it"),
}
AHEAD = [*WORK, "model={name: olmoe-1b-7b, layers: 3}", "forecast={name: oracle, accuracy: 0.8}"]


def predicted(folder: Path, body: str, behind: str, engine: str) -> str:
    file = folder / "my_policy.py"
    file.write_text(PREDICTED.format(body=indent(body, " " * 8), behind=indent(behind, " " * 8)), encoding="utf-8")
    return moelab.run("mixtral_edge", [*AHEAD, f"policy={file}", f"engine={engine}"]).digest


@pytest.mark.parametrize("does", SERVED)
def test_a_routing_of_its_own_is_served_in_columns(does: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = predicted(tmp_path, *SERVED[does], "spec")
    monkeypatch.setattr(OneRun, "begin", lambda _: pytest.fail("it was taken up by the readable path"))
    assert predicted(tmp_path, *SERVED[does], "compiled") == slow


@pytest.mark.parametrize("does", WRONG)
def test_a_routing_that_cannot_be_served_is_refused_in_the_same_words(does: str, tmp_path: Path) -> None:
    body, behind, told = WRONG[does]
    words = []
    for engine in ("spec", "compiled"):
        with pytest.raises(MoelabError, match=told) as refused:
            predicted(tmp_path, body, behind, engine)
        words.append(str(refused.value))
    assert words[0] == words[1]


@pytest.mark.parametrize(("machine", "policy"), [
    ("cpu-gpu-a6000", "{name: daop, parameters: {first_predicted: 1}}"), ("edge-gpu-ndp", "cpu_precalc")])
def test_what_is_started_a_layer_early_is_timed_in_columns(policy: str, machine: str,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal and both bounds tell the same, too; of this model the first layer is dense."""
    settings = [*AHEAD, "model={name: deepseek-v2-lite, layers: 4}", f"machine={machine}", f"policy={policy}"]
    slow = moelab.run("mixtral_edge", [*settings, "engine=spec"])
    assert slow.phases["decode"].substituted > 0
    monkeypatch.setattr(OneRun, "begin", lambda _: pytest.fail("it was taken up by the readable path"))
    assert moelab.run("mixtral_edge", settings).digest == slow.digest
