import os
import shutil
import subprocess
import sys
from pathlib import Path

SETUP = Path(__file__).resolve().parents[2] / "deploy" / "ci" / "setup.sh"


def checkout_with_linked_environment(folder: Path, python: Path | None) -> tuple[Path, Path]:
    """A checkout whose .venv is a link to another's environment, and that environment."""
    mine, shared = folder / "mine", folder / "shared"
    (mine / "deploy" / "ci").mkdir(parents=True)
    (shared / "bin").mkdir(parents=True)
    shutil.copy(SETUP, mine / "deploy" / "ci")
    for name in ("pyproject.toml", "constraints.txt"):
        (mine / name).write_text("")
    if python is not None:
        (shared / "bin" / "python").symlink_to(python)
    (shared / "kept").write_text("of another checkout")
    os.symlink(shared, mine / ".venv")
    return mine, shared


def set_up(checkout: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "deploy/ci/setup.sh"], cwd=checkout, capture_output=True, text=True, check=False)


def test_a_linked_environment_is_used_and_never_changed(tmp_path: Path) -> None:
    checkout, shared = checkout_with_linked_environment(tmp_path, Path(sys.executable))
    done = set_up(checkout)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in shared.iterdir()) == ["bin", "kept"]


def test_a_link_to_an_environment_that_is_broken_is_told_in_a_sentence(tmp_path: Path) -> None:
    checkout, shared = checkout_with_linked_environment(tmp_path, None)
    done = set_up(checkout)
    assert done.returncode == 1
    assert ".venv is a link to" in done.stderr
    assert (shared / "kept").read_text() == "of another checkout"
