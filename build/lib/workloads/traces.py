"""Trace files: a versioned .npz of plain columns, read without pickle and checked."""

import dataclasses
import os
import stat
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emulation.errors import InputError
from emulation.trace import Trace
from workloads.columns import checked

Array = NDArray[Any]
FORMAT_VERSION = 1
REQUIRED = ("experts", "step", "sequence", "phase")
LARGEST_BYTES = 16 << 30
MOST_COLUMNS = 64


def write_trace(path: Path, trace: Trace) -> None:
    """Write a trace file; it is there whole or not at all."""
    if path.suffix != ".npz":
        raise InputError(f"a trace file is an .npz, and {path} ends in {path.suffix or 'no suffix'}")
    name = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".trace.")
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, format_version=np.int64(FORMAT_VERSION),
                                num_experts=np.int64(trace.num_experts), model=np.array(trace.model), **trace.arrays())
        os.replace(name, path)
    except OSError as error:
        raise InputError(f"trace {path} could not be written: {error.strerror}") from None
    finally:
        if name is not None:
            Path(name).unlink(missing_ok=True)


def read_trace(path: Path) -> Trace:
    """Read and check a trace file. Absent columns are derived where they can be: position, layer_ids, weights."""
    columns = columns_of(path)
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise InputError(f"trace {path} has no column {missing[0]!r} (needed: {', '.join(REQUIRED)})"
                         + ("; `moelab trace convert` adds steps to plain routing" if "experts" in columns else ""))
    version = columns.get("format_version", np.array(FORMAT_VERSION))
    if version.shape != () or version != FORMAT_VERSION:
        raise InputError(f"trace {path} has format_version {version}; this moelab reads {FORMAT_VERSION}")
    return checked(f"trace {path}", columns)


def joined(parts: Sequence[Trace]) -> Trace:
    """Traces of one model, one after another: steps and sequences count on."""
    steps = np.cumsum([0, *(int(part.step.max()) + 1 for part in parts[:-1])])
    sequences = np.cumsum([0, *(int(part.sequence.max()) + 1 for part in parts[:-1])])
    columns = parts[0].arrays().keys() - {"layer_ids", "step", "sequence"}
    rows: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in sorted(columns)}
    step = np.concatenate([part.step + first for part, first in zip(parts, steps, strict=True)])
    sequence = np.concatenate([part.sequence + first for part, first in zip(parts, sequences, strict=True)])
    return dataclasses.replace(parts[0], **rows, step=step.astype(np.int32), sequence=sequence.astype(np.int32))


def columns_of(path: Path) -> dict[str, Array]:
    """The arrays of an .npz, read without pickle and only where they are of a size that anyone records."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path} is no trace file: it is a folder, a device or a pipe")
        with path.open("rb") as raw, zipfile.ZipFile(raw) as whole:
            size, count = sum(entry.file_size for entry in whole.infolist()), len(whole.infolist())
            if size > LARGEST_BYTES or count > MOST_COLUMNS:
                raise InputError(f"{path} unpacks to {size} bytes in {count} arrays: {LARGEST_BYTES} bytes in "
                                 f"{MOST_COLUMNS} are the most that is read")
            raw.seek(0)
            with np.load(raw, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise InputError(f"there is no trace file {path}") from None
    except (ValueError, OSError, EOFError, KeyError, AttributeError, TypeError, RuntimeError, MemoryError,
            SyntaxError, OverflowError, RecursionError, tokenize.TokenError, zipfile.BadZipFile, zlib.error) as error:
        # What numpy says of other files is how to load them unsafely, and of broken headers how it parses them.
        hidden = isinstance(error, tokenize.TokenError) or any(
            words in str(error) for words in ("pickle", "not a zip", "object at 0x"))
        reason = "" if hidden else f": {first_line(error)}"
        raise InputError(f"{path} is no trace file (an .npz of plain arrays){reason}") from None


def first_line(error: BaseException) -> str:
    """What an error says, on one line."""
    return next(iter(str(error).splitlines()), type(error).__name__)
