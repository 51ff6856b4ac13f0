"""Files that appear whole or not at all."""

import errno
import fcntl
import glob
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import IO

from cluster.observe.store import Store
from emulation.errors import MoelabError


def write_whole(folder: Path | Store, writers: Mapping[str, Callable[[IO[bytes]], object]]) -> None:
    """Write files into a folder (made where absent): all of them, or, where one fails, none, told in one sentence.

    Each is written beside its place, flushed to the disk and moved there when all are complete; in a store, the last
    one is there only where the others are. What a writer that was killed left of these files is taken away.
    """
    if isinstance(folder, Store):
        folder.write_whole(writers)
        return
    parts = {name: folder / f".{name}.{os.getpid()}.part" for name in writers}
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    at = folder
    done = False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in writers:
            at = folder / name
            if at.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            _clear(folder, name)
        with ExitStack() as held:
            for name, writer in writers.items():
                at = folder / name
                file = held.enter_context(parts[name].open("wb"))
                _lock(file)
                writer(file)
                file.flush()
                os.fsync(file.fileno())
            for name, part in parts.items():
                at = folder / name
                part.replace(at)
        done = True
    except OSError as error:
        raise MoelabError(f"cannot write {at}: {error.strerror or error}; nothing was written, so free some space or "
                          "choose another folder") from None
    finally:
        if not done:
            _remove(list(parts.values()), made)


def write_texts(folder: Path | Store, texts: Mapping[str, str]) -> None:
    """The same of texts, in UTF-8."""
    write_whole(folder, text_writers(texts))


def text_writers(texts: Mapping[str, str]) -> dict[str, Callable[[IO[bytes]], object]]:
    """What writes texts, for `write_whole`."""
    return {name: partial(_put, text.encode("utf-8")) for name, text in texts.items()}


def _put(data: bytes, file: IO[bytes]) -> None:
    file.write(data)


def _clear(folder: Path, name: str) -> None:
    """Take parts of a file away that nobody is writing: their writers were killed."""
    for part in folder.glob(f".{glob.escape(name)}.*.part"):
        with suppress(OSError), part.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()


def _lock(file: IO[bytes]) -> None:
    """Show that this file is being written, on file systems that know locks; others clear nothing away either."""
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove(parts: list[Path], folders: list[Path]) -> None:
    for part in parts:
        if part.exists():
            part.unlink()
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def check_writable(folder: Path | Store) -> None:
    """Tell before the work whether files can be written into a folder; leaves nothing."""
    if isinstance(folder, Store):
        folder.check_writable()
        return
    probe = ".probe"
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    write_whole(folder, {probe: lambda file: file.write(b"moelab")})
    _remove([folder / probe], made)
