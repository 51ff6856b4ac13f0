"""A sweep: every point of a study once, over all cores or a Ray cluster, whatever kills it in between."""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.observe.files import check_writable, write_texts
from cluster.observe.store import Store
from cluster.session import Progress, Silent
from emulation.errors import ConfigError, unknown
from studies.sweep_crew import Crew, Processes
from studies.sweep_objects import RowObjects
from studies.sweep_rows import FAILED, ROWS_FILE, Row, RowFile
from studies.sweep_study import Point, Study
from studies.sweep_work import Answer, Task, carry_out, died

ATTEMPTS = 2
"""How often a point is tried whose worker dies."""

TRANSPORTS = ("processes", "ray")


@dataclass(frozen=True)
class Swept:
    """What a sweep did. rows: of the study's points, in its order. ran, kept: points carried out now, and before.

    stray: rows in the file of points that are not in the study. torn_bytes: cut off an unfinished last row.
    """

    folder: Path | Store
    rows: list[Row]
    ran: int
    kept: int
    stray: int
    torn_bytes: int

    @property
    def failed(self) -> list[Row]:
        """Rows of points that failed."""
        return [row for row in self.rows if row["status"] == FAILED]


@dataclass(frozen=True)
class Options:
    """How a sweep is carried out. workers: by default one a core. keep: each point's whole result.json,
    too. wait_s: how long to wait for room on a Ray cluster; by default what the study's run says."""

    workers: int | None = None
    transport: str = "processes"
    retry_failed: bool = False
    keep: bool = False
    wait_s: float | None = None


def sweep(study: Study, folder: Path | Store, options: Options | None = None,
          progress: Progress | None = None) -> Swept:
    """Carry out every point of a study that the rows in a folder do not hold yet."""
    options = options or Options()
    if options.transport not in TRANSPORTS:
        raise ConfigError(unknown("transport of a sweep", options.transport, TRANSPORTS))
    check_writable(folder)
    heard = progress or Silent()
    with opened(folder, study, options, heard) as (file, crew):
        points = study.expand()
        before = dict(file.rows)
        wanted = [point for point in points if point.key not in before
                  or (options.retry_failed and before[point.key]["status"] == FAILED)]
        for done in carry_out_all(wanted, crew, heard, keep=options.keep):
            _record(done, file, folder)
        keys = {point.key for point in points}
        return Swept(folder, [{**file.rows[point.key], **point.at} for point in points], len(wanted),
                     len(points) - len(wanted), sum(key not in keys for key in file.rows), file.torn_bytes)


@contextmanager
def opened(folder: Path | Store, study: Study, options: Options,
           progress: Progress) -> Iterator[tuple[RowFile | RowObjects, Crew]]:
    """The rows in a folder, open for appending, and who carries out points."""
    with _rows(folder) as file, _crew(options, study, progress) as crew:
        yield file, crew


def _rows(folder: Path | Store) -> RowFile | RowObjects:
    return RowObjects(folder) if isinstance(folder, Store) else RowFile(folder / ROWS_FILE)


@contextmanager
def _crew(options: Options, study: Study, heard: Progress) -> Iterator[Crew]:
    if options.transport == "ray":
        from cluster.transports.ray.pool import Pool

        asked = study.on_ray()
        if options.wait_s is not None:
            asked = asked.model_copy(update={"wait_s": options.wait_s})
        with Pool(carry_out, options.workers, study.name, asked, heard) as pool:
            yield pool
    else:
        with Processes(options.workers) as processes:
            yield processes


def carry_out_all(points: Iterable[Point], crew: Crew, progress: Progress, *, keep: bool,
                  bounded: bool = True) -> Iterator[Answer]:
    """The answers as they come, the longest points first; one whose worker dies is tried again, then fails."""
    waiting = deque(sorted(points, key=lambda point: -point.work))
    work, done, failed, total = sum(point.work for point in waiting), 0.0, 0, len(waiting)
    tried: dict[str, int] = {}
    left = total
    while left:
        while waiting and crew.idle():
            crew.give(Task(waiting.popleft(), keep, bounded))
        task, told = crew.answer()
        point = task.point
        if isinstance(told, str):
            tried[point.key] = tried.get(point.key, 0) + 1
            if tried[point.key] < ATTEMPTS:
                waiting.appendleft(point)
                continue
            told = Answer(died(point, told, ATTEMPTS))
        yield told
        left, done, failed = left - 1, done + point.work, failed + (told.row["status"] == FAILED)
        progress.update(round(done), round(work),
                        f"{total - left} of {total} points{f', {failed} failed' if failed else ''}")


def _record(answer: Answer, file: RowFile | RowObjects, folder: Path | Store) -> None:
    """Keep an answer: its result first, so that a row never names a result that is not there."""
    if answer.result is not None:
        write_texts(folder / "results", {f"{answer.row['point']}.json": answer.result})
    file.append(answer.row)
