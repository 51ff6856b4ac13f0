"""What the README shows works as it is shown."""

import re
import shlex
from pathlib import Path

import pytest

import moelab
from cluster.config.names import names
from emulation.errors import PlanError
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = ["transport=local", "against=[]", "workload.requests=1", "workload.output_tokens=2"]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The README's policy, in a file of the reader's own."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    file = tmp_path / "my_policy.py"
    file.write_text(code, encoding="utf-8")
    return file


def test_its_policy_runs_and_its_parameter_counts(own: Path) -> None:
    first = moelab.run("demo", [*SMALL, f"policy={own}"])
    moved = moelab.run("demo", [*SMALL, f"policy={{name: {own}, parameters: {{first: 1}}}}"])
    assert first.exact
    assert first.digest != moved.digest
    assert sum(link.total_bytes for link in first.traffic) > 0


def test_a_policy_that_forgets_an_expert_is_refused_with_the_reason(own: Path) -> None:
    own.write_text(own.read_text().replace("in view.routing.active:", "in view.routing.active[1:]:"))
    with pytest.raises(PlanError, match="is unserved"):
        moelab.run("demo", [*SMALL, f"policy={own}"])


def test_its_runs_are_there_and_so_are_its_files() -> None:
    lines = [line for line in README.splitlines() if line.startswith("moelab ")]
    asked = [shlex.split(line.partition("#")[0]) for line in lines]
    runs = {words[2] for words in asked if words[1] in ("run", "check", "compare")}
    runs |= {words[3] for words in asked if words[1:3] == ["trace", "record"]}
    assert runs <= set(names("run"))
    assert len(runs) >= 3
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / link).is_file(), link
    for path in re.findall(r"`((?:configs|schedulers|tests)/[\w./-]+)`", README):
        assert (ROOT / path).exists(), path
