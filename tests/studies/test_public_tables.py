"""Device models over tables of measured MoE kernels: one made by hand, and the wheel's own where it is installed."""

from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks.public_tables import errors_svg
from emulation.errors import ConfigError
from studies import public_tables
from studies.moe_kernel import Calls, Kernel, expert_loads, work_of
from studies.public_tables import Group, Row, Spread, find_tables, group_errors, grouped, jump, report, table_errors

TOKENS = (1, 4, 16, 32, 128, 160, 512, 1024, 2048, 4096)
SHAPES = ((2048, 768, 8, 128), (4096, 1536, 8, 128), (4096, 2048, 8, 64), (6144, 3072, 4, 32))
GROUP = Group("h200", "vllm", "0.25.0", "triton", "bfloat16")


def table(seconds: Kernel | None = None, **more: Any) -> dict[str, Any]:
    """The columns of a table, one row a shape, number of tokens and distribution; times of a kernel, or a second."""
    rows = [(t, *shape, kind) for shape in SHAPES for kind in ("balanced", "power_law_1.2") for t in TOKENS]
    tokens, hidden, inter, top_k, experts, kinds = (list(column) for column in zip(*rows, strict=True))
    took = np.ones(len(rows))
    if seconds is not None:
        calls = Calls(*(np.array(column) for column in (tokens, hidden, inter, top_k, experts, [3] * len(rows))),
                      np.full(len(rows), 2.0), kinds, took)
        took = seconds.predict(work_of(calls))
    columns: dict[str, Any] = {
        "kernel_source": ["triton"] * len(rows), "moe_dtype": ["bfloat16"] * len(rows), "num_tokens": tokens,
        "hidden_size": hidden, "inter_size": inter, "topk": top_k, "num_experts": experts,
        "moe_tp_size": [1] * len(rows), "moe_ep_size": [1] * len(rows), "distribution": kinds, "latency": took * 1e3}
    return {name: np.array(column) for name, column in {**columns, **more}.items()}


def of(columns: dict[str, Any], most_tp: int = 1) -> dict[Group, tuple[Calls, Any]]:
    return grouped([("h200", "vllm", "0.25.0", columns)], most_tp)


# Loads


@pytest.mark.parametrize("kind", ["balanced", "power_law_1.01", "power_law_1.2"])
@pytest.mark.parametrize(("tokens", "experts", "top_k"), [(1, 8, 2), (3, 128, 8), (16, 128, 8), (100, 8, 2),
                                                          (1000, 60, 4), (77, 512, 22)])
def test_every_pair_is_dealt_and_no_expert_is_visited_twice_by_a_token(kind: str, tokens: int, experts: int,
                                                                       top_k: int) -> None:
    loads = expert_loads(tokens, experts, top_k, kind)
    assert (loads.sum(axis=1) == tokens * top_k).all()
    assert loads.min() >= 0
    assert loads.max() <= tokens
    assert loads.shape[1] == experts


def test_balanced_tokens_fill_experts_in_turn_and_a_power_law_leaves_some_idle() -> None:
    assert (expert_loads(4, 128, 8, "balanced") > 0).sum() == 32
    assert (expert_loads(16, 128, 8, "balanced") == 1).all()
    skewed = expert_loads(16, 128, 8, "power_law_1.2")
    assert 8 < (skewed > 0).sum(axis=1).mean() < 100
    assert skewed.max() > 4


def test_a_distribution_without_a_rule_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'zipf': it is balanced or power_law_EXPONENT"):
        expert_loads(4, 8, 2, "zipf")


# The models


@pytest.mark.parametrize("rule", ["grown", "default"])
def test_a_grouped_kernel_s_rows_are_fitted_and_carried_to_a_shape_that_was_left_out(rule: str) -> None:
    made = Kernel(rule, np.array([2e-5, 4e12, 5e14, 3e-9, 1.5, 0.4]), 0.0)
    [(group, (calls, shapes))] = of(table(made)).items()
    every, *each = group_errors(group, calls, shapes)
    assert group == GROUP
    assert every.rule == rule
    assert every.constants == pytest.approx(made.values, rel=0.1)
    assert every.grouped.p90 < 0.005
    assert every.grouped_carried.p90 < 0.02
    assert every.reached
    assert every.roofline.p90 > 0.2
    assert [row.shape for row in each] == sorted(f"{d}x{f} top {k} of {e}" for d, f, k, e in SHAPES)
    assert sum(row.calls for row in each) == every.calls == len(calls)


def test_a_shape_that_behaves_otherwise_is_no_part_of_what_predicts_it() -> None:
    columns = table(Kernel("", np.array([2e-5, 4e12, 5e14]), 0.0))
    columns["latency"][columns["hidden_size"] == 6144] *= 2
    [(group, (calls, shapes))] = of(columns).items()
    found = {row.shape: row for row in group_errors(group, calls, shapes)}
    assert found["6144x3072 top 4 of 32"].roofline_carried.p50 == pytest.approx(0.5, abs=0.02)
    assert found["2048x768 top 8 of 128"].roofline_carried.p50 < 0.02


def test_a_kernel_that_changes_beyond_as_many_tokens_as_experts_is_seen_to_jump() -> None:
    columns = table(Kernel("", np.array([2e-5, 4e12, 5e14]), 0.0))
    columns["latency"][(columns["hidden_size"] == 2048) & (columns["num_tokens"] > 128)] *= 1.5
    [(calls, shapes)] = of(columns).values()
    found = {shape: jump(calls, np.flatnonzero(shapes == shape)) for shape in set(shapes.tolist())}
    assert found["2048x768 top 8 of 128"] == pytest.approx(1.5, abs=0.02)
    assert found["4096x1536 top 8 of 128"] == pytest.approx(1.0, abs=0.02)


