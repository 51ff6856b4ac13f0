"""The generated Python is what protoc makes of the protos."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_protoc_makes_the_same_files_again(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, ROOT / "deploy/ci/protos.py", tmp_path], capture_output=True, text=True,
                          check=True)
    names = done.stdout.split()
    assert len(names) == 6
    for name in names:
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes(), name
    there = sorted(file.relative_to(ROOT).as_posix() for file in (ROOT / "cluster/serve/protos").rglob("*_pb2*.py*")
                   if "__pycache__" not in file.parts)
    assert there == names
