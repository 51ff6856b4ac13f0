"""A stage of the checks keeps to its budget under CI, and leaves no folder behind."""

import os
import subprocess
import sys
from pathlib import Path

STAGE = Path(__file__).resolve().parents[2] / "deploy" / "ci" / "stage.py"


def stage(folder: Path, budget_s: str, program: str, *options: str, ci: bool) -> tuple[int, str, str]:
    """(exit status, output, what the log of stages says)"""
    environment = {key: value for key, value in os.environ.items() if key != "CI"} | ({"CI": "true"} if ci else {})
    environment |= {"MOELAB_STAGES": str(folder / "stages"), "TMPDIR": str(folder)}
    command = [sys.executable, str(STAGE), "some", budget_s, *options, "--", sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, (folder / "stages").read_text()


def test_stage_over_its_budget_is_stopped_under_ci_with_what_it_started(tmp_path: Path) -> None:
    child = tmp_path / "child"
    program = (
        "import subprocess, sys, time, pathlib\n"
        f"p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(child)!r}).write_text(str(p.pid))\n"
        "time.sleep(60)"
    )
    status, _, log = stage(tmp_path, "1", program, ci=True)
    assert status != 0
    assert log.strip().endswith("failed: stopped at its budget")
    state = Path("/proc", child.read_text(), "stat")
    assert not state.exists() or ") Z " in state.read_text()  # gone, or dead and not yet collected


def test_stage_over_its_budget_goes_on_for_a_person(tmp_path: Path) -> None:
    status, output, log = stage(tmp_path, "0.01", "import time; time.sleep(0.2); print('done')", ci=False)
    assert (status, output.splitlines()[0]) == (0, "done")
    assert log.strip().endswith("ok")


def test_stage_passes_a_failure_on(tmp_path: Path) -> None:
    assert stage(tmp_path, "60", "raise SystemExit(3)", ci=True)[0] == 3


def test_stage_without_tests_fails_unless_it_may_be_empty(tmp_path: Path) -> None:
    assert stage(tmp_path, "60", "raise SystemExit(5)", ci=True)[0] == 5
    assert stage(tmp_path, "60", "raise SystemExit(5)", "--empty-ok", ci=True)[0] == 0


def test_stage_gives_ray_a_short_folder_and_removes_it(tmp_path: Path) -> None:
    program = "import os; open(os.path.join(os.environ['RAY_TMPDIR'], 'left'), 'w'); print(os.environ['RAY_TMPDIR'])"
    _, output, _ = stage(tmp_path, "60", program, ci=True)
    scratch = Path(output.splitlines()[0])
    assert scratch.parent == tmp_path
    assert len(scratch.name) <= 12
    assert not scratch.exists()
