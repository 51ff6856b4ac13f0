"""With the core alone everything works that needs no more, and what needs more says in a sentence how to install it.

Packages are taken away from a process and all that it starts, by a finder that stands before all others.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cluster.commands.doctor import DISTRIBUTIONS
from emulation.errors import ConfigError
from emulation.extras import EXTRAS, extra_of, installed, require

ROOT = Path(__file__).resolve().parent.parent
BEYOND = tuple(extra for extra in EXTRAS if extra != "core")

ABSENT = """
import os, sys

class Absent:
    names = set(os.environ["ABSENT"].split(","))

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""

# Reads command lines, an array each, and answers with the exit code and stderr of each.
MANY = """
import contextlib, io, json, sys
from cluster.main import enter

told = []
for line in json.loads(sys.stdin.read()):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = enter(line)
    told.append([code, err.getvalue()])
print(json.dumps(told))
"""

# Imports every module of ours, and answers with those that need what is absent.
IMPORTS = """
import importlib, json, pathlib
lack = {}
for top in ("emulation", "schedulers", "workloads", "moe", "actors", "studies", "cluster", "moelab"):
    for file in sorted(pathlib.Path(top).rglob("*.py")):
        name = ".".join(file.with_suffix("").parts).removesuffix(".__init__")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            lack[name] = error.name
print(json.dumps(lack))
"""

WITH_MODELS = re.compile(r"moe\..*|cluster\.execute|cluster\.experts|cluster\.serve\..*"
                         r"|cluster\.observe\.metrics\.(collector|door)|studies\.(calibration|offload)\..*"
                         r"|studies\.host_fidelity|cluster\.transports\.ray.*")
"""Modules that only what needs an extra imports."""


def without(extras: tuple[str, ...], script: str, folder: Path, given: str = "") -> str:
    """What a script prints where these extras are not installed."""
    (folder / "sitecustomize.py").write_text(ABSENT, encoding="utf-8")
    names = ",".join(sorted({name.partition(".")[0] for extra in extras for name in EXTRAS[extra]}))
    done = subprocess.run([sys.executable, "-c", script], input=given, cwd=ROOT, text=True, capture_output=True,
                          check=False, env={**os.environ, "ABSENT": names, "PYTHONPATH": f"{folder}:{ROOT}"})
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def commands(extras: tuple[str, ...], folder: Path, *lines: list[str]) -> list[tuple[int, str]]:
    """Exit code and stderr of each command line where these extras are not installed."""
    return [(code, err) for code, err in json.loads(without(extras, MANY, folder, json.dumps(lines)))]


def test_the_core_alone_replays_compares_and_sweeps(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("title: small\nrun: gpu_ndp\nset: {limits.steps: 1}\ngrid: {policy: [lru, on_demand]}\n",
                     encoding="utf-8")
    steps, out = ["--set", "limits.steps=1"], ["--out", str(tmp_path / "out")]
    lines = (["list"], ["schema", "study"], ["check", "gpu_ndp"], ["trace", "info", "embedded-code"],
             ["doctor", *out],
             ["compare", "gpu_ndp", "--transport", "processes", "--policies", "lru,on_demand", *steps, *out],
             ["sweep", "run", str(study), "--workers", "1", "--out", str(tmp_path / "swept")])
    for line, (code, err) in zip(lines, commands(BEYOND, tmp_path, *lines), strict=True):
        assert (code, err) == (0, ""), line
    rows = [json.loads(row) for row in (tmp_path / "swept" / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["status"] for row in rows] == ["ok", "ok"]


SENTENCES = {
    "models": [(["run", "demo"], "work: execute needs torch, transformers, tokenizers and safetensors"),
               (["trace", "record", "demo", "--out", "trace.npz"],
                "trace record needs torch, transformers, tokenizers and safetensors"),
               (["calibrate"], "calibrate needs torch"), (["fidelity", "--host"], "fidelity --host needs torch"),
               (["price", "price"], "price needs torch, transformers, tokenizers and safetensors")],
    "ray": [(["run", "gpu_ndp", "--transport", "ray"], "transport: ray needs ray"),
            (["sweep", "run", "ndp_units", "--transport", "ray", "--out", "OUT"], "transport: ray needs ray")],
    "service": [(["serve"], "serve needs fastapi, uvicorn, grpc, grpc_health, grpc_reflection, grpc_status, "
                            "google.protobuf, google.rpc, prometheus_client and httpx"),
                (["remote", "status", "--grpc", "127.0.0.1:1"], "this needs grpc")],
    "parquet": [(["sweep", "export", "OUT/rows.jsonl", "--out", "OUT/rows.parquet"], "a Parquet file needs pyarrow")],
}


@pytest.mark.parametrize("extra", SENTENCES)
def test_what_needs_an_extra_says_how_to_install_it(extra: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"point": "a", "status": "ok"}\n', encoding="utf-8")
    lines = [[word.replace("OUT", str(tmp_path)) for word in line] for line, _ in SENTENCES[extra]]
    told = commands((extra,), tmp_path, *lines)
    assert told == [(2, f"moelab: {sentence}: pip install 'moelab[{extra}]'\n") for _, sentence in SENTENCES[extra]]


def test_modules_that_the_core_does_not_carry_are_known(tmp_path: Path) -> None:
    lack = json.loads(without(BEYOND, IMPORTS, tmp_path))
    assert "moe.shell" in lack
    assert [name for name in lack if not WITH_MODELS.fullmatch(name)] == []
    assert [absent for absent in lack.values() if extra_of(absent) is None] == []


def test_the_extras_of_the_project_are_those_that_errors_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra, packages in EXTRAS.items():
        asked = project["dependencies"] if extra == "core" else project["optional-dependencies"][extra]
        named = [re.split(r"[\[<>=]", wanted)[0] for wanted in asked]
        assert sorted(DISTRIBUTIONS.get(name, name).replace("_", "-") for name in packages) == sorted(named)
    assert all(installed(name) for extra in ("core", "models", "ray", "service") for name in EXTRAS[extra])


def test_only_packages_that_are_missing_are_named() -> None:
    require("a replay", "core")
    with pytest.raises(ConfigError, match=r"a walk needs surely_absent: pip install 'moelab\[core\]'"):
        require("a walk", "core", "numpy", "surely_absent")
