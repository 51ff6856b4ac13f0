"""Run one stage of the checks: its output as it is, then its wall time against its budget.

    stage.py NAME BUDGET_S [--empty-ok] -- COMMAND...

Under CI a stage that reaches its budget is stopped and has failed; elsewhere the time is only shown.
Each stage has a temporary folder of its own for Ray, whose cluster files outlive a crash and mislead the next start.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

NO_TESTS = 5  # pytest: no test was collected
GRACE_S = 30.0  # what an interrupted test run gets to print its report
OVER_BUDGET = 124  # as timeout(1) says it


def run(command: Sequence[str], environment: Mapping[str, str], limit_s: float | None) -> int:
    """The command's exit status; with a limit, its whole process group is interrupted there, then killed."""
    process = subprocess.Popen(command, env=environment, start_new_session=limit_s is not None)
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return OVER_BUDGET


def main(arguments: Sequence[str]) -> int:
    """Run the stage that the arguments name; its exit status."""
    split = arguments.index("--")
    name, budget, *options = arguments[:split]
    budget_s = float(budget)
    limit_s = budget_s if os.environ.get("CI") else None
    # Short: a socket's path has 107 bytes at most, and Ray spends 80 of them.
    scratch = tempfile.mkdtemp(prefix="ray")
    began = time.monotonic()
    try:
        status = run(arguments[split + 1 :], {**os.environ, "RAY_TMPDIR": scratch}, limit_s)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    wall_s = time.monotonic() - began
    verdict = "ok" if status == 0 else f"failed ({status})"
    if status == OVER_BUDGET and limit_s is not None:
        verdict = "failed: stopped at its budget"
    if status == NO_TESTS and "--empty-ok" in options:
        status, verdict = 0, "no test has this mark"
    line = f"{name:<8} {wall_s:7.1f} s of {budget_s:5.0f} s  {verdict}"
    print(f"stage {line}", flush=True)
    if log := os.environ.get("MOELAB_STAGES"):
        with open(log, "a", encoding="utf-8") as stages:
            stages.write(line + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
