"""One peer from the package index, AISimulate, beside moelab: the nearest workload that both can state.

    python -m venv FOLDER && FOLDER/bin/pip install --only-binary aisimulate aisimulate
    python -m benchmarks.peer FOLDER [--requests N] [--repeats N]

Qwen3-30B-A3B on one H200, requests of 512 tokens in and 128 out, all at once, at most 256 running and 2048 tokens a
step. Both are commands, timed from their start to their end, in turn. They do not compute the same thing: the peer
looks up how long a step of so many tokens takes and knows nothing of which expert is routed where; moelab routes every
layer and times every expert's own operations. An environment of its own keeps the peer's packages out of ours.
"""

import argparse
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import MOELAB, ROOT, Folder, Spread, host

PROMPT, OUTPUT, RUNNING, BUDGET = 512, 128, 256, 2048
PEER = {
    "traffic": {"source": {"type": "synthetic", "input_tokens": PROMPT, "output_tokens": OUTPUT},
                "load": {"type": "concurrency"}},
    "engine": {"mode": "aggregated", "model": "Qwen/Qwen3-30B-A3B", "hardware": "h200_sxm", "backend": "vllm",
               "workers": {"aggregated": {"scheduler": {"max_sequences": RUNNING, "max_batched_tokens": BUDGET}}}},
}


def timed(command: list[str], limit_s: float) -> tuple[float, str]:
    """Seconds of a command from start to end, and what it said."""
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=limit_s,
                          env={**os.environ, "HF_HUB_OFFLINE": "1"})
    return time.perf_counter() - began, done.stdout


def peer(venv: Path, requests: int, limit_s: float) -> tuple[float, dict[str, Any]]:
    """The peer's command."""
    config = json.loads(json.dumps(PEER))
    config["traffic"]["load"]["concurrency"] = requests
    config["traffic"]["stop"] = {"requests": requests}
    with Folder() as folder:
        (folder / "prediction.yaml").write_text(json.dumps(config), encoding="utf-8")
        taken, said = timed([str(venv / "bin" / "aisimulate"), "predict", "--config", str(folder / "prediction.yaml"),
                             "--output-dir", str(folder / "out"), "--format", "json"], limit_s)
    found: dict[str, Any] = json.loads(said)
    return taken, found


def ours(requests: int, layers: int | None, limit_s: float) -> tuple[float, dict[str, Any]]:
    """Our command, on the H200 host with all experts resident."""
    set_ = [f"workload.serving.requests={requests}", f"workload.serving.prompt_tokens={PROMPT}",
            f"workload.serving.output_tokens={OUTPUT}", *([] if layers is None else [f"model.layers={layers}"])]
    with Folder() as folder:
        taken, _ = timed([*MOELAB, "run", str(ROOT / "benchmarks" / "replay.yaml"), "--out", str(folder / "out"),
                          *(word for setting in set_ for word in ("--set", setting))], limit_s)
        found: dict[str, Any] = json.loads((folder / "out" / "result.json").read_text(encoding="utf-8"))
    return taken, found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("venv", type=Path)
    options.add_argument("--requests", type=int, default=300)
    options.add_argument("--layers", type=int, help="cut our model to so many MoE layers")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--limit-s", type=float, default=1800.0)
    asked = options.parse_args()
    seconds: dict[str, list[float]] = {"aisimulate": [], "moelab": []}
    theirs: dict[str, Any] = {}
    mine: dict[str, Any] = {}
    for _ in range(asked.repeats):
        taken, theirs = peer(asked.venv, asked.requests, asked.limit_s)
        seconds["aisimulate"].append(taken)
        taken, mine = ours(asked.requests, asked.layers, asked.limit_s)
        seconds["moelab"].append(taken)
    tokens = asked.requests * OUTPUT
    report = {name: {"process_s": Spread.of(all_).json(),
                     "output_tokens_per_wall_s": Spread.of(tokens / s for s in all_).json()}
              for name, all_ in seconds.items()}
    version = subprocess.run([str(asked.venv / "bin" / "pip"), "show", "aisimulate"], check=True, capture_output=True,
                             text=True).stdout.splitlines()[1]
    told = {"emulated_tokens_per_s": mine["output_tokens_per_s"], "operations": mine["host"]["operations"],
            "layers": asked.layers or "all"}
    print(json.dumps({"bench": "peer", "host": host(), "peer": version, "requests": asked.requests, **report,
                      "moelab_result": told, "aisimulate_result": _numbers(theirs)}, indent=1))


def _numbers(found: Any, depth: int = 3) -> Any:
    """The numbers of a report, without its lists."""
    if isinstance(found, dict) and depth:
        kept = {key: _numbers(value, depth - 1) for key, value in found.items()}
        return {key: value for key, value in kept.items() if value not in (None, {})}
    return found if isinstance(found, int | float) else None


if __name__ == "__main__":
    main()
