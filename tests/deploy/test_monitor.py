"""`make monitor`: it starts Prometheus with this project's config, says where, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from deploy.monitor import answers, grafana
from tests.conftest import ROOT
from tests.deploy.prometheus_rig import free_port, program

SCRIPT = ROOT / "deploy/monitor.py"


def monitor(folder: Path, port: int, **more: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, str(SCRIPT), "--port", str(port), "--data", str(folder)], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **more})


@pytest.mark.slow
def test_it_shows_what_is_scraped_follows_ray_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    program("prometheus")
    port, ray = free_port(), tmp_path / "ray/prom_metrics_service_discovery.json"
    started = monitor(tmp_path / "data", port, RAY_TMPDIR=str(tmp_path))
    try:
        assert started.stdout is not None
        assert f"http://127.0.0.1:{port}" in started.stdout.readline()
        ray.parent.mkdir()
        ray.write_text(json.dumps([{"labels": {"job": "ray"}, "targets": ["127.0.0.1:1"]}]), encoding="utf-8")
        deadline = time.monotonic() + 30
        while (pools := scraped(port)) != {"moelab-serve", "moelab-run", "ray"}:
            assert time.monotonic() < deadline, pools
            time.sleep(0.1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/rules", timeout=10) as answer:
            groups = [group["name"] for group in json.load(answer)["data"]["groups"]]
        assert groups == ["moelab-alerts", "moelab-derived", "moelab-ray"]
        second = monitor(tmp_path / "other", port)
        _, told = second.communicate(timeout=60)
        assert second.returncode == 1
        assert told == f"moelab: port {port} of 127.0.0.1 is taken; another: make monitor PORT={port + 1}\n"
        started.send_signal(signal.SIGINT)
        assert started.wait(30) == 0
        assert not answers(f"http://127.0.0.1:{port}/-/ready")
    finally:
        started.terminate()
        started.communicate(timeout=30)


def scraped(port: int) -> set[str]:
    """The jobs that have a target."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/targets", timeout=10) as answer:
        return {target["scrapePool"] for target in json.load(answer)["data"]["activeTargets"]}


def test_without_prometheus_it_names_the_package(tmp_path: Path) -> None:
    done = monitor(tmp_path, 9090, PATH=str(tmp_path))
    out, told = done.communicate(timeout=60)
    assert (done.returncode, out, told.count("\n")) == (1, "", 1)
    assert "install the package `prometheus`" in told
    assert "deploy/compose.monitor.yaml" in told


def test_containers_see_the_same_files_read_only_and_listen_on_loopback(tmp_path: Path) -> None:
    file = ROOT / "deploy/compose.monitor.yaml"
    services = yaml.safe_load(file.read_text(encoding="utf-8"))["services"]
    assert list(services) == ["prometheus", "grafana"]
    for service in services.values():
        assert service["network_mode"] == "host"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["image"].rpartition(":")[2].lstrip("v")[0].isdigit()
        for volume in service["volumes"]:
            source, _, how = volume.rpartition(":")
            if source.startswith("."):
                assert how == "ro"
                assert (file.parent / source.partition(":")[0]).exists()
    assert "--web.listen-address=127.0.0.1:9090" in services["prometheus"]["command"]
    _, asked = grafana("grafana-server", tmp_path, 3000, 9090)
    there = services["grafana"]["environment"]
    same = ("GF_SERVER_HTTP_ADDR", "GF_SERVER_HTTP_PORT", "GF_AUTH_ANONYMOUS_ENABLED", "MOELAB_PROMETHEUS")
    assert {name: there[name] for name in same} == {name: asked[name] for name in same}
    assert asked["MOELAB_DASHBOARDS"] == f"{asked['GF_PATHS_PROVISIONING']}/dashboards"


def test_grafana_reads_these_dashboards_from_what_it_is_told() -> None:
    folder = ROOT / "deploy/grafana/provisioning"
    (provider,) = yaml.safe_load((folder / "dashboards/moelab.yaml").read_text(encoding="utf-8"))["providers"]
    assert provider["options"]["path"] == "$MOELAB_DASHBOARDS"
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yaml").read_text(encoding="utf-8"))["datasources"]
    assert source["url"] == "$MOELAB_PROMETHEUS"
    assert sorted(file.name for file in (folder / "dashboards").glob("*.json")) == [
        f"moelab-{name}.json" for name in ("cluster", "compare", "experts", "machine", "overview")]
