"""A study of points that take milliseconds each, and how sweeps of it are started and read."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

RUN: dict[str, Any] = {
    "machine": "template", "model": {"name": "olmoe-1b-7b", "layers": 1}, "policy": "expert_parallel", "engine": "spec",
    "workload": {"work": "synthetic", "generator": "balanced", "prompt_tokens": 2, "output_tokens": 2}}
GRID: dict[str, list[Any]] = {"seed": [0, 1, 2], "workload.batch": [1, 2]}

POLICY = '''
import os
from pathlib import Path
from schedulers.expert_parallel import Policy as Whole

class Policy(Whole):
    def start(self, setting):
        {body}
        return super().start(setting)
'''

MOELAB = [sys.executable, "-c", "from cluster.main import main; main()"]


def written(folder: Path, **more: Any) -> Path:
    """A study's file: the small grid, or what is given instead."""
    data = {"run": RUN, **({} if "points" in more else {"grid": GRID}), **more}
    path = folder / "mine.yaml"
    path.write_text(json.dumps(data), encoding="utf-8")  # which is YAML
    return path


def lines(folder: Path) -> list[dict[str, Any]]:
    """The rows as they stand in the file, each a whole line."""
    text = (folder / "rows.jsonl").read_text(encoding="utf-8")
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def told(rows: list[dict[str, Any]]) -> list[str]:
    """Rows without the time that the host took, in one order."""
    return sorted(json.dumps({key: value for key, value in row.items() if key != "host_s"}, sort_keys=True)
                  for row in rows)


def started(study: Path, out: Path, *more: str) -> "subprocess.Popen[str]":
    """A sweep in a process of its own, with two workers."""
    return subprocess.Popen([*MOELAB, "sweep", str(study), "--out", str(out), "--workers", "2", *more],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
