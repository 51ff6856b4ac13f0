"""The rules of the tree itself: sizes, layering, determinism, documentation, and how it installs."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("emulation", "schedulers", "workloads", "moe", "actors", "studies", "cluster", "moelab")
DETERMINISTIC = ("emulation", "schedulers", "workloads")
MIB = 2**20


def in_tree() -> list[Path]:
    """The files that git knows of or would add, by path; build products and ignored files are none of them."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in sorted(listed.split("\0")) if name and (ROOT / name).is_file()]


def python_files(*folders: str) -> list[Path]:
    return [file for file in in_tree() if file.suffix == ".py" and file.relative_to(ROOT).parts[0] in folders]


def is_generated(file: Path) -> bool:
    """What protoc makes: tests/cluster/serve/test_protos.py makes it again and compares."""
    return file.name.endswith(("_pb2.py", "_pb2_grpc.py"))


def named(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def text_of(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


# Sizes


def line_limit(file: Path) -> int:
    folder = file.relative_to(ROOT).parts[0]
    return {"tests": 500, "schedulers": 140}.get(folder, 320)


def test_no_file_outgrows_its_limit() -> None:
    sizes = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in in_tree() if file.suffix == ".py"}
    over = {named(file): size for file, size in sizes.items() if size > line_limit(file) and not is_generated(file)}
    assert over == {}


def test_the_tree_can_be_uploaded_to_a_cluster() -> None:
    assert sum(file.stat().st_size for file in in_tree()) < 30 * MIB


# Promises and places


def test_product_code_promises_no_later_work() -> None:
    promise = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError|NotImplemented\(\))\b")
    found = [
        f"{named(file)}:{number}"
        for file in python_files(*PACKAGES)
        if not is_generated(file)
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if promise.search(line)
    ]
    assert found == []


def test_no_file_names_a_place_on_one_machine() -> None:
    # Spelled in two parts, so that this file is not its own finding.
    place = re.compile(r"(?<![\w.~*}-])/" + r"(work|root|home|Users|opt|tmp)/\w")
    found = [
        f"{named(file)}:{number}: {line.strip()[:80]}"
        for file in in_tree()
        if (text := text_of(file)) is not None
        for number, line in enumerate(text.splitlines(), 1)
        if place.search(line)
    ]
    assert found == []


def test_every_package_is_documented_in_one_line() -> None:
    folders = {file.parent for file in python_files(*PACKAGES)}
    wrong = []
    for folder in sorted(folders):
        init = folder / "__init__.py"
        docstring = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) if init.is_file() else None
        first = docstring.splitlines()[0] if docstring else ""
        if not first.endswith((".", ":")) or len(first) < 20:
            wrong.append(f"{named(folder)}: {first!r}")
    assert wrong == []


def test_changelog_has_a_place_for_the_next_change() -> None:
    assert "\n## [Unreleased]\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


# Determinism

CLOCKS = {"time", "datetime", "random", "secrets", "uuid"}
SEEDED = {"SeedSequence", "Generator", "BitGenerator", "PCG64", "PCG64DXSM", "Philox", "default_rng"}


def _is_set(node: ast.expr) -> bool:
    called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
    return isinstance(node, ast.Set | ast.SetComp) or called in {"set", "frozenset"}


