"""The rows of a sweep in a file: one line of JSON each, appended whole; what a kill left of a last one is dropped."""

import fcntl
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from cluster.observe.digest import canonical
from emulation.errors import InputError, MoelabError
from emulation.extras import require

Row = dict[str, Any]

ROWS_FILE = "rows.jsonl"
OK, FAILED = "ok", "failed"
LARGEST_BYTES = 1 << 32


def read_rows(path: Path) -> list[Row]:
    """The last row of every point in a file, in the order in which points first came; a torn last line is left out."""
    try:
        return list(_latest(_whole_lines(path)[0], path).values())
    except OSError as error:
        raise InputError(f"the rows of a sweep in {path} cannot be read: {error.strerror}") from None


class RowFile:
    """A sweep's rows, open for appending; a second sweep that opens the same file is refused.

    What `append` has returned from is on the disk. Whole lines only: what a kill or a full disk left of a last line is
    cut off. rows: the last row of each point. torn_bytes: what was cut off as it was opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, Row] = {}
        self.torn_bytes = 0
        self._file = -1

    def __enter__(self) -> "RowFile":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lines, size = _whole_lines(self.path)
            self.rows = _latest(lines, self.path)
            self.torn_bytes = os.fstat(self._file).st_size - size
            if self.torn_bytes:
                os.ftruncate(self._file, size)
                os.fsync(self._file)
            folder = os.open(self.path.parent, os.O_RDONLY)
            os.fsync(folder)  # the file's name, too, is on the disk before a row is
            os.close(folder)
        except BlockingIOError:
            self._close()
            raise MoelabError(f"another sweep is writing into {self.path}: wait for it, or choose another folder with "
                              "--out") from None
        except OSError as error:
            self._close()
            raise MoelabError(f"cannot write {self.path}: {error.strerror}") from None
        except BaseException:
            self._close()
            raise
        return self

    def append(self, row: Row) -> None:
        """Write a row as one line; it is on the disk, or the file is as it was."""
        line = canonical(row) + b"\n"
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        size = os.fstat(self._file).st_size
        try:
            done = os.write(self._file, line)
            if done != len(line):
                done += os.write(self._file, line[done:])  # fails with the reason
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, size)
            raise MoelabError(f"cannot write {self.path}: {error.strerror or error}; its {len(self.rows)} points are "
                              "kept: free some space and start the sweep again, which goes on from there") from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self.rows[row["point"]] = row

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 where: TracebackType | None) -> None:
        self._close()

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _whole_lines(path: Path) -> tuple[list[bytes], int]:
    """The lines of a file up to the last that ends and can be read, and how many bytes they take."""
    if path.stat().st_size > LARGEST_BYTES:
        raise InputError(f"{path} is above {LARGEST_BYTES} bytes: no file of rows is so large")
    data = path.read_bytes()
    lines = data[:data.rfind(b"\n") + 1].splitlines(keepends=True)
    if lines and parsed(lines[-1]) is None:
        lines.pop()
    return lines, sum(map(len, lines))


def _latest(lines: list[bytes], path: Path) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for number, line in enumerate(lines, 1):
        row = parsed(line)
        if row is None:
            raise InputError(f"{path} line {number} is no row of a sweep: choose another folder, or take that line out")
        rows[row["point"]] = row
    return rows


def parsed(line: bytes) -> Row | None:
    """The row on a line; None where it holds none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(row, dict) and isinstance(row.get("point"), str) and row.get("status") in (OK, FAILED)
    return row if whole else None


def write_parquet(rows: list[Row], path: Path) -> None:
    """The rows as a Parquet file, a column each; a column of mixed kinds becomes text."""
    from cluster.observe.files import write_whole

    require("a Parquet file", "parquet")
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({name: _column(rows, name) for name in column_names(rows)})
    write_whole(path.parent, {path.name: lambda file: pyarrow.parquet.write_table(table, file)})


def column_names(rows: list[Row]) -> list[str]:
    """Every column that any row has: how the points lie and ended first, figures as they come."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _column(rows: list[Row], name: str) -> list[Any]:
    values = [row.get(name) for row in rows]
    kinds = {bool if isinstance(v, bool) else float if isinstance(v, int | float) else type(v)
             for v in values if v is not None}
    if len(kinds) > 1:
        return [None if v is None else str(v) for v in values]
    wide = any(isinstance(v, float) for v in values)
    return [float(v) if wide and v is not None else v for v in values]


def coordinates(row: Mapping[str, Any]) -> dict[str, Any]:
    """What of a row says where its point lies."""
    from cluster.config.run import RunConfig

    return {name: value for name, value in row.items() if name.split(".")[0] in RunConfig.model_fields}
