"""`make monitor`: Prometheus on loopback with deploy/prometheus, and Grafana beside it where it is installed.

    monitor.py [--port 9090] [--grafana-port 3000] [--data out/monitor]

Ctrl-C or SIGTERM stops both. What Prometheus has collected stays in the data folder for the next time.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOOPBACK = "127.0.0.1"
KEEP = "100y"
"""How long data is kept. Blocks made of a run's metrics.txt stand at emulated times, which are decades ago."""
READY_S, STOP_S, LOOK_S = 60.0, 10.0, 0.2
GRAFANA_HOMES = (Path("usr/share/grafana"), Path("usr/local/share/grafana"), Path("opt/homebrew/share/grafana"))
"""Where packages put Grafana's own files, from the root of the file system."""
NO_PROMETHEUS = ("moelab: make monitor needs Prometheus, which is not on the path: install the package `prometheus` "
                 "(Debian, Ubuntu, Homebrew), or take containers: docker compose -f deploy/compose.monitor.yaml up")
NO_GRAFANA = ("Grafana is not installed here; the dashboards in a container beside this Prometheus: "
              "docker compose -f deploy/compose.monitor.yaml up grafana")


def configured(data: Path) -> Path:
    """A copy of deploy/prometheus in the data folder, where Ray's list of targets finds its place; its config file."""
    folder = data / "prometheus"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "deploy" / "prometheus", folder)
    return folder / "prometheus.yml"


def follow_ray(targets: Path) -> None:
    """Let Prometheus see Ray's list of targets while there is one: a head writes it into its temporary folder."""
    listed = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray" / "prom_metrics_service_discovery.json"
    link = targets / "ray.json"
    if listed.is_file() and not link.is_symlink():
        link.symlink_to(listed)
    elif link.is_symlink() and not listed.is_file():
        link.unlink()


def prometheus(program: str, config: Path, data: Path, port: int) -> list[str]:
    """The command that starts Prometheus."""
    return [program, f"--config.file={config}", f"--storage.tsdb.path={data / 'data'}",
            f"--storage.tsdb.retention.time={KEEP}", f"--web.listen-address={LOOPBACK}:{port}", "--log.level=warn"]


def grafana(program: str, data: Path, port: int, source_port: int) -> tuple[list[str], dict[str, str]]:
    """The command that starts Grafana, and the environment that it wants: everybody on this host may look."""
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    home = next((path for name in GRAFANA_HOMES if (path := Path("/") / name).is_dir()), None)
    more = {"GF_SERVER_HTTP_ADDR": LOOPBACK, "GF_SERVER_HTTP_PORT": str(port),
            "GF_PATHS_PROVISIONING": str(provisioning), "GF_PATHS_DATA": str(data / "grafana"),
            "GF_PATHS_LOGS": str(data / "grafana" / "log"), "GF_LOG_MODE": "file",
            "GF_AUTH_ANONYMOUS_ENABLED": "true", "GF_ANALYTICS_REPORTING_ENABLED": "false",
            "GF_ANALYTICS_CHECK_FOR_UPDATES": "false", "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
            "MOELAB_DASHBOARDS": str(provisioning / "dashboards"),
            "MOELAB_PROMETHEUS": f"http://{LOOPBACK}:{source_port}"}
    return [program, *(["server"] if Path(program).name == "grafana" else []),
            *([f"--homepath={home}"] if home else [])], more


def started(command: Sequence[str], more: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
    """A process in a group of its own, so that a Ctrl-C at the keyboard reaches only us, and we stop it."""
    return subprocess.Popen(command, env={**os.environ, **(more or {})}, start_new_session=True,
                            stdin=subprocess.DEVNULL)


def answers(url: str) -> bool:
    """Whether something there says that it is ready."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def taken(port: int) -> bool:
    """Whether somebody listens there: Prometheus would end, and the other's answers would pass for its own."""
    with socket.socket() as asked:
        return asked.connect_ex((LOOPBACK, port)) == 0


def stop(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Ask all to end; kill who does not."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def watch(processes: Mapping[str, "subprocess.Popen[bytes]"], targets: Path) -> str:
    """Return the name of the first that ends by itself; show Prometheus the Ray that comes and goes meanwhile."""
    while True:
        follow_ray(targets)
        for name, process in processes.items():
            if process.poll() is not None:
                return name
        time.sleep(LOOK_S)


def run(port: int, grafana_port: int, data: Path) -> int:
    """Start all that is there and watch over it; the exit status."""
    program = shutil.which("prometheus")
    if program is None:
        print(NO_PROMETHEUS, file=sys.stderr)
        return 1
    if taken(port):
        print(f"moelab: port {port} of {LOOPBACK} is taken; another: make monitor PORT={port + 1}", file=sys.stderr)
        return 1
    data.mkdir(parents=True, exist_ok=True)
    config = configured(data)
    processes = {"Prometheus": started(prometheus(program, config, data, port))}
    try:
        until_s = time.monotonic() + READY_S
        while not answers(f"http://{LOOPBACK}:{port}/-/ready"):
            if processes["Prometheus"].poll() is not None or time.monotonic() > until_s:
                print(f"moelab: Prometheus did not start on {LOOPBACK} port {port}; what it says is above",
                      file=sys.stderr)
                return 1
            time.sleep(LOOK_S)
        print(f"Prometheus: http://{LOOPBACK}:{port} (what it scrapes: deploy/prometheus/prometheus.yml)")
        panels = shutil.which("grafana-server") or shutil.which("grafana")
        if panels is None:
            print(NO_GRAFANA)
        else:
            processes["Grafana"] = started(*grafana(panels, data, grafana_port, port))
            print(f"Grafana:    http://{LOOPBACK}:{grafana_port}/dashboards")
        print("Ctrl-C stops it.", flush=True)
        name = watch(processes, config.parent / "targets")
        print(f"moelab: {name} ended by itself; the rest is stopped", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        for again in (signal.SIGINT, signal.SIGTERM):  # make passes one on, and the group has its own
            signal.signal(again, signal.SIG_IGN)
        stop(list(processes.values()))


def main(arguments: Sequence[str]) -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="make monitor", description="Prometheus, and Grafana where it is installed")
    parser.add_argument("--port", type=int, default=9090)
    parser.add_argument("--grafana-port", type=int, default=3000)
    parser.add_argument("--data", type=Path, default=ROOT / "out" / "monitor")
    asked = parser.parse_args(arguments)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return run(asked.port, asked.grafana_port, asked.data.resolve())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
