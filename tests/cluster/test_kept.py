"""What was read from a file is read again when the file changes, and not before."""

from pathlib import Path

import pytest

from cluster.kept import file_sha256, kept


def test_a_file_is_read_once_until_it_changes(tmp_path: Path) -> None:
    read: list[Path] = []

    @kept(most=2)
    def content(path: Path, more: str = "") -> str:
        read.append(path)
        return path.read_text() + more

    a, b, c = (tmp_path / name for name in "abc")
    for path in (a, b, c):
        path.write_text(path.name)
    assert [content(a), content(a), content(a, "x"), content(a, "x")] == ["a", "a", "ax", "ax"]
    assert read == [a, a]
    a.write_text("other")
    assert content(a) == "other"
    assert [content(b), content(c), content(b)] == ["b", "c", "b"]
    assert read == [a, a, a, b, c]
    content(a)  # the first of three, of which two are kept
    assert read == [a, a, a, b, c, a]
    with pytest.raises(FileNotFoundError):
        content(tmp_path / "none")


def test_a_digest_follows_its_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    empty = file_sha256(file)
    assert empty.hex().startswith("e3b0c44298fc1c14")
    file.write_bytes(b"x")
    assert file_sha256(file) != empty
