"""A checkpoint sent to the nodes of a cluster: once to each, into a folder that its content names.

Bytes travel through Ray's object store, file by file in pieces; no code does. The first actor of a node that needs a
checkpoint unpacks it under a lock, and proves size and SHA-256 of every file; the others, and later runs, find it.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.kept import file_sha256
from cluster.observe.digest import canonical, sha256
from emulation.errors import TransportError

PIECE_BYTES = 64 << 20
CACHE = "MOELAB_CACHE"
NEEDED = ("config.json", "model.safetensors.index.json", "*.safetensors")


@dataclass(frozen=True)
class File:
    """One file of a checkpoint: a bare name, its size, its SHA-256, and Ray's references of its pieces in order."""

    name: str
    size: int
    sha256: str
    pieces: tuple[Any, ...]


@dataclass(frozen=True)
class Parcel:
    """What is sent of a checkpoint. key: SHA-256 of its files' names, sizes and contents."""

    key: str
    name: str
    files: tuple[File, ...]


def pack(folder: Path) -> Parcel:
    """Put what devices read of a checkpoint into the object store of this node."""
    files = [File(path.name, path.stat().st_size, file_sha256(path).hex(), tuple(_put(path)))
             for path in sorted({path for pattern in NEEDED for path in folder.glob(pattern)})]
    key = sha256(canonical([[file.name, file.size, file.sha256] for file in files]))
    return Parcel(key, folder.resolve().name, tuple(files))


def _put(path: Path) -> Iterator[Any]:
    import ray

    size = path.stat().st_size
    for at in range(0, size, PIECE_BYTES):
        yield ray.put(np.fromfile(path, np.uint8, min(PIECE_BYTES, size - at), offset=at))


def unpack(parcel: Parcel) -> tuple[Path, bool]:
    """The checkpoint's folder on this node, and whether it had to be unpacked."""
    home = _home()
    folder = home / parcel.key / parcel.name  # its own last name: models are called by it
    with (home / f"{parcel.key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_whole(folder, parcel):
            return folder, False
        shutil.rmtree(folder.parent, ignore_errors=True)
        part = Path(tempfile.mkdtemp(prefix=f".{parcel.key[:16]}.", dir=home))
        try:
            inner = part / parcel.name
            inner.mkdir()
            for file in parcel.files:
                _write(inner / file.name, file)
            part.rename(folder.parent)
        except OSError as error:
            raise TransportError(f"a checkpoint that was sent cannot be unpacked into {home}: "
                                 f"{error.strerror or error}; free some space there, or name another folder in {CACHE}"
                                 ) from None
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder, True


def _is_whole(folder: Path, parcel: Parcel) -> bool:
    """Whether each file is there in its size: it was proven before its folder got its name."""
    try:
        return all((folder / file.name).stat().st_size == file.size for file in parcel.files)
    except OSError:
        return False


def _write(path: Path, file: File) -> None:
    import ray

    if Path(file.name).name != file.name:
        raise TransportError(f"a checkpoint was sent with a file {file.name!r}, which is no bare name")
    with path.open("wb") as out:
        for piece in file.pieces:
            out.write(ray.get(piece).data)
        out.flush()
        os.fsync(out.fileno())
    found = file_sha256(path).hex()
    if path.stat().st_size != file.size or found != file.sha256:
        raise TransportError(f"{file.name} of a checkpoint arrived with SHA-256 {found}, and was sent with "
                             f"{file.sha256}")


def _home() -> Path:
    """The folder of what was sent to this node; nobody else may write there."""
    home = Path(os.environ.get(CACHE) or Path(tempfile.gettempdir()) / f"moelab-{os.geteuid()}")
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = home.stat().st_uid
    except OSError as error:
        raise TransportError(f"the folder of checkpoints that were sent, {home}, cannot be used: {error.strerror}; "
                             f"name another in {CACHE}") from None
    if owner != os.geteuid():
        raise TransportError(f"{home} belongs to another user: name another folder in {CACHE}")
    return home
