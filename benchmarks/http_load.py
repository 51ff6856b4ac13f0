"""What a public load generator measures of a machine at the wall clock, beside what the machine emulated.

    python -m venv load && load/bin/pip install guidellm
    python -m benchmarks.http_load --guidellm load/bin/guidellm

Serves a run at a dilation, lets guidellm ask it, and holds guidellm's own TTFT and TPOT over the dilation against the
emulated ones of the same requests. Exits 1 where one is off by more than 5 %.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from cluster.resolve import EMBEDDED_FOLDER

LIMIT = 0.05
READY_S = 300.0


def main() -> int:
    """Serve, load, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--guidellm", required=True, help="the program, of an environment of its own")
    parser.add_argument("--run", default="serve_embedded")
    parser.add_argument("--dilation", type=float, default=1000.0)
    parser.add_argument("--streams", type=int, default=1, help="requests at once")
    parser.add_argument("--requests", type=int, default=10)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--output-tokens", type=int, default=16)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.json"
        served = subprocess.Popen([sys.executable, "-m", "cluster.main", "serve", asked.run, "--http-port", "0", "--clock",
                                   "wall", "--dilation", str(asked.dilation), "--ready-file", str(ready)])
        try:
            url = _url(served, ready)
            _load(asked, url, Path(folder))
            machine = _emulated(url)
        finally:
            served.terminate()
            served.wait(60)
        return _compare(asked, _measured(Path(folder) / "load.json"), machine)


def _url(served: "subprocess.Popen[bytes]", ready: Path) -> str:
    until = time.monotonic() + READY_S
    while not ready.is_file():
        if served.poll() is not None or time.monotonic() > until:
            raise SystemExit("the machine did not start")
        time.sleep(0.2)
    return str(json.loads(ready.read_text())["http"])


def _load(asked: argparse.Namespace, url: str, folder: Path) -> None:
    profile = "kind=synchronous" if asked.streams == 1 else f"kind=concurrent,streams={asked.streams}"
    subprocess.run([
        asked.guidellm, "run", "--backend", f"kind=openai_http,target={url},request_format=/v1/completions",
        "--profile", profile, "--constraint", f"kind=max_requests,count={asked.requests}",
        "--tokenizer", f"kind=huggingface_auto,model={EMBEDDED_FOLDER}",
        "--data", f"kind=synthetic_text,prompt_tokens={asked.prompt_tokens},output_tokens={asked.output_tokens}",
        "--output", f"kind=json,path={folder / 'load.json'}", "--disable-console"], check=True)


def _emulated(url: str) -> dict[str, tuple[int, float]]:
    """Emulated TTFT and TPOT: how many answers, and the mean of all in seconds."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:  # of the server that was started here
        lines = dict(line.rpartition(" ")[::2] for line in answer.read().decode().splitlines() if line[0] != "#")
    found = {}
    for name in ("ttft", "tpot"):
        count, total = (float(lines[f"moelab_{name}_seconds_{what}"]) for what in ("count", "sum"))
        found[name] = (int(count), total / count)
    return found


def _measured(report: Path) -> dict[str, tuple[int, float]]:
    """The same as guidellm measured them, in real seconds."""
    requests: list[dict[str, Any]] = json.loads(report.read_text())["benchmarks"][0]["requests"]["successful"]
    ttft = [request["time_to_first_token_ms"] / 1e3 for request in requests]
    tpot = [request["inter_token_latency_ms"] / 1e3 for request in requests]
    return {"ttft": (len(ttft), sum(ttft) / len(ttft)), "tpot": (len(tpot), sum(tpot) / len(tpot))}


def _compare(asked: argparse.Namespace, measured: dict[str, tuple[int, float]],
             machine: dict[str, tuple[int, float]]) -> int:
    worst = 0.0
    for name, (count, seconds) in measured.items():
        answers, emulated_s = machine[name]
        if answers != count:
            raise SystemExit(f"the machine gave {answers} answers and guidellm counted {count}: they cannot be compared")
        off = seconds / asked.dilation / emulated_s - 1
        worst = max(worst, abs(off))
        print(f"{name}: measured {seconds / asked.dilation * 1e6:.1f} us (over the dilation of {asked.dilation:g}), "
              f"emulated {emulated_s * 1e6:.1f} us, off by {off:+.2%} ({count} answers, {asked.streams} at once)")
    return 0 if worst <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
