"""The rows of a sweep in a store: an object a row, whole or not there."""

import json
from types import TracebackType

from cluster.observe.digest import canonical
from cluster.observe.store import Store
from emulation.errors import InputError
from studies.sweep_rows import Row, parsed

ROWS_FOLDER = "rows"


def read_objects(folder: Store) -> list[Row]:
    """The row of every point, in the order of the points' keys."""
    rows = []
    for name, data in (folder / ROWS_FOLDER).read_all().items():
        if not name.endswith(".json"):
            continue
        row = parsed(data)
        if row is None or name != f"{row['point']}.json":
            raise InputError(f"{folder / ROWS_FOLDER / name} is no row of a sweep: choose another folder, or take that "
                             "object out")
        rows.append(row)
    return rows


class RowObjects:
    """A sweep's rows in a folder of a store: `rows/POINT.json`. What `append` has returned from is there.

    A second sweep into the same folder is not refused, since stores have no locks: both carry out what neither has
    seen, and leave the same rows.
    """

    torn_bytes = 0

    def __init__(self, folder: Store) -> None:
        self._folder = folder / ROWS_FOLDER
        self.rows: dict[str, Row] = {row["point"]: row for row in read_objects(folder)}

    def __enter__(self) -> "RowObjects":
        return self

    def append(self, row: Row) -> None:
        """Write a row as an object, in place of an earlier one of its point."""
        data = canonical(row) + b"\n"
        self._folder.write_whole({f"{row['point']}.json": lambda file: file.write(data)})
        self.rows[row["point"]] = json.loads(data)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 where: TracebackType | None) -> None:
        """Nothing is open."""
