"""A disk that is full, for real: a small file system of its own, seen by the commands that run on it only."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.studies.small import lines, told, written

SPACE = ["unshare", "-m"] if os.getuid() == 0 else ["unshare", "-rm"]
RUN = {"machine": "template", "model": "olmoe-1b-7b", "policy": "expert_parallel", "engine": "spec",
       "workload": {"work": "synthetic", "generator": "balanced", "prompt_tokens": 2, "output_tokens": 2}}
FILL = 'dd if=/dev/zero of="$D/fill" bs=1k status=none 2>/dev/null || true'


@pytest.fixture
def on_a_small_disk(tmp_path: Path) -> "OnASmallDisk":
    found = OnASmallDisk(tmp_path)
    if found("true", "64k").returncode:
        pytest.skip("no file system of its own can be mounted for a command")
    return found


class OnASmallDisk:
    """Carries out a shell script in which $D is a file system of some size, $HERE a folder and `moelab` the command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "disk").mkdir()

    def __call__(self, script: str, size: str) -> subprocess.CompletedProcess[str]:
        begin = ('D="$HERE/disk"; mount -t tmpfs -o "size=$SIZE" tmpfs "$D"; '
                 'moelab() { "$PYTHON" -m cluster.main "$@"; }\n')
        return subprocess.run([*SPACE, "sh", "-c", begin + script], cwd=ROOT, capture_output=True, text=True,
                              timeout=200, check=False, env={**os.environ, "HERE": str(self.folder), "SIZE": size,
                                                             "PYTHON": sys.executable})


@pytest.mark.slow
@pytest.mark.parametrize(("left", "file"), [("4k", "timeline.perfetto-trace"),
                                             pytest.param("0", ".probe", marks=pytest.mark.soak)])
def test_a_result_that_does_not_fit_leaves_the_earlier_one(left: str, file: str, on_a_small_disk: OnASmallDisk) -> None:
    (on_a_small_disk.folder / "run.yaml").write_text(yaml.safe_dump(RUN))
    done = on_a_small_disk(f"""
        moelab run "$HERE/run.yaml" --out "$D/o" >/dev/null || exit 9
        cd "$D/o" && sha256sum * > "$HERE/sums" && cd "{ROOT}"
        {FILL}
        truncate -s -{left} "$D/fill"
        moelab run "$HERE/run.yaml" --set seed=2 --out "$D/o"
        echo "code $?"
        ls -A "$D/o"
        cd "$D/o" && sha256sum --quiet -c "$HERE/sums" && echo whole
    """, "1m")
    whole = ["code", "1", "layers.json", "report.html", "result.json", "timeline.perfetto-trace", "whole"]
    assert done.stdout.split() == whole, done.stderr
    assert done.stderr == (f"moelab: cannot write {on_a_small_disk.folder}/disk/o/{file}: No space left on device; "
                           "nothing was written, so free some space or choose another folder\n")


@pytest.mark.slow
def test_a_sweep_keeps_its_rows_and_goes_on_when_there_is_room(on_a_small_disk: OnASmallDisk) -> None:
    study = written(on_a_small_disk.folder)
    done = on_a_small_disk(f"""
        moelab sweep "{study}" --workers 1 --out "$D/o" >/dev/null
        echo "code $?"
        wc -l < "$D/o/rows.jsonl"
        mount -o remount,size=1m "$D"
        moelab sweep "{study}" --workers 1 --out "$D/o" >/dev/null || exit 9
        cp "$D/o/rows.jsonl" "$HERE"
        moelab sweep "{study}" --workers 1 --out "$HERE/whole" >/dev/null || exit 9
    """, "8k")
    code, number, kept = done.stdout.split()
    assert (done.returncode, code, number) == (0, "code", "1"), done.stderr
    assert told(lines(on_a_small_disk.folder)) == told(lines(on_a_small_disk.folder / "whole"))
    assert 0 < int(kept) < 6
    assert (f"/disk/o/rows.jsonl: No space left on device; its {kept} points are kept: free some space and start the "
            "sweep again, which goes on from there\n") in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_another_file_that_does_not_fit_is_told(on_a_small_disk: OnASmallDisk) -> None:
    done = on_a_small_disk(f"""
        {FILL}
        moelab trace fit embedded-code --out "$D/fit.yaml"
        echo "code $?"
        ls -A "$D"
    """, "16k")
    assert done.stdout.split() == ["code", "1", "fill"], done.stderr
    assert done.stderr == (f"moelab: cannot write {on_a_small_disk.folder}/disk/fit.yaml: No space left on device; "
                           "nothing was written, so free some space or choose another folder\n")


def test_a_reader_that_leaves_finds_the_result_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN))
    command = f'"{sys.executable}" -m cluster.main run "{tmp_path}/run.yaml" --json --out "{tmp_path}/o" | head -1'
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == ("{\n", "")
    assert (tmp_path / "o" / "result.json").is_file()
