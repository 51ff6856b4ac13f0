"""One point of a sweep, carried out: its row, and its result where that is kept. What a worker process does."""

import gc
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.observe.result import Result
from cluster.observe.tidy import rows
from cluster.run import run
from emulation.errors import MoelabError
from studies.sweep_rows import FAILED, OK, Row
from studies.sweep_study import Point

DETAIL = {"busy", "stall", "skew", "runs", "critical path", "energy by link"}
"""Parts of a result whose figures are by lane, layer or device: those are in result.json."""

PLAIN = {"run", "latency", "phase"}
"""Parts that a column's name does without: what is within says enough (`ttft.p50_s`, `decode.hit_rate`)."""

SUMMED, LARGEST = {"traffic"}, {"memory"}
"""Parts by link, summed over links, and parts by device, of which a column has the largest."""

_ENDS = {"s": "_s", "B": "_bytes"}


@dataclass(frozen=True)
class Task:
    """A point to carry out, and whether its whole result comes back. bounded: whether its row has the lower bound, and
    with it the digest of a whole result."""

    point: Point
    keep: bool = False
    bounded: bool = True


@dataclass(frozen=True)
class Answer:
    """A point's row, and the text of its result where that was asked for."""

    row: Row
    result: str | None = None


def carry_out(task: Task) -> Answer:
    """Run a point; what goes wrong with it is its row. Gives back the memory of its run."""
    try:
        return _carry_out(task)
    finally:
        # A run's parts refer to each other, so only the collector frees them: without it, ten megabytes a point.
        # What stays (modules, kernels) is set aside, or each look at all of it would cost as long as a short run.
        gc.collect()
        gc.freeze()


def _carry_out(task: Task) -> Answer:
    began = time.perf_counter()
    result: Result | None = None
    try:
        result = run(task.point.config, one_thread=True, bounded=task.bounded)
        found = {**({"digest": result.digest} if task.bounded else {}), **figures(result)}
        status = OK
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 (a policy from outside may raise anything, and other points go on)
        status, found = FAILED, {"error": sentence(error), "error_kind": type(error).__name__}
    row = {**head(task.point, status), **found, "host_s": round(time.perf_counter() - began, 6)}
    return Answer(row, result.to_json() if result is not None and status == OK and task.keep else None)


def died(point: Point, how: str, attempts: int) -> Row:
    """The row of a point whose worker ended each time."""
    return {**head(point, FAILED), "error": f"its worker {how}, {attempts} times in {attempts} attempts",
            "error_kind": "WorkerDied"}


def head(point: Point, status: str) -> Row:
    """How a row begins: which point, how it ended, and where it lies."""
    config = point.config
    named = {"machine": config.machine.name, "precision": config.precision, "policy": config.policy.name,
             "seed": config.seed, "model": config.model.name or config.model.config or config.model.checkpoint}
    return {"point": point.key, "status": status, **named, **point.at}


def figures(result: Result) -> dict[str, Any]:
    """The figures of a result as flat columns, named with their units; whatever `tidy` adds comes along."""
    out: dict[str, Any] = {}
    for row in rows(result):
        if row.part in DETAIL or row.name.isdecimal():
            continue
        figure = row.figure.replace(" ", "_") + _ENDS.get(row.unit, "")
        if row.part in SUMMED | LARGEST:
            column = f"{row.part}.{figure}"
            before = out.get(column)
            both = [value for value in (before, row.value) if value is not None]
            out[column] = (sum if row.part in SUMMED else max)(both) if both else None
        else:
            parts = ("" if row.part in PLAIN else row.part, row.name, figure)
            out[".".join(part for part in parts if part)] = row.value
    return out


def sentence(error: BaseException) -> str:
    """What went wrong, in one line; of what is no error of ours, also where."""
    text = " ".join(str(error).split())
    if isinstance(error, MoelabError):
        return text
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name} line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}{': ' + text if text else ''}"
