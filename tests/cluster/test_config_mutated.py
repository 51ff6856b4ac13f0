"""Whatever a config is turned into, what comes of it is a run or one sentence, never a traceback."""

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.build import build_machine
from cluster.config.hardware import Hardware
from cluster.config.load import parse_yaml, read_yaml, validate
from cluster.config.names import CONFIGS
from cluster.config.overrides import override
from cluster.config.precision import Precision
from cluster.config.run import RunConfig
from cluster.resolve import resolve
from emulation.errors import MoelabError

MACHINES = [read_yaml(CONFIGS / "hardware" / f"{name}.yaml")
            for name in ("template", "edge-gpu-ndp", "chiplet-2x2", "h200-host")]
RUNS = [read_yaml(CONFIGS / "run" / f"{name}.yaml") for name in ("qwen3_cxl", "olmoe_h200")]
PRECISIONS = [read_yaml(CONFIGS / "precision" / f"{name}.yaml") for name in ("int4", "fp8")]

ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(), st.text(max_size=8), st.just([]),
    st.just({}), st.lists(st.integers(), max_size=3), st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
    st.sampled_from(["gpu", "units", "bf16", "assumed", "1 GB", "0 GB/s", "1e400 s", "1e-400 GB/s", "mesh", "corners",
                     "all", "pairs", "chiplet", "ddr", "ndp", "cpu", "../x", "a:b", "~", "\0", "./\0", "x" * 300]))


def places(data: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    rows = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in rows:
        found += places(value, (*path, key))
    return found


@st.composite
def mutated(draw: st.DrawFn, originals: list[dict[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = copy.deepcopy(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 3))):
        where = places(data)
        if not where:
            break
        *way, last = draw(st.sampled_from(where))
        place: Any = data
        for key in way:
            place = place[key]
        action = draw(st.sampled_from(["put", "drop", "move", "swap"]))
        if action == "put":
            place[last] = draw(ODD)
        elif action == "drop":
            del place[last]
        elif action == "move" and isinstance(place, dict):
            place[draw(st.text(max_size=5))] = place.pop(last)
        else:
            other: Any = data
            for key in draw(st.sampled_from(where)):
                other = other[key]
            place[last] = copy.deepcopy(other)
    return data


def said(error: MoelabError) -> None:
    text = str(error)
    assert text
    assert "Traceback" not in text
    assert "pydantic" not in text


@settings(max_examples=300, deadline=None)
@given(mutated(MACHINES), st.sampled_from(["bf16", "int8", "fp8"]))
def test_a_mutated_machine_is_built_or_refused(data: dict[str, Any], dtype: Any) -> None:
    try:
        hardware = validate(Hardware, data, "file")
        machine = build_machine(hardware, {}, dtype, "m")
        for store in machine.stores:
            assert machine.transfer(store, machine.homes[0], 1 << 20).length_ps >= 0
    except MoelabError as error:
        said(error)


@settings(max_examples=200, deadline=None)
@given(mutated(RUNS))
def test_a_mutated_run_resolves_or_is_refused(data: dict[str, Any]) -> None:
    try:
        resolve(validate(RunConfig, data, "file"))
    except MoelabError as error:
        said(error)


@settings(max_examples=150, deadline=None)
@given(mutated(PRECISIONS))
def test_a_mutated_precision_is_read_or_refused(data: dict[str, Any]) -> None:
    try:
        assert validate(Precision, data, "file").expert_weights.bytes_each > 0
    except MoelabError as error:
        said(error)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=30), st.builds(
    lambda keys, value: f"{'.'.join(keys)}={value}",
    st.lists(st.sampled_from(["machine", "options", "constants", "policy", "parameters", "slots", "against", "0",
                              "workload", "texts", "generator", "timeline", "last_s", "seed", ""]), max_size=4),
    st.one_of(st.text(max_size=8), st.sampled_from(["1", "[a, b]", "{a: 1}", "null", "&a 1", "*a", "? :"])))),
    max_size=3))
def test_any_setting_is_applied_or_refused(chosen: list[str]) -> None:
    try:
        resolve(validate(RunConfig, override(RunConfig, RUNS[0], chosen), "file"))
    except MoelabError as error:
        said(error)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab:[]{}-,&*!? \n\t'\"#|>%@`0.\0é", max_size=40))
def test_any_text_is_yaml_or_refused(text: str) -> None:
    try:
        assert isinstance(parse_yaml(text, "file"), dict)
    except MoelabError as error:
        said(error)
