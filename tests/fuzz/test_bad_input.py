"""A thousand files that are nearly right: each is read, or refused in one sentence, soon and leaving nothing behind.

A failure names its target and number; `python -m tests.fuzz.test_bad_input TARGET NUMBER` writes the case again. What
was found so stays in tests/corpus/, a file a finding.
"""

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.config.names import CONFIGS
from emulation.errors import MoelabError
from tests.fuzz.targets import CORPUS, ROOT, TARGETS, Target

SEED = 6
EACH = 64
SOAK_EACH = 640
CPU_LIMIT_S = 10.0
MEMORY_BYTES = 1 << 30
LONGEST = 7000
"""Of a sentence, in characters: it may quote a path, and some cases name paths of 6000."""

BOUNDED = """
import resource, sys
from pathlib import Path
import torch
from tests.fuzz.test_bad_input import MEMORY_BYTES, TARGETS, refusal, try_cases

name, first, last, folder = sys.argv[1:]
for data in TARGETS[name].good().values():  # what making and reading it loads is not the cases'
    assert refusal(TARGETS[name], data, Path(folder) / "case") is None
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY_BYTES,) * 2)
print(try_cases(name, range(int(first), int(last)), Path(folder)))
"""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Within it no more CPU time than this: other processes of the machine do not count, and no case waits."""
    def stop(*_: object) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def case(name: str, number: int, goods: dict[str, bytes]) -> bytes:
    """The case of a target with this number."""
    draw = random.Random(f"{SEED} {name} {number}")
    return TARGETS[name].change(draw, goods[draw.choice(sorted(goods))])


def refusal(target: Target, data: bytes, folder: Path) -> str | None:
    """What is said of a file that is refused; None where it is read. Anything else is raised."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if not (beside := folder.with_name("workload")).exists():
        beside.symlink_to(CONFIGS / "workload")  # runs that ship with moelab name ../workload/...
    path = folder / target.file
    path.write_bytes(data)
    with limited(CPU_LIMIT_S), warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            target.read(path)
        except MoelabError as error:
            return str(error)
    return None


def check_sentence(said: str) -> None:
    assert said.strip()
    assert len(said) <= LONGEST, f"{len(said)} characters"
    assert "\n" not in said, repr(said)
    for word in ("Traceback", "pydantic", "object at 0x"):
        assert word not in said, said
    said.encode("utf-8")


def try_cases(name: str, numbers: range, folder: Path) -> dict[str, int]:
    """Every case of a target with these numbers; how many were read and refused, or what was wrong with all others."""
    target, wrong, seen = TARGETS[name], [], {"read": 0, "refused": 0}
    goods = dict(target.good())
    for number in numbers:
        data = case(name, number, goods)
        try:
            said = refusal(target, data, folder / "case")
            if said is not None:
                check_sentence(said)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            wrong.append(f"{name} {number}: {type(error).__name__}: {str(error)[:300]}")
        else:
            seen["read" if said is None else "refused"] += 1
    assert not wrong, "\n".join(wrong)
    return seen


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_nearly_right_is_read_or_refused_in_a_sentence(name: str, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seen = try_cases(name, range(EACH), tmp_path)
    assert seen["refused"] > EACH // 4
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY_BYTES
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", TARGETS)
def test_ten_thousand_cases_in_a_bounded_memory(name: str, tmp_path: Path) -> None:
    """In a process of its own, which may not have more than so much memory beyond what it starts with."""
    done = subprocess.run([sys.executable, "-c", BOUNDED, name, str(EACH), str(SOAK_EACH), str(tmp_path)], cwd=ROOT,
                          capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_right_is_read(name: str, tmp_path: Path) -> None:
    for file, data in TARGETS[name].good().items():
        assert refusal(TARGETS[name], data, tmp_path / "case") is None, file
    if TARGETS[name].file == "case.yaml":
        for change in (lambda text: "# words\n\n" + text + "\n# words\n", lambda text: text.replace("\n", "\r\n"),
                       lambda text: "---\n" + text):
            assert refusal(TARGETS[name], change(data.decode()).encode(), tmp_path / "case") is None


@pytest.mark.parametrize("file", sorted(CORPUS.glob("*/*")), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_what_once_broke_is_refused_in_a_sentence(file: Path, tmp_path: Path) -> None:
    said = refusal(TARGETS[file.parent.name], file.read_bytes(), tmp_path / "case")
    assert said is not None
    check_sentence(said)


def test_reading_takes_memory_for_what_is_there_and_not_for_the_most_that_may_be(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 3000)
    script = """if True:
        import resource, sys
        from pathlib import Path
        from emulation.reading import PIECE_BYTES, read_bytes

        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + 16 * PIECE_BYTES,) * 2)
        print(len(read_bytes(Path(sys.argv[1]), "file", 1 << 32)), len(read_bytes(Path(sys.argv[1]), "file", 3000)))"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a")], cwd=ROOT, capture_output=True, text=True,
                          check=False)
    assert done.stdout == "3000 3000\n", done.stderr


def main(name: str, number: str) -> None:
    """Write a case into the current folder and read it, with the traceback of what goes wrong."""
    target, began = TARGETS[name], time.monotonic()
    data = case(name, int(number), dict(target.good()))
    kept = Path(f"{name}-{number}{Path(target.file).suffix}")
    kept.write_bytes(data)
    print(f"{kept}: {refusal(target, data, Path('case'))} ({time.monotonic() - began:.1f} s)")


if __name__ == "__main__":
    main(*sys.argv[1:])
