"""What was read from a file, kept until the file changes: points of a sweep share machines, traces and digests."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

FRESH_NS = 100_000_000
"""A file that was written less than this ago is not kept: a clock of a few milliseconds might hide the next change."""


def kept(most: int) -> Callable[[Callable[Concatenate[Path, P], T]], Callable[Concatenate[Path, P], T]]:
    """Let a reader of files remember what it made of the last so many; what it makes is nobody's to change.

    A file has changed where its place on the disk, its size or its time has. An error is not remembered.
    """
    def remembering(read: Callable[Concatenate[Path, P], T]) -> Callable[Concatenate[Path, P], T]:
        known: OrderedDict[Hashable, T] = OrderedDict()

        @wraps(read)
        def reading(path: Path, /, *more: P.args, **named: P.kwargs) -> T:
            try:
                now = path.stat()
            except OSError:
                return read(path, *more, **named)
            if time.time_ns() - now.st_mtime_ns < FRESH_NS:
                return read(path, *more, **named)
            key = (path.absolute(), now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns, more,
                   tuple(sorted(named.items())))
            if key not in known:
                known[key] = read(path, *more, **named)
                while len(known) > most:
                    known.popitem(last=False)
            known.move_to_end(key)
            return known[key]

        return reading

    return remembering


@kept(most=256)
def file_sha256(path: Path) -> bytes:
    """The SHA-256 of what a file holds."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
