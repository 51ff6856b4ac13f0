"""The matrix: every policy that ships is in it, and each point is shown as a number or with its reason."""

from cluster.config.names import names
from schedulers.registry import policy_names
from studies.matrix import cells, kind_of, markdown, number, study
from studies.matrix_picture import colour, picture

ROWS = [
    {"policy": "lru", "machine": "a", "model": "m", "status": "ok", "bound.times": 1.5},
    {"policy": "cpu_precalc", "machine": "a", "model": "m", "status": "ok", "bound.times": 12.0},
    {"policy": "lru", "machine": "b", "model": "m", "status": "failed", "error_kind": "ConfigError",
     "error": "lru keeps experts on one home, and machine 'b' has 4"},
    {"policy": "cpu_precalc", "machine": "b", "model": "m", "status": "failed", "error_kind": "ValueError",
     "error": "ValueError at some.py line 3: no"}]


def test_every_policy_on_every_machine_is_a_point() -> None:
    points = study().expand()
    machines = [name for name in names("hardware") if name != "template"]
    assert {point.config.policy.name for point in points} == set(policy_names())
    assert len(points) == len(policy_names()) * len(machines) * 3
    lru = next(p.config for p in points if p.config.policy.name == "lru" and p.config.model.name == "qwen3-30b-a3b")
    assert lru.policy.parameters == {"slots": 16}
    assert len(study(["lru"], ["h200-host"]).expand()) == 3


def test_a_cell_is_a_number_a_reason_or_a_fault() -> None:
    found = cells(ROWS)
    assert [(c.times, c.exact, c.fault) for c in found] == [
        (1.5, True, False), (12.0, False, False), (None, True, False), (None, False, True)]
    text = markdown(found, "All", "moelab matrix")
    assert "| `lru` | **1.50** | _a_ |" in text
    assert "| `cpu_precalc` | 12.0\\* | _b_ |" in text
    assert "| a | 1 | lru on b, m: lru keeps experts on one home, and machine 'b' has 4 |" in text
    assert "2 of 4 points ran" in text
    drawn = picture(found)
    assert drawn.count("<rect") == 4
    assert drawn == picture(cells(ROWS))


def test_reasons_of_one_kind_are_one() -> None:
    assert kind_of("'gpu' has room for 12.3 GB, and holds 4 GB") == kind_of("'cpu' has room for 7 kB, and holds 1.2 MB")
    assert [number(times) for times in (1.234, 12.34, 123.4)] == ["1.23", "12.3", "123"]
    assert [colour(times) for times in (0.5, 1.0, 10.0, 1e3)] == ["#228b5e", "#228b5e", "#f7ecad", "#be3232"]
