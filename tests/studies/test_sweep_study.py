"""Studies: which points they are, what tells two points apart, and what is no study."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.config.names import CONFIGS, names
from emulation.errors import ConfigError
from studies.sweep_study import Study, columns, load_study
from tests.studies.small import GRID, RUN, written


def keys(folder: Path, **more: Any) -> list[str]:
    return [point.key for point in load_study(written(folder, **more)).expand()]


@pytest.mark.parametrize("name", names("study"))
def test_studies_that_ship_are_sound(name: str) -> None:
    study = load_study(name)
    assert study.title
    assert 3 <= len(study.expand()) <= 60


def test_a_grid_is_every_combination_in_the_order_of_the_file(tmp_path: Path) -> None:
    points = load_study(written(tmp_path)).expand()
    assert [(p.at["seed"], p.at["workload.batch"]) for p in points] == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)]
    assert all((p.config.seed, p.config.workload.batch) == (p.at["seed"], p.at["workload.batch"]) for p in points)
    assert len({p.key for p in points}) == 6


def test_listed_points_are_taken_with_every_combination_of_a_grid(tmp_path: Path) -> None:
    study = load_study(written(
        tmp_path, points=[{"policy": "lru", "policy.parameters.slots": 8}, {"policy": "resident"}],
        grid={"seed": [1, 2]}, set={"precision": "int8"}))
    points = study.expand()
    assert [(p.config.policy.name, dict(p.config.policy.parameters), p.config.seed) for p in points] == [
        ("lru", {"slots": 8}, 1), ("lru", {"slots": 8}, 2), ("resident", {}, 1), ("resident", {}, 2)]
    assert {p.config.precision for p in points} == {"int8"}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_grid_has_as_many_points_as_combinations_whatever_the_order_of_its_axes(
        data: st.DataObject, tmp_path: Path) -> None:
    axes = {"seed": st.integers(0, 99), "workload.batch": st.integers(1, 9),
            "limits.steps": st.integers(1, 9), "precision": st.sampled_from(["bf16", "int8"]),
            "machine.options.units": st.integers(2, 4)}
    picked = data.draw(st.lists(st.sampled_from(sorted(axes)), min_size=1, max_size=3, unique=True))
    grid = {path: data.draw(st.lists(axes[path], min_size=1, max_size=3, unique=True)) for path in picked}
    first = keys(tmp_path, grid=grid)
    other = keys(tmp_path, grid={path: grid[path][::-1] for path in reversed(picked)})
    assert len(first) == len(set(first)) == math.prod(map(len, grid.values()))
    assert sorted(first) == sorted(other)


def test_the_same_run_is_one_point_however_it_is_written(tmp_path: Path) -> None:
    same = [{"policy": "lru"}, {"policy": {"name": "lru"}}, {"policy.name": "lru", "seed": 0},
            {"workload": RUN["workload"], "policy": "lru"}]
    assert len(keys(tmp_path, points=same)) == 1


def test_how_a_run_is_carried_out_is_not_what_it_is(tmp_path: Path) -> None:
    other = {**RUN, "engine": "compiled", "transport": "ray", "against": ["lru"], "out": "elsewhere"}
    assert keys(tmp_path) == keys(tmp_path, run=other)
    assert load_study(written(tmp_path, run=other)).expand()[0].config.transport == "local"


def test_a_point_changes_with_the_files_that_it_names(tmp_path: Path) -> None:
    machine = tmp_path / "my.yaml"
    machine.write_text((CONFIGS / "hardware" / "template.yaml").read_text())
    before = keys(tmp_path, set={"machine": "./my.yaml"})
    assert keys(tmp_path, set={"machine": "./my.yaml"}) == before
    machine.write_text(machine.read_text() + "# another\n")
    after = keys(tmp_path, set={"machine": "./my.yaml"})
    assert not set(before) & set(after)


def test_paths_in_a_study_are_relative_to_it_and_workloads_are_read_by_name(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text((CONFIGS / "hardware" / "template.yaml").read_text())
    study = written(tmp_path, run="mixtral_edge", grid={"machine": ["./my.yaml"], "workload": ["chat_512"],
                                                       "workload.batch": [3]})
    (point,) = load_study(study).expand()
    assert Path(point.config.machine.name) == tmp_path / "my.yaml"
    assert (point.config.workload.output_tokens, point.config.workload.batch) == (512, 3)


def test_served_points_change_with_their_requests_and_longer_ones_come_first(tmp_path: Path) -> None:
    requests = tmp_path / "asked.jsonl"
    requests.write_text('{"arrival_s": 0.0, "prompt_tokens": 2, "output_tokens": 2}\n')
    served = {"workload": {"work": "synthetic", "generator": "balanced", "serving": {"recorded": "asked.jsonl"}}}
    before = keys(tmp_path, set=served, grid={"seed": [1]})
    requests.write_text(requests.read_text() * 2)
    assert keys(tmp_path, set=served, grid={"seed": [1]}) != before
    drawn = {"requests": 4, "prompt_tokens": 4, "output_tokens": 4}
    grid = {"workload.serving.requests": [4, 8], "workload.serving.output_tokens": [4, {"mean": 9, "cv": 0.5}]}
    study = written(tmp_path, set={"workload": {**served["workload"], "serving": drawn}}, grid=grid)
    works = [point.work for point in load_study(study).expand()]
    assert (works[0], works[3]) == (min(works), max(works))
    assert len(set(works)) == 4


def test_columns_are_flat() -> None:
    given_ = {"policy": {"name": "lru", "parameters": {"slots": 8}}, "seed": 1, "workload.texts": ["a", "b"]}
    assert columns(given_) == {
        "policy": "lru", "policy.parameters.slots": 8, "seed": 1, "workload.texts": '["a", "b"]'}


@pytest.mark.parametrize(("more", "said"), [
    ({"grid": {}}, r"needs a grid \(path: \[values\]\) or points"),
    ({"grid": {"seed": []}}, r"grid\.seed is \[\] and should be a list of values, one at least"),
    ({"grid": {"seed": 3}}, r"grid\.seed is 3 and should be a list"),
    ({"grid": {"sede": [3]}}, r"sede=3: unknown setting 'sede'; did you mean 'seed'\?"),
    ({"grid": {"seed.x": [3]}}, r"there is nothing below 'seed'"),
    ({"grid": {"seed": ["a"]}}, r"seed=a: seed: 'a' should be a whole number"),
    ({"grid": {"seed": [-1]}}, r"seed=-1: seed: -1: input should be greater than or equal to 0"),
    ({"grid": {"machine": ["h20"]}}, r"machine=h20: unknown machine 'h20'"),
    ({"grid": {"model": ["mixtral"]}}, r"unknown model 'mixtral'; did you mean 'mixtral-8x7b'"),
    ({"grid": {"policy": ["lruu"]}}, r"unknown policy 'lruu'; did you mean 'lru'"),
    ({"grid": {"transport": ["ray"]}}, r"grid\.transport: transport says how a run is carried out"),
    ({"grid": {"seed": list(range(200)), "workload.batch": list(range(1, 200))}}, r"39800 points and the limit is"),
    ({"points": [{"seed": 1}], "grid": {"seed": [2]}}, r"points\.seed is in the grid too"),
    ({"most": "a", "least": "b"}, r"most and least are both given"),
    ({"gird": GRID}, r"unknown key 'gird'; did you mean 'grid'"),
    ({"run": "dmeo"}, r"did you mean 'demo'"),
    ({"set": {"workload": "chat"}}, r"unknown workload 'chat'"),
])
def test_what_is_no_study_is_one_sentence(more: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        load_study(written(tmp_path, **more)).expand()
    assert "\n" not in str(caught.value)


def test_a_study_is_frozen_and_has_its_files_name(tmp_path: Path) -> None:
    study = load_study(written(tmp_path))
    assert isinstance(study, Study)
    assert study.name == "mine"
