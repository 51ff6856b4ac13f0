"""Policies by name, by module and class, and by the path of a file; and what is said when that fails."""

import sys
from pathlib import Path

import pytest

from emulation.errors import ConfigError
from schedulers.registry import load_policy, policy_class, policy_names

OUTSIDE = '''
"""A policy from outside."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, Optional

import numpy as np

from emulation.ledger import Start
from emulation.plan import Plan
from emulation.view import Setting, View


@dataclass(frozen=True)
class Policy:
    depth: int
    share: float = 0.5
    eager: bool = False
    name: str = "x"
    mode: Literal["a", "b"] = "a"
    least: int | None = None
    most: Optional[int] = None
    table: dict = field(default_factory=dict)
    exact: ClassVar[bool] = True

    def start(self, setting: Setting) -> tuple[Start, object]:
        return Start(np.zeros((1, 1, 1), np.int64)), None

    def plan(self, view: View, state: object) -> tuple[Plan, object]:
        return Plan(view.layer), state
'''


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(OUTSIDE)
    return file


def test_names_are_the_files_that_hold_policies() -> None:
    names = policy_names()
    assert set(names) >= set("cpu_precalc cpu_static expert_parallel lru lru_prefetch on_demand resident "
                             "tensor_parallel".split())
    assert not {"__init__", "_places", "contract", "registry"} & set(names)


@pytest.mark.parametrize("name", policy_names())
def test_every_policy_loads_by_name_and_has_a_default_for_each_parameter(name: str) -> None:
    policy = load_policy(name, {})
    assert type(policy) is policy_class(name)
    assert load_policy(f"schedulers.{name}:Policy", {}) == policy


def test_listing_imports_nothing() -> None:
    before = set(sys.modules)
    policy_names()
    assert set(sys.modules) == before


def test_parameters_are_set_by_name() -> None:
    assert load_policy("lru", {"slots": 3}) == policy_class("lru")(slots=3)


def test_a_file_outside_the_repository_is_a_policy(outside: Path) -> None:
    policy = load_policy(str(outside), {"depth": 2, "share": 1, "mode": "b", "least": 4, "most": 5})
    assert (policy.depth, policy.share, policy.mode, policy.least, policy.most) == (2, 1, "b", 4, 5)  # type: ignore[attr-defined]


def test_two_files_of_one_name_are_two_policies(outside: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "mine.py"
    other.write_text(OUTSIDE.replace("depth: int", "depth: int = 9"))
    assert load_policy(str(other), {}).depth == 9  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"depth has no default and must be given; it is a whole number$"):
        load_policy(str(outside), {})
    assert policy_class(str(other)).__module__ != policy_class(str(outside)).__module__


def test_a_package_outside_the_repository_holds_policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "elsewhere"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "mod.py").write_text(OUTSIDE.replace("class Policy", "class Mine"))
    monkeypatch.syspath_prepend(tmp_path)
    assert load_policy("elsewhere.mod:Mine", {"depth": 1}).depth == 1  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"unknown class in elsewhere.mod 'Mina'; did you mean 'Mine'\?"):
        load_policy("elsewhere.mod:Mina", {})
    says = r"^policy 'elsewhere.nod:Mine': there is no module 'elsewhere.nod' on the path$"
    with pytest.raises(ConfigError, match=says):
        load_policy("elsewhere.nod:Mine", {})


def test_what_a_policy_itself_cannot_import_is_told_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lacking.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        load_policy("lacking:Policy", {})


def test_a_class_that_is_no_dataclass_is_told_apart_from_one_that_lacks_a_method(outside: Path) -> None:
    outside.write_text(OUTSIDE.replace("@dataclass(frozen=True)", ""))
    with pytest.raises(ConfigError, match=r"class Policy is no dataclass: a policy is a frozen dataclass"):
        policy_class(str(outside))


@pytest.mark.parametrize(("name", "parameters", "says"), [
    ("lru_prefech", {}, r"unknown policy 'lru_prefech'; did you mean 'lru_prefetch'\?"),
    ("lru_prefech", {}, r"; one of your own is written module:Class or as the path of its \.py file$"),
    ("fractions:Fraction", {}, r"class Fraction lacks start, plan, exact: a policy is a frozen dataclass with start, "
                               r"plan and exact \(see schedulers/contract\.py\)$"),
    ("contract", {}, "unknown policy 'contract'"),
    ("_places", {}, "unknown policy '_places'"),
    ("nowhere/mine.py", {}, "^policy 'nowhere/mine.py': there is no such file$"),
    ("lru", {"slot": 3}, r"policy lru: unknown parameter 'slot'; did you mean 'slots'\?"),
    ("lru", {"exact": False}, "policy lru: unknown parameter 'exact'"),
    ("lru", {"slots": "3"}, "policy lru: parameter slots is '3'; it is a whole number"),
    ("lru", {"slots": True}, "policy lru: parameter slots is True; it is a whole number"),
    ("lru", {"slots": 1.5}, "policy lru: parameter slots is 1.5; it is a whole number"),
    ("lru", {"slots": 0}, "lru: slots is 0; it is at least 1"),
    ("expert_parallel", {"placement": "robin"}, "placement is 'robin'; it is one of 'contiguous', 'round_robin'"),
    ("emulation.plan:Ints", {}, "unknown class in emulation.plan 'Ints'"),
    ("emulation.plan:Plan", {}, "class Plan lacks start, plan, exact"),
])
def test_mistakes_are_told_in_one_sentence(name: str, parameters: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as told:
        load_policy(name, parameters)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(("key", "value", "says"), [
    ("share", "half", "parameter share is 'half'; it is a number"),
    ("share", True, "parameter share is True; it is a number"),
    ("eager", 1, "parameter eager is 1; it is true or false"),
    ("name", 5, "parameter name is 5; it is a text"),
    ("mode", "c", "parameter mode is 'c'; it is one of 'a', 'b'"),
    ("least", "none", r"parameter least is 'none'; it is of type int \| None$"),
    ("most", "none", "parameter most is 'none'"),
    ("table", 5, "parameter table is 5; it is of type dict$"),
])
def test_each_type_is_checked(outside: Path, key: str, value: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_policy(str(outside), {"depth": 1, key: value})


@pytest.mark.parametrize("name", [".:Policy", ":Policy", "..x:Policy", "a b:Policy", "1:Policy"])
def test_a_module_that_cannot_be_named_is_told(name: str) -> None:
    with pytest.raises(ConfigError, match="is no name of a module: write it"):
        policy_class(name)
