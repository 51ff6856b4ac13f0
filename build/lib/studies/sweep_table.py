"""A sweep's rows for a terminal: the best points first, and what failed."""

from collections.abc import Callable
from typing import Any

from rich.console import Group
from rich.table import Table

from cluster.observe.table import bytes_text, number_text, percent_text, time_text
from emulation.errors import ConfigError, unknown
from studies.sweep_rows import FAILED, OK, Row, column_names, coordinates

SHOWN = ("makespan_s", "output_tokens_per_s", "ttft.p50_s", "tpot.p50_s", "slo.share", "slo.requests_per_s",
         "decode.hit_rate", "memory.peak_bytes", "bound.times", "energy.joules_per_token")
MOST = "output_tokens_per_s"


def best(rows: list[Row], most: str | None = None, least: str | None = None) -> list[Row]:
    """The rows of points that ended well, the best first: by the most, or the least, of a column.

    Rows without a value there come last; equals stay in their order.
    """
    done = [row for row in rows if row["status"] == OK]
    column = least or most or MOST
    if done and not any(_is_number(row.get(column)) for row in done):
        known = [name for name in column_names(done) if any(_is_number(row.get(name)) for row in done)]
        raise ConfigError(f"no point has a number in {column!r}: {unknown('column', column, known)}")
    sign = 1 if least else -1
    return sorted(done, key=lambda row: (not _is_number(row.get(column)),
                                         sign * row[column] if _is_number(row.get(column)) else 0))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def varying(rows: list[Row]) -> list[str]:
    """The coordinates in which points differ; all of them where there is one point."""
    places = [coordinates(row) for row in rows]
    return [name for name in column_names(places)
            if len({repr(place.get(name)) for place in places}) > 1 or len(rows) == 1]


def short(paths: list[str]) -> list[str]:
    """Dotted paths by their last words, as many as it takes to tell them apart."""
    out = []
    for path in paths:
        words = path.split(".")
        ends = [".".join(words[-n:]) for n in range(1, len(words) + 1)]
        out.append(next(end for end in ends if sum(f".{other}".endswith(f".{end}") for other in paths) == 1
                        or end == path))
    return out


def table(rows: list[Row], most: str | None, least: str | None, top: int) -> Group:
    """The best points in a table, and how many failed with which sentence."""
    ranked, column = best(rows, most, least), least or most or MOST
    places = varying(rows)
    shown = list(dict.fromkeys((column, *SHOWN)))
    shown = [name for name in shown if any(row.get(name) is not None for row in ranked)]
    out = Table(title=f"{min(top, len(ranked))} of {len(ranked)} points, the {'least' if least else 'most'} {column} "
                "first", title_justify="left")
    for name, head in zip((*places, *shown), (*short(places), *shown), strict=True):
        out.add_column(head, justify="left" if name in places else "right", no_wrap=True)
    for row in ranked[:top]:
        out.add_row(*("" if row.get(name) is None else str(row[name]) for name in places),
                    *(_text(name)(row.get(name)) for name in shown))
    return Group(*([out] if ranked else []), *_failures(rows))


def _failures(rows: list[Row]) -> list[str]:
    """One line for each kind of failure: how many, and the sentence of the first."""
    first: dict[str, Row] = {}
    count: dict[str, int] = {}
    for row in rows:
        if row["status"] == FAILED:
            first.setdefault(row["error_kind"], row)
            count[row["error_kind"]] = count.get(row["error_kind"], 0) + 1
    return [f"failed: {count[kind]} points, {kind}: {row['error']}" for kind, row in first.items()]


def _text(name: str) -> Callable[[Any], str]:
    """How a column's numbers read, by the unit that its name ends with."""
    if name.endswith("_per_s"):
        return number_text
    if name.endswith("_s"):
        return time_text
    if name.endswith("_bytes"):
        return bytes_text
    return percent_text if name.endswith(("_rate", "share")) else number_text
