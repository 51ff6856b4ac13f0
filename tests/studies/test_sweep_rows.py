"""Rows of a sweep: whole lines that stay, torn ones that go, one writer at a time."""

import json
import resource
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emulation.errors import InputError, MoelabError
from studies.sweep_rows import RowFile, _column, coordinates, read_rows, write_parquet
from studies.sweep_table import best, short, varying

ROWS: list[dict[str, Any]] = [{"point": name, "status": "ok", "time_s": i / 3, "text": "é" * i}
                              for i, name in enumerate("abcd")]


def filled(path: Path) -> bytes:
    path.unlink(missing_ok=True)
    with RowFile(path) as file:
        for row in ROWS:
            file.append(row)
    return path.read_bytes()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 400), tail=st.sampled_from([b"", b"\0\0\0", b'{"point": 3}\n', b"{\n"]))
def test_a_file_cut_anywhere_goes_on_from_its_last_whole_row(cut: int, tail: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    whole = filled(path)
    path.write_bytes(whole[:cut] + tail)
    kept = whole[:cut].count(b"\n")
    with RowFile(path) as file:
        assert list(file.rows.values()) == ROWS[:kept]
        assert file.torn_bytes == len(whole[:cut] + tail) - len(b"".join(whole.splitlines(True)[:kept]))
        for row in ROWS[kept:]:
            file.append(row)
    assert path.read_bytes() == whole


def test_a_line_in_the_middle_that_is_no_row_is_refused_and_nothing_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    whole = filled(path).splitlines(keepends=True)
    path.write_bytes(b"".join([whole[0], b"not a row\n", *whole[1:]]))
    before = path.read_bytes()
    with pytest.raises(InputError, match="line 2 is no row of a sweep"), RowFile(path):
        raise AssertionError("it opened")
    assert path.read_bytes() == before
    with RowFile(tmp_path / "other.jsonl"):
        pass  # the refused file is not held open either


def test_a_second_writer_is_refused_while_the_first_one_writes(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with RowFile(path) as file:
        file.append(ROWS[0])
        with pytest.raises(MoelabError, match="another sweep is writing into"), RowFile(path):
            raise AssertionError("it opened")
        assert read_rows(path) == ROWS[:1]  # reading is free
    with RowFile(path) as file:
        assert list(file.rows) == ["a"]


def test_the_last_row_of_a_point_counts(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    again = {"point": "a", "status": "failed", "error": "x", "error_kind": "y"}
    filled(path)
    with RowFile(path) as file:
        file.append(again)
    assert read_rows(path) == [again, *ROWS[1:]]


def test_a_full_disk_leaves_whole_rows_and_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    filled(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = path.read_bytes()
    with RowFile(path) as file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, hard))
        try:
            with pytest.raises(MoelabError, match="File too large; its 4 points are kept: free some space") as caught:
                file.append({"point": "e", "status": "ok", "text": "x" * 100})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "rows.jsonl"
    with pytest.raises(MoelabError, match=r"cannot write .*file/rows\.jsonl"), RowFile(path):
        raise AssertionError("it opened")


def test_the_best_come_first_and_what_has_no_number_last() -> None:
    rows = [{"point": p, "status": s, "x": x} for p, s, x in
            (("a", "ok", 1.0), ("b", "ok", None), ("c", "failed", 9.0), ("d", "ok", 3.0), ("e", "ok", 1.0))]
    assert [row["point"] for row in best(rows, most="x")] == ["d", "a", "e", "b"]
    assert [row["point"] for row in best(rows, least="x")] == ["a", "e", "d", "b"]
    with pytest.raises(MoelabError, match="no point has a number in 'y'"):
        best(rows, most="y")


def test_coordinates_are_the_columns_of_a_runs_settings() -> None:
    rows = [{"point": "a", "status": "ok", "seed": 1, "policy": "lru", "policy.parameters.slots": 8, "makespan_s": 1.0},
            {"point": "b", "status": "ok", "seed": 2, "policy": "lru", "makespan_s": 2.0}]
    assert coordinates(rows[0]) == {"seed": 1, "policy": "lru", "policy.parameters.slots": 8}
    assert varying(rows) == ["seed", "policy.parameters.slots"]


def test_heads_are_as_short_as_tells_them_apart() -> None:
    assert short(["policy", "policy.parameters.slots", "workload.batch"]) == ["policy", "slots", "batch"]
    assert short(["a.name", "b.name", "name"]) == ["a.name", "b.name", "name"]


def test_a_column_of_mixed_kinds_is_text() -> None:
    rows = [{"a": 1, "b": 1, "c": True}, {"a": "x", "b": 0.5}]
    assert [_column(rows, name) for name in "abc"] == [["1", "x"], [1.0, 0.5], [True, None]]


def test_parquet_has_every_column(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="no pyarrow")
    write_parquet(ROWS, tmp_path / "rows.parquet")
    assert parquet.read_table(tmp_path / "rows.parquet").to_pylist() == ROWS


def test_rows_are_plain_json_lines(tmp_path: Path) -> None:
    filled(tmp_path / "rows.jsonl")
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == ROWS
