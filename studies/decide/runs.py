"""The runs of a decision: each carried out once over all cores, its row kept, whatever kills it in between."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cluster.observe.store import Store
from cluster.session import Progress, Silent
from emulation.errors import ConfigError, unknown
from studies.sweep import TRANSPORTS, Options, carry_out_all, opened
from studies.sweep_crew import Crew
from studies.sweep_objects import RowObjects
from studies.sweep_rows import FAILED, Row, RowFile
from studies.sweep_study import Point, Study

STAGES = ("search", "samples", "again", "swings", "break_even")


@dataclass
class Runs:
    """Rows by what a run is. asked: stage -> runs that no earlier stage asked for. carried: those carried out now.

    expected: stage -> how many it is thought to take, until it begins.
    """

    file: RowFile | RowObjects
    crew: Crew
    progress: Progress
    retry_failed: bool = False
    expected: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    asked: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    carried: int = 0
    _seen: dict[str, None] = field(default_factory=dict)
    _spent_s: float = 0.0

    def rows(self, points: Iterable[Point], stage: str) -> list[Row]:
        """The row of each point, in their order; those that have none are carried out, the longest first.

        Those of a search are whole, with their lower bound and digest; the others do without."""
        points = list(points)
        new: dict[str, Point] = {point.key: point for point in points if point.key not in self._seen}
        self._seen |= dict.fromkeys(new)
        self.asked[stage] += len(new)
        self.expected[stage] = max(self.expected[stage] - len(new), 0)
        whole = stage == "search"
        wanted = [point for key, point in new.items() if (row := self.file.rows.get(key)) is None
                  or (self.retry_failed if row["status"] == FAILED else whole and "digest" not in row)]
        began, left = time.monotonic(), len(wanted)
        for answer in carry_out_all(wanted, self.crew, Silent(), keep=False, bounded=whole):
            self.file.append(answer.row)
            left, self.carried = left - 1, self.carried + 1
            spent = self._spent_s + time.monotonic() - began
            self._tell(stage, left, spent / self.carried)
        self._spent_s += time.monotonic() - began
        return [self.file.rows[point.key] for point in points]

    def _tell(self, stage: str, left: int, each_s: float) -> None:
        to_do = left + sum(self.expected.values())
        text = f"{stage.replace('_', '-')}: run {self.carried} of about {self.carried + to_do}, {_time(to_do * each_s)}"
        self.progress.update(self.carried, self.carried + to_do, text)

    def forget(self, stage: str) -> None:
        """Nothing more comes of a stage."""
        self.expected[stage] = 0


def _time(left_s: float) -> str:
    if left_s < 90:
        return f"{left_s:.0f} s left"
    return f"{left_s / 60:.0f} min left"


@contextmanager
def runs_in(folder: Path | Store, study: Study, options: Options, progress: Progress) -> Iterator[Runs]:
    """The runs of a decision whose rows are kept in a folder."""
    if options.transport not in TRANSPORTS:
        raise ConfigError(unknown("transport of a decision", options.transport, TRANSPORTS))
    with opened(folder, study, options, progress) as (file, crew):
        yield Runs(file, crew, progress, options.retry_failed)
