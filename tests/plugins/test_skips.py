"""A skip that nobody allowed fails the run; one on the list does not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugins.skips import entries

ROOT = Path(__file__).resolve().parents[2]
TESTS = """
import pytest

def test_runs():
    pass

def test_needs_a_device():
    pytest.skip("no device: plug one in")

@pytest.mark.skipif(True, reason="not on this machine")
def test_elsewhere():
    pass

@pytest.mark.xfail(strict=True)
def test_known():
    raise AssertionError
"""


def run(folder: Path, skips: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\n")
    # A conftest below the top makes pytest sort its plugins by folder, which asks more of them.
    (folder / "below").mkdir()
    (folder / "below" / "conftest.py").touch()
    (folder / "below" / "test_below.py").write_text("def test_below():\n    pass\n")
    (folder / "skips.txt").write_text(skips)
    command = [sys.executable, "-m", "pytest", "-p", "tests.plugins.skips", "--skips", "skips.txt", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("options", [(), ("-n", "2")])
def test_a_skip_that_no_line_names_fails_the_run(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = run(tmp_path, "test_it.py::test_elsewhere -- needs another machine\n", *options)
    assert done.returncode == 1
    assert "test_it.py::test_needs_a_device: no device: plug one in" in done.stdout
    assert "test_it.py::test_elsewhere: " not in done.stdout
    assert "2 passed, 2 skipped, 1 xfailed" in done.stdout.splitlines()[-1]


def test_skips_on_the_list_pass_by_id_or_by_reason(tmp_path: Path) -> None:
    skips = "# a remark\n\nreason: no device* -- CI has none\n*::test_elsewhere -- needs another machine\n"
    done = run(tmp_path, skips)
    assert done.returncode == 0, done.stdout


def test_a_module_skipped_at_collection_fails_the_run(tmp_path: Path) -> None:
    (tmp_path / "test_whole.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")
    done = run(tmp_path, "test_it.py::* -- not the matter here\n")
    assert done.returncode == 1
    assert "test_whole.py: could not import 'no_such_module'" in done.stdout


def test_a_line_without_a_reason_is_refused() -> None:
    with pytest.raises(pytest.UsageError, match=r"line 2 has no ' -- WHY'"):
        entries("# fine\ntests/test_x.py::test_y\n")
