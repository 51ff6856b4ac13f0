"""The memory of the compiled engine: all tables in one array, which grows as a whole.

One large array is kept by the allocator when an engine goes, or lies in huge pages: the next engine does not pay for
thousands of fresh pages. It also makes one argument of all tables.
"""

from collections.abc import Mapping

import numpy as np

from emulation.engine import compiled_layout as c
from emulation.engine.compiled_layout import Ints, Tables

LINE = 8
"""Words of a line of the cache: tables begin at one, so that a row of an operation is one line."""


class Memory:
    """`words`: what kernels are given; `tables`: views into it."""

    def __init__(self, s: Ints) -> None:
        self._s = s
        self._rooms = dict.fromkeys(Tables._fields, 0)
        self.words: Ints = np.empty(0, np.int64)
        self.tables = Tables(*(_view(self.words, 0, 0, width) for width in c.WIDTHS))

    def grow(self, least: Mapping[str, int]) -> None:
        """Room for so many rows of the tables that are named; where that is more than there was, for twice that."""
        short = {name: rows for name, rows in least.items() if rows > self._rooms[name]}
        if not short:
            return
        for name, rows in short.items():
            self._rooms[name] = max(rows, 2 * self._rooms[name])
        rooms = list(self._rooms.values())
        sizes = [-(-room * width // LINE) * LINE for room, width in zip(rooms, c.WIDTHS, strict=True)]
        raw = np.empty(sum(sizes) + LINE, np.int64)
        shift = -(raw.ctypes.data // raw.itemsize) % LINE
        self.words = raw[shift:shift + sum(sizes)]
        at = np.cumsum([0, *sizes[:-1]])
        old = self.tables
        self.tables = Tables(*(_view(self.words, int(word), room, width)
                               for word, room, width in zip(at, rooms, c.WIDTHS, strict=True)))
        self._s[c.LISTED] = self._s[[c.FRESH_N, c.CLAIM_N, c.DUE_N, c.REACHED_N, c.ACTIVE_N]].max()
        for table, rows, count in zip(self.tables, old, c.COUNTS, strict=True):
            used = rows[:self._s[count]]
            table[:len(used)] = used
        self._fill_buckets()
        self._s[c.ROOM:c.ROOM + len(rooms)] = rooms
        self._s[c.AT_WORD:c.AT_WORD + len(rooms)] = at

    def _fill_buckets(self) -> None:
        sets, buckets = self.tables.sets, self.tables.buckets
        buckets[:] = c.NONE
        for lanes in range(int(self._s[c.N_LANES]), int(self._s[c.SETS_N])):
            bucket = (int(sets[lanes, c.HASH]) >> c.HASH_SHIFT) % len(buckets)
            sets[lanes, c.SAME_BUCKET], buckets[bucket] = buckets[bucket], lanes


def _view(words: Ints, at: int, rows: int, width: int) -> Ints:
    """A table; of one column, a column."""
    view = words[at:at + rows * width]
    return view if width == 1 else view.reshape(rows, width)
