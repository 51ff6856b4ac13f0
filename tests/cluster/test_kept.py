"""What was read from a file is read again when the file changes, and not before."""

import os
import time
from pathlib import Path

import pytest

from cluster.kept import FRESH_NS, file_sha256, kept


def written(path: Path, text: str, age_ns: int) -> None:
    """A file of this text, last changed so long ago."""
    path.write_text(text)
    at = time.time_ns() - age_ns
    os.utime(path, ns=(at, at))


def test_a_file_is_read_once_until_it_changes(tmp_path: Path) -> None:
    read: list[Path] = []

    @kept(most=2)
    def content(path: Path, more: str = "") -> str:
        read.append(path)
        return path.read_text() + more

    a, b, c = (tmp_path / name for name in "abc")
    for path in (a, b, c):
        written(path, path.name, 9 * FRESH_NS)
    assert [content(a), content(a), content(a, "x"), content(a, "x")] == ["a", "a", "ax", "ax"]
    assert read == [a, a]
    written(a, "other", 5 * FRESH_NS)
    assert content(a) == "other"
    assert [content(b), content(c), content(b)] == ["b", "c", "b"]
    assert read == [a, a, a, b, c]
    content(a)  # the first of three, of which two are kept
    assert read == [a, a, a, b, c, a]
    with pytest.raises(FileNotFoundError):
        content(tmp_path / "none")


def test_a_file_that_was_just_written_is_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for text in ("x", "y", "z"):  # of one size, within one tick of the disk's clock
        file.write_text(text)
        assert kept_text(file) == text


@kept(most=9)
def kept_text(path: Path) -> str:
    return path.read_text()


def test_a_digest_follows_its_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    empty = file_sha256(file)
    assert empty.hex().startswith("e3b0c44298fc1c14")
    file.write_bytes(b"x")
    assert file_sha256(file) != empty
