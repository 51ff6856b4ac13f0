"""A model that answers, timed in columns: the results of the readable scheduler, which takes over what is not plain."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

import moelab
from cluster.config.reading import load_run
from cluster.one_run import OneRun
from cluster.resolve import resolve
from cluster.session import Silent
from cluster.transports.local import LocalTransport
from emulation.errors import PlanError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")

TEXTS = ["It was", "def read_lines(path):\n    ", "a"]
CHANGES = '''
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from emulation.plan import Served
from schedulers.expert_parallel import Policy as Whole


@dataclass(frozen=True)
class Policy(Whole):
    """Plain for two steps; then as `what` says."""

    what: str = "sets"
    exact: ClassVar[bool] = True

    def plan(self, view, state):
        plan, state = super().plan(view, state)
        if view.step.number == 2 and view.moe == 4:
            rows, plan.rows = plan.rows, []
            if self.what == "forgets":
                rows = rows[1:]
            if self.what == "serves":
                pairs = view.routing.pairs
                half = slice(None, None, 2)
                plan.served = Served(pairs.token[half], pairs.expert[half], pairs.weight[half],
                                     np.full(len(pairs.token[half]), view.layer), pairs.expert[half])
            for row in rows:
                named = view.routing.pairs.tokens_of(row.expert) if self.what == "sets" else None
                plan.run(row.expert, on=row.device, tokens=named)
        return plan, state
'''


def config(folder: Path, engine: str, **more: Any) -> Path:
    path = folder / f"{engine}.yaml"
    path.write_text(yaml.safe_dump({
        "machine": "edge-gpu-ndp", "model": "embedded", "engine": engine, "limits": {"steps": 6},
        "workload": {"work": "execute", "texts": TEXTS, "batch": 2, "output_tokens": 4}, **more}))
    return path


def carried_out(path: Path) -> tuple[OneRun, moelab.Result]:
    setup = resolve(load_run(str(path), []))
    one = OneRun(setup, setup.policies[0], LocalTransport(), Silent())
    return one, one.execute()


@pytest.mark.parametrize(("machine", "policy", "more"), [
    ("edge-gpu-ndp", {"name": "tensor_parallel"}, {}),
    ("edge-gpu-ndp", {"name": "lru_prefetch", "parameters": {"slots": 3}}, {"forecast": "next_gate"}),
    ("cpu-gpu-a6000", {"name": "lru", "parameters": {"slots": 4}}, {})])
def test_answers_in_columns_give_the_result_of_the_readable_scheduler(
        machine: str, policy: dict[str, Any], more: dict[str, Any], tmp_path: Path) -> None:
    from actors.columnar_live import LiveColumnScheduler

    fast, slow = (carried_out(config(tmp_path, engine, machine=machine, policy=policy, **more))
                  for engine in ("compiled", "spec"))
    assert isinstance(fast[0].scheduler, LiveColumnScheduler)
    assert not isinstance(slow[0].scheduler, LiveColumnScheduler)
    assert fast[1].digest == slow[1].digest


def test_a_run_whose_plans_are_plain_no_more_is_begun_again(tmp_path: Path) -> None:
    from actors.columnar_live import LiveColumnScheduler

    (tmp_path / "mine.py").write_text(CHANGES)
    fast, slow = (carried_out(config(tmp_path, engine, policy="mine.py")) for engine in ("compiled", "spec"))
    assert not isinstance(fast[0].scheduler, LiveColumnScheduler)
    assert fast[1].digest == slow[1].digest
    assert fast[1].text == slow[1].text


def test_a_policy_that_says_to_be_exact_and_serves_otherwise_meets_the_readable_scheduler(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CHANGES)
    words = []
    for engine in ("compiled", "spec"):
        with pytest.raises(PlanError) as refused:
            carried_out(config(tmp_path, engine, policy={"name": "mine.py", "parameters": {"what": "serves"}}))
        words.append(str(refused.value))
    assert words[0] == words[1]


def test_what_is_wrong_with_a_plan_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CHANGES)
    path = config(tmp_path, "compiled", policy={"name": "mine.py", "parameters": {"what": "forgets"}})
    with pytest.raises(PlanError, match=r"layer 4: token \d+ with expert \d+ is unserved"):
        moelab.run(path)