# Which rows count


def test_calls_that_are_cut_too_fine_or_hold_some_experts_only_are_left_out() -> None:
    rows = len(TOKENS) * 2
    first = np.arange(rows * len(SHAPES)) < rows
    def kept(**more: Any) -> int:
        [(calls, _)] = of(table(**more), most_tp=2).values()
        return len(calls)
    every = rows * len(SHAPES)
    assert kept() == kept(moe_tp_size=np.where(first, 2, 1)) == every
    assert kept(moe_tp_size=np.where(first, 4, 1)) == every - rows
    assert kept(moe_ep_size=np.where(first, 2, 1)) == every - rows
    assert kept(inter_size=np.where(first, 776, 768)) == every - rows
    assert kept(moe_dtype=np.where(first, "nvfp4", "bfloat16")) == every - rows


def test_a_call_measured_again_counts_once_with_its_median() -> None:
    one = table()
    thrice = {name: np.concatenate([column] * 3) for name, column in one.items()}
    thrice["latency"] = np.repeat([1e3, 5e3, 2e3], len(one["latency"]))
    [(calls, _)] = of(thrice).values()
    assert len(calls) == len(one["latency"])
    assert calls.seconds.tolist() == [2.0] * len(calls)


def test_the_version_with_most_shapes_counts_then_the_newest() -> None:
    some = {name: column[:len(TOKENS) * 6] for name, column in table().items()}
    tables = [("h200", "vllm", "0.9.0", table()), ("h200", "vllm", "0.10.0", table()),
              ("h200", "vllm", "0.11.0", some)]
    assert [group.version for group in grouped(tables, 1)] == ["0.10.0"]


def test_a_kernel_with_two_shapes_leaves_nothing_to_carry_over() -> None:
    assert of({name: column[:len(TOKENS) * 4] for name, column in table().items()}) == {}


@pytest.mark.parametrize(("framework", "told", "kernel", "matrices"), [
    ("vllm", "0.24.0", "triton", 2), ("vllm", "0.14.0", "triton", 3), ("sglang", "0.5.14", "flashinfer", 2),
    ("sglang", "0.5.14", "triton", 3), ("trtllm", "1.3.0", "flow_nongated", 2), ("trtllm", "1.3.0", "flow", 3)])
def test_experts_without_a_gate_have_two_matrices_where_they_were_measured_so(framework: str, told: str, kernel: str,
                                                                              matrices: int) -> None:
    first = np.arange(len(table()["latency"])) < len(TOKENS) * 2
    columns = table(hidden_size=np.where(first, 2688, table()["hidden_size"]),
                    inter_size=np.where(first, 1856, table()["inter_size"]),
                    kernel_source=np.full(len(first), kernel))
    [(calls, shapes)] = grouped([("h200", framework, told, columns)], 1).values()
    assert set(calls.matrices[np.char.startswith(shapes, "2688x1856")].tolist()) == {matrices}
    assert set(calls.matrices[~np.char.startswith(shapes, "2688x1856")].tolist()) == {3}


# Words


def test_a_report_has_a_line_for_each_group_or_shape() -> None:
    good, bad = Spread(0.01, 0.05, 0.3), Spread(0.08, 0.3, 1.2)
    whole = Row(GROUP, "", 80, bad, bad, good, good, None, "grown", (2e-5,), None)
    rows = [whole, replace(whole, shape="2048x768 top 8 of 128", jump=1.5),
            replace(whole, grouped_carried=Spread(0.2, 1, 1))]
    groups, by_shape = report(rows).splitlines(), report(rows, by_shape=True).splitlines()
    assert [line.rsplit(" | ", 1)[1] for line in groups[2:]] == ["yes |", "no |"]
    assert groups[2] == ("| H200 | vllm 0.25.0 `triton` | bfloat16 | 80 | 8.0 / 30 / 120 | 8.0 / 30 / 120 | "
                         "1.0 / 5 / 30 | 1.0 / 5 / 30 |  | grown | yes |")
    assert len(by_shape) == 3
    assert by_shape[2].endswith("|  | 1.50 |")
    assert {line.count("|") for line in [*groups, *by_shape]} == {groups[0].count("|")}


def test_a_picture_has_a_median_for_each_series_of_a_group() -> None:
    good, bad = Spread(0.01, 0.05, 0.3), Spread(0.08, 0.3, 1.2)
    row = Row(GROUP, "", 80, bad, bad, good, good, None, "grown", (2e-5,), None)
    picture = ElementTree.fromstring(errors_svg([row, replace(row, shape="2048x768 top 8 of 128"), row]))
    assert [element.tag.rpartition("}")[2] for element in picture].count("circle") == 2 * 3


def test_without_the_wheel_one_sentence_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"holds no aisimulate_core.*moelab\[public-tables\]"):
        find_tables(tmp_path)
    monkeypatch.setattr(public_tables, "PACKAGE", "no-such-wheel-is-installed")
    with pytest.raises(ConfigError, match=r"not installed: install moelab\[public-tables\], or name the folder"):
        table_errors()


@pytest.mark.slow
def test_the_wheel_s_tables_reach_what_the_page_says() -> None:
    try:
        version("aisimulate")
    except PackageNotFoundError:
        pytest.skip("aisimulate is not installed: its tables are the extra moelab[public-tables]")
    rows = [row for row in table_errors(gpus=("a100",), precisions=("bfloat16",)) if not row.shape]
    assert len(rows) == 3
    assert all(row.reached for row in rows)
    assert all(row.grouped.p50 < row.roofline.p50 for row in rows)