def _dotted(node: ast.expr) -> str:
    return f"{_dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def whims(source: str) -> Iterator[tuple[int, str]]:
    """(line, what) of everything whose outcome another run, process or machine may not repeat."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] in CLOCKS)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in CLOCKS:
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.Attribute):
            owner, _, name = _dotted(node).rpartition(".")
            chance = owner in {"np.random", "numpy.random"} and name not in SEEDED
            if chance or (owner, name) in {("os", "urandom"), ("os", "environ"), ("os", "getpid")}:
                yield node.lineno, f"{owner}.{name}"
        elif isinstance(node, ast.Call):
            if _dotted(node.func).endswith("default_rng") and not node.args and not node.keywords:
                yield node.lineno, "default_rng without a seed"
            if isinstance(node.func, ast.Name) and node.func.id in {"hash", "id"}:
                yield node.lineno, f"{node.func.id}()"
        if isinstance(node, ast.For | ast.comprehension) and _is_set(node.iter):
            yield node.iter.lineno, "iteration over a set"


def test_nothing_that_decides_or_times_depends_on_a_clock_or_on_chance() -> None:
    found = [
        f"{named(file)}:{line}: {what}"
        for file in python_files(*DETERMINISTIC)
        for line, what in whims(file.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from random import choice",
        "def f():\n    from datetime import datetime",
        "np.random.shuffle(order)",
        "rng = np.random.default_rng()",
        "os.urandom(8)",
        "for expert in {1, 2}:\n    run(expert)",
        "[run(e) for e in set(experts)]",
        "seed = hash('a')",
    ],
)
def test_a_clock_or_chance_is_found(source: str) -> None:
    assert list(whims(source))


def test_what_is_seeded_or_sorted_is_allowed() -> None:
    fine = "rng = np.random.default_rng(seed)\nfor e in sorted(set(experts)):\n    np.random.SeedSequence(e)\n"
    assert list(whims(fine)) == []


# Layers

# module -> (its source, the import that the contract must name)
PLANTED = {
    "emulation.planted": ("import schedulers", "schedulers"),
    "schedulers.planted": ("import torch", "torch"),
    "workloads.planted": ("def late() -> None:\n    import schedulers", "schedulers"),
    "moe.planted": ("from prometheus_client import Counter", "prometheus_client"),
    "actors.planted": ("import cluster.planted", "cluster.planted"),
    "cluster.planted": ("import studies", "studies"),
    "cluster.serve.planted": ("import grpc", "grpc"),
    "studies.planted": ("import ray", "ray"),
    "moelab.planted": ("from cluster import main", "cluster.main"),
}


def import_contract(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_import_contract_holds_and_names_every_planted_violation(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for file in python_files(*PACKAGES):
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    kept = import_contract(tmp_path)
    assert kept.returncode == 0, kept.stdout

    for module, (source, _) in PLANTED.items():
        (tmp_path / module.replace(".", "/")).with_suffix(".py").write_text(source + "\n", encoding="utf-8")
    # Not violations: a command that starts a study, who may import these libraries, and who uses those.
    for name, source in {
        "cluster/commands/planted.py": "import studies",
        "cluster/transports/ray/planted.py": "import ray",
        "cluster/observe/metrics/collector.py": "import prometheus_client",
        "cluster/observe/user.py": "import cluster.observe.metrics.collector\nimport cluster.transports.ray.planted",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).parent.joinpath("__init__.py").touch()
        (tmp_path / name).write_text(source + "\n", encoding="utf-8")
    broken = import_contract(tmp_path)
    assert broken.returncode == 1
    for module, (_, imported) in PLANTED.items():
        assert f"{module} -> {imported} (l." in broken.stdout, module
    for allowed in ("cluster.commands.planted", "cluster.transports.ray.planted ->",
                    "cluster.observe.metrics.collector ->"):
        assert allowed not in broken.stdout
    assert "0 broken" not in broken.stdout
    assert "0 kept" in broken.stdout


# Installation


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with packages and configs of its own, whose names are ours too."""
    for name in ("moe", "cluster", "configs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong folder was imported')\n")
    return tmp_path


def run_elsewhere(folder: Path, *command: str | Path) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_console_script_runs_from_a_folder_with_a_moe_of_its_own(elsewhere: Path) -> None:
    assert "Usage" in run_elsewhere(elsewhere, Path(sys.executable).with_name("moelab"), "--help")


def test_install_exposes_our_packages_and_no_other_folder(elsewhere: Path) -> None:
    folders = sorted(path.name for path in ROOT.iterdir() if path.is_dir() and path.name.isidentifier())
    assert set(PACKAGES) < set(folders)
    # -P: without it python -c puts the current folder first, which the console script does not.
    program = (
        "import importlib.util as u, sys\n"
        "for name in sys.argv[1:]:\n"
        "    spec = u.find_spec(name)\n"
        "    print(name, *(spec.submodule_search_locations or []) if spec else [], sep=chr(9))"
    )
    printed = run_elsewhere(elsewhere, sys.executable, "-P", "-c", program, *folders)
    places = {name: where for name, *where in (line.split("\t") for line in printed.splitlines())}
    ours = {name: where for name, where in places.items() if str(ROOT / name) in where}
    data = ours.pop("configs", None)  # a namespace: it has no code, and other folders may bear its name
    assert data is not None
    assert ours == {name: [str(ROOT / name)] for name in PACKAGES}
