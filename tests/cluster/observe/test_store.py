"""Results and rows in stores that fsspec reaches: whole objects, the marker last, sentences for what cannot be."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cluster.main import enter
from cluster.observe.files import check_writable, write_whole
from cluster.observe.result import Result
from cluster.observe.store import Store, folder_of
from emulation.errors import ConfigError, MoelabError
from studies.sweep import Options, sweep
from studies.sweep_objects import read_objects
from studies.sweep_study import load_study
from tests.conftest import ROOT
from tests.studies.small import RUN, told, written


@pytest.fixture
def run(tmp_path: Path) -> str:
    """A run of milliseconds, by path."""
    (tmp_path / "tiny.yaml").write_text(json.dumps({**RUN, "engine": "compiled"}), encoding="utf-8")
    return str(tmp_path / "tiny.yaml")


class Flat(MemoryFileSystem):
    """A store as S3 is: no folders, no rename; it notes what is done to it, and fails where it is told to."""

    protocol = "flat"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    root_marker = ""
    cachable = False
    notes: ClassVar[list[str]] = []
    fails_at = "nowhere"

    def put_file(self, lpath: str, rpath: str, **more: Any) -> None:
        if self.fails_at in rpath:
            raise OSError("the bucket is full")
        self.notes.append(f"put {rpath.rpartition('/')[2]}")
        super().put_file(lpath, rpath, **more)

    def rm_file(self, path: str) -> None:
        self.notes.append(f"remove {path.rpartition('/')[2]}")
        super().rm_file(path)

    def mv(self, *_: Any, **__: Any) -> None:
        raise AssertionError("an object store has no rename")


@pytest.fixture(autouse=True)
def _empty() -> None:
    fsspec.register_implementation("flat", Flat, clobber=True)
    Flat.store.clear()
    Flat.notes.clear()
    Flat.fails_at = "nowhere"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def test_a_run_writes_whole_objects_and_its_result_last(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert enter(["run", run, "--out", "flat://bucket/x"]) == 0, capsys.readouterr().err
    files = ["put timeline.perfetto-trace", "put layers.json", "put report.html", "put result.json"]
    assert Flat.notes == ["put .probe", "remove .probe", *files]
    first = Result.read("flat://bucket/x")
    Flat.notes.clear()
    assert enter(["run", run, "--out", "flat://bucket/x", "--set", "seed=5"]) == 0
    assert Flat.notes[2:] == ["remove result.json", *files]
    assert Result.read("flat://bucket/x").digest != first.digest
    said = capsys.readouterr().out
    assert f"replaced: an earlier result of other digest, {first.digest[:16]}, in flat://bucket/x/" in said
    assert "files: flat://bucket/x/" in said


def test_where_the_last_object_lies_the_others_lie_too() -> None:
    store = folder_of("flat://bucket/y")
    assert isinstance(store, Store)
    write_whole(store, {"a": lambda file: file.write(b"1"), "last": lambda file: file.write(b"1")})
    Flat.fails_at = "/a"
    with pytest.raises(MoelabError, match=r"^cannot write flat://bucket/y/a: the bucket is full; free some space"):
        write_whole(store, {"a": lambda file: file.write(b"2"), "last": lambda file: file.write(b"2")})
    assert (store.read("a"), store.read("last")) == (b"1", None)


def test_in_a_tree_of_folders_an_object_gets_its_name_when_it_is_whole() -> None:
    store = folder_of("memory://place/z")
    assert isinstance(store, Store)
    check_writable(store)
    assert store.read_all() == {}
    for data in (b"old", b"new"):
        write_whole(store, {"one": lambda file, data=data: file.write(data)})  # type: ignore[misc]
    assert store.read_all() == {"one": b"new"}


def test_what_a_killed_writer_left_is_taken_away_and_what_another_writes_stays(tmp_path: Path) -> None:
    def write(data: bytes) -> None:
        write_whole(tmp_path, {"a": lambda file: file.write(b"earlier"), "b": lambda file: file.write(data)})

    write(b"before")
    killed = """if True:
        import os, signal, sys
        from pathlib import Path
        from cluster.observe.files import write_whole

        write_whole(Path(sys.argv[1]), {"a": lambda file: file.write(b"x"),
                                        "b": lambda file: os.kill(os.getpid(), signal.SIGKILL)})"""
    done = subprocess.run([sys.executable, "-c", killed, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".*.part"))) == 2
    another = tmp_path / ".a.1.part"
    with another.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        write(b"after")
        assert sorted(tmp_path.iterdir()) == [another, tmp_path / "a", tmp_path / "b"]
    write(b"later")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "a", tmp_path / "b"]
    assert (tmp_path / "b").read_bytes() == b"later"


def test_a_file_url_is_the_folder(tmp_path: Path) -> None:
    assert folder_of(f"file://{tmp_path}/with%20space") == tmp_path / "with space"
    assert folder_of("runs/demo") == Path("runs/demo")
    with pytest.raises(ConfigError, match="names the host 'elsewhere'"):
        folder_of("file://elsewhere/x")


@pytest.mark.parametrize(("url", "sentence"), [
    ("s3://bucket/x", "s3://bucket/x needs a package that is not installed here (Install s3fs to access S3)"),
    ("s4://bucket/x", "s4://bucket/x: 's4' is no kind of store that fsspec knows (Protocol not known: s4)"),
    ("s3://key:secret@bucket/x", "s3://bucket/x needs a package"),
])
def test_a_store_that_cannot_be_reached_is_refused_before_the_work(
        url: str, sentence: str, run: str, capsys: pytest.CaptureFixture[str]) -> None:
    if url.startswith("s3:") and "s3fs" in sys.modules:
        pytest.skip("s3fs is installed")
    assert enter(["run", run, "--out", url]) == ConfigError.exit_code
    said = capsys.readouterr().err
    assert said.startswith(f"moelab: {sentence}")
    assert said.count("\n") == 1
    assert "secret" not in said


def test_a_sweep_into_a_store_leaves_a_row_an_object_and_goes_on_from_there(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = load_study(written(tmp_path, points=[{"seed": seed} for seed in range(3)]))
    store = folder_of("flat://bucket/sweep")
    assert isinstance(store, Store)
    Flat.fails_at = "rows/nothing"
    begun = sweep(load_study(written(tmp_path, points=[{"seed": 0}])), store, Options(workers=1, keep=True))
    done = sweep(study, store, Options(workers=1, keep=True))
    assert (begun.ran, done.ran, done.kept, len(done.failed)) == (1, 2, 1, 0)
    local = sweep(study, tmp_path / "local", Options(workers=1))
    assert told(done.rows) == told(local.rows)
    assert sorted(told(read_objects(store)), key=str) == sorted(told(local.rows), key=str)
    assert set((store / "results").read_all()) == {f"{row['point']}.json" for row in done.rows}
    assert enter(["sweep", "show", "flat://bucket/sweep", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3


def test_a_foreign_object_among_the_rows_is_named() -> None:
    store = Store("flat://bucket/sweep")
    (store / "rows").write_whole({"x.json": lambda file: file.write(b"{}")})
    with pytest.raises(MoelabError, match=r"flat://bucket/sweep/rows/x.json is no row of a sweep"):
        read_objects(store)


def test_sigterm_ends_a_sweep_with_whole_rows_and_its_own_exit_code(tmp_path: Path) -> None:
    study = written(tmp_path, points=[{"seed": seed} for seed in range(400)])
    command = [sys.executable, "-m", "cluster.main", "sweep", str(study), "--out", str(tmp_path / "out"), "--workers",
               "1"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
                               env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True)
    rows, deadline = tmp_path / "out" / "rows.jsonl", time.monotonic() + 60
    while time.monotonic() < deadline and not (rows.exists() and rows.read_bytes().count(b"\n") > 2):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)  # as `ray job stop` does: the shell, the driver and its workers at once
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert said == "moelab: ended by SIGTERM\n"
    kept = [json.loads(line) for line in rows.read_bytes().splitlines()]
    assert 2 < len(kept) < 400
    assert {row["status"] for row in kept} == {"ok"}
