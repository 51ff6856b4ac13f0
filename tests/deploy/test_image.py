"""What the image is built from, and how it tells that it is well."""

import http.server
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath

import pytest
import yaml

from tests.conftest import ROOT

DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
INSTALLED = [name.removesuffix("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]]
STEPS = [line.split(maxsplit=1) for line in re.sub(r"\\\n", " ", DOCKERFILE).splitlines()
         if line and not line.startswith("#")]


def test_the_build_is_sent_all_that_it_needs_and_nothing_else() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"}
    assert sent == {*INSTALLED, "deploy/image", "constraints.txt", "pyproject.toml", "LICENSE"}
    assert all((ROOT / name).exists() for name in sent)


def test_an_install_that_is_not_editable_takes_along_all_that_commands_read() -> None:
    assert {*PROJECT["tool"]["importlinter"]["root_packages"], "configs"} == set(INSTALLED)
    files = subprocess.run(["git", "ls-files", *INSTALLED], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    suffixes = {suffix for suffix in (PurePath(name).suffix for name in files.splitlines()) if suffix}
    taken = {pattern.removeprefix("*") for pattern in PROJECT["tool"]["setuptools"]["package-data"]["*"]}
    assert suffixes - {".py", ".md"} == taken


def test_the_image_runs_as_a_number_that_is_not_root_and_pins_what_it_installs() -> None:
    last_stage = STEPS[max(at for at, step in enumerate(STEPS) if step[0] == "FROM"):]
    assert [step[1] for step in last_stage if step[0] == "USER"] == ["10001:10001"]
    assert [step[0] for step in last_stage][-2:] == ["ENTRYPOINT", "CMD"]
    assert all(step[1].startswith("[") for step in last_stage if step[0] in {"ENTRYPOINT", "CMD"})
    installs = [part for step in STEPS if step[0] == "RUN" for part in step[1].split("&&") if "pip install" in part]
    assert installs
    assert all("-c constraints.txt" in part or "--no-deps" in part for part in installs)


def requirements(extras: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, ROOT / "deploy/image/requirements.py", extras], capture_output=True,
                          text=True, check=False)


def test_requirements_are_those_of_the_project() -> None:
    (extras,) = re.findall(r"ARG EXTRAS=(\S+)", DOCKERFILE)
    printed = requirements(extras).stdout.splitlines()
    assert set(PROJECT["project"]["dependencies"]) < set(printed)
    for extra in extras.split(","):
        assert set(PROJECT["project"]["optional-dependencies"][extra]) < set(printed)
    refused = requirements("servce")
    assert refused.returncode != 0
    assert "no extra 'servce'" in refused.stderr


@contextmanager
def answering(status: int) -> Iterator[str]:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/health"
        finally:
            server.shutdown()
            thread.join()


def health(url: str) -> int:
    return subprocess.run([sys.executable, ROOT / "deploy/image/health.py"], env={"MOELAB_HEALTH_URL": url},
                          capture_output=True, check=False).returncode


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_health_is_what_the_served_machine_says(status: int, code: int) -> None:
    with answering(status) as url:
        assert health(url) == code
    assert health(url) == 1


def test_a_single_host_gets_the_same_locks() -> None:
    compose = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text(encoding="utf-8"))
    serve = compose["services"]["serve"]
    assert serve["read_only"] is True
    assert serve["cap_drop"] == ["ALL"]
    assert serve["security_opt"] == ["no-new-privileges:true"]
    assert serve["user"] == "10001:10001"
    assert {mount.partition(":")[0] for mount in serve["tmpfs"]} == {"/tmp", "/cache"}
    assert serve["volumes"] == ["results:/results"]
    assert "ports" not in serve
    assert "--host" not in serve["command"]
