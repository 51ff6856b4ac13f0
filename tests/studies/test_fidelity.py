"""`moelab fidelity`: errors against a reference, blind to what was measured, and clear about what is wrong with one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.main import enter
from emulation.errors import MoelabError
from studies.fidelity import COUNTS, compare_all, read_reference, summary

BLANKED = ("measured_step_s", "repeats_s", "steady", *COUNTS)


def quiet(done: int, total: int, text: str) -> None:
    assert 0 <= done < total
    assert text


def olmoe(shared: Path, folder: Path, keep: Any = bool, blank: bool = False) -> Path:
    """Rows of the recorded reference, with its traces linked beside it; blank: without all that was measured."""
    source = shared / "hardware"
    data = json.loads((source / "reference_olmoe-1b-7b.json").read_text())
    data["rows"] = [{key: value for key, value in row.items() if not (blank and key in BLANKED)}
                    for row in data["rows"] if keep(row)]
    folder.mkdir(exist_ok=True)
    for trace in {row["trace"] for row in data["rows"]}:
        (folder / trace).symlink_to(source / trace)
    path = folder / "reference.json"
    path.write_text(json.dumps(data))
    return path


def is_fast(row: dict[str, Any]) -> bool:
    return bool(row["batch"] == 1 and row["slots"] in (2, 16, 64))


def test_what_is_emulated_depends_on_nothing_measured(shared: Path, tmp_path: Path) -> None:
    with_, without = (compare_all(read_reference(olmoe(shared, tmp_path / name, is_fast, blank)), "h200-host", quiet)
                      for name, blank in (("with", False), ("without", True)))
    names = ("policy", "batch", "slots", "emulated_s", *COUNTS)
    assert [[getattr(row, name) for name in names] for row in with_] == [
        [getattr(row, name) for name in names] for row in without]
    assert all(row.counts_equal for row in with_)
    assert all(row.counts_equal is None for row in without)
    assert all(row.error is None for row in without)
    assert summary(without)["p50"] is None
    assert summary(without)["cases"] == len(without) == 6


@pytest.mark.slow
def test_small_batches_of_the_rows_it_was_fitted_on_are_met_and_every_count_is_equal(
        shared: Path, tmp_path: Path) -> None:
    whole = read_reference(olmoe(shared, tmp_path / "all"))
    few = [i for i, case in enumerate(whole.cases) if case.batch < 16]
    rows = compare_all(replace(whole, cases=tuple(whole.cases[i] for i in few),
                               measured=tuple(whole.measured[i] for i in few)), "h200-host", quiet)
    told = summary(rows)
    assert len(rows) == 20
    assert all(row.counts_equal for row in rows)
    assert told["judged"] == 14
    assert told["p50"] <= 0.05
    assert told["p90"] <= 0.12


@pytest.mark.soak
def test_the_rows_it_was_fitted_on_are_met_and_every_count_is_equal(shared: Path, tmp_path: Path) -> None:
    rows = compare_all(read_reference(olmoe(shared, tmp_path / "all")), "h200-host", quiet)
    told = summary(rows)
    assert len(rows) == 30
    assert all(row.counts_equal for row in rows)
    assert told["judged"] == 23
    assert told["p50"] <= 0.05
    assert told["p90"] <= 0.12


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """A small reference with a trace of its own, for a machine that ships."""
    rng = np.random.default_rng(5)
    ids = rng.random((8, 2, 6)).argsort(axis=-1)[..., :2].astype(np.uint16)
    rows = np.arange(8)
    np.savez(tmp_path / "t.npz", experts=ids, forecast=ids, step=rows, sequence=0 * rows, phase=np.ones(8, np.uint8))
    row = {"policy": "lru", "batch": 1, "slots": 3, "trace": "t.npz", "skip_steps": 2, "measured_step_s": 0.004}
    head = {"model": "small", "layers": 2, "d_model": 64, "d_ff": 32, "experts": 6, "top_k": 2, "heads": 2,
            "kv_heads": 1, "head_dim": 32, "dtype": "bf16", "context": 16, "host": "h200-host"}
    path = tmp_path / "reference.json"
    path.write_text(json.dumps({**head, "rows": [row, {**row, "policy": "resident", "slots": 6}]}))
    return path


def test_the_command_tells_rows_and_percentiles(reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert enter(["fidelity", str(reference), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["policy"] for row in told["rows"]] == ["lru", "resident"]
    first = told["rows"][0]
    assert first["error"] == first["emulated_s"] / first["measured_s"] - 1
    assert first["hits"] + first["misses"] == 32
    assert told["p50"] == np.median([abs(row["error"]) for row in told["rows"]])
    assert told["cases"] == told["judged"] == 2
    assert enter(["fidelity", str(reference)]) == 0
    assert "|error|: median" in capsys.readouterr().out


def test_another_machine_is_taken_where_one_is_named(reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert enter(["fidelity", str(reference), "--machine", "cpu-gpu-a6000", "--json"]) == 0
    other = json.loads(capsys.readouterr().out)["rows"][0]["emulated_s"]
    assert enter(["fidelity", str(reference), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["emulated_s"] != other


@pytest.mark.parametrize(("change", "says"), [
    (lambda d: d.pop("rows"), "rows: is missing"),
    (lambda d: d.update(rows=[]), "rows"),
    (lambda d: d.update(layers=0), "layers: 0"),
    (lambda d: d.update(host=3), "host: 3 should be text"),
    (lambda d: d.update(host="h200-hots"), "did you mean 'h200-host'"),
    (lambda d: d.update(dtype="bf61"), "bf61"),
    (lambda d: d["rows"][1].pop("policy"), r"rows\[1\]: policy: is missing"),
    (lambda d: d["rows"][0].update(policy="lur"), "did you mean 'lru'"),
    (lambda d: d["rows"][0].update(slots="many"), r"rows\[0\]: slots: 'many' should be a whole number"),
    (lambda d: d["rows"].append(3), "rows.2: 3"),
    (lambda d: d["rows"][0].update(trace="../t.npz"), "trace: "),
    (lambda d: d["rows"][0].update(trace="other.npz"), "there is no trace"),
    (lambda d: d["rows"][0].update(skip_steps=8), "skips 8 steps"),
    (lambda d: d["rows"][0].update(skip_steps=-1), "skip_steps: -1"),
    (lambda d: d.update(experts=3), "names expert 5, and small has 3"),
    (lambda d: d.update(layers=3), "3 layers"),
    (lambda d: d["rows"][0].update(measured_step_s="soon"), "measured_step_s"),
])
def test_a_wrong_reference_is_told_in_a_sentence(reference: Path, change: Any, says: str) -> None:
    data = json.loads(reference.read_text())
    change(data)
    reference.write_text(json.dumps(data))

    def emulate() -> None:
        read = read_reference(reference)
        compare_all(read, read.head.host, quiet)

    with pytest.raises(MoelabError, match=says):
        emulate()


@pytest.mark.parametrize(("arguments", "code", "says"), [
    ([], 2, "name a REFERENCE.json, or give --host"),
    (["--host", "--tables"], 2, "one thing"),
    (["--tables", "--packages", "/nowhere"], 2, "/nowhere holds no"),
    (["nothing.json"], 3, "there is no reference nothing.json"),
    (["README.md", "--host"], 2, "one thing"),
    (["README.md"], 3, "is no JSON that is read here"),
])
def test_a_wrong_command_is_told_in_a_sentence(arguments: list[str], code: int, says: str,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    assert enter(["fidelity", *arguments]) == code
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
