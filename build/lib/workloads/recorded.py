"""Recorded requests: one JSON object a line, read line by line; what is wrong is told with its file and line."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from emulation.errors import InputError, unknown
from emulation.units import PS_PER_S
from workloads.requests import LAST_PS, MOST_REQUESTS, MOST_TOKENS, NO_PREFIX, Requests

KEYS = ("arrival_s", "prompt_tokens", "output_tokens", "prefix", "prefix_tokens")
LONGEST_LINE = 1 << 16
_DIGITS = 40


def read_requests(path: Path, most: int | None = None, *, arrivals: bool = True) -> Requests:
    """The requests of a file, the first `most` lines of them, in order of arrival.

    Each line has prompt_tokens, output_tokens, arrival_s (a number of seconds) and, if its prompt begins like others,
    prefix (the name of those) and prefix_tokens. Blank lines are passed over. Without `arrivals` nobody asks for
    arrival_s, and the requests are in the order of their lines.
    """
    rows: list[tuple[int, int, int, int, int]] = []
    groups: dict[str, tuple[int, int]] = {}
    limit = MOST_REQUESTS if most is None else most
    try:
        with path.open("rb") as file:
            number = 0
            while len(rows) < limit and (line := file.readline(LONGEST_LINE + 1)):
                number += 1
                where = f"{path} line {number}"
                if len(line) > LONGEST_LINE:
                    raise InputError(f"{where} is longer than {LONGEST_LINE} bytes: a request is one short JSON object")
                if line.strip():
                    rows.append(_row(_parsed(line, where), where, groups, arrivals))
            if most is None and len(rows) == limit and file.readline(1):
                raise InputError(f"{path} holds more than {MOST_REQUESTS} requests: set workload.serving.requests")
    except OSError as error:
        raise InputError(f"requests {path} cannot be read: {error.strerror}") from None
    if not rows:
        raise InputError(f"{path} holds no request")
    if most is not None and len(rows) < most:
        raise InputError(f"{path} holds {len(rows)} requests, and workload.serving.requests asks for {most}")
    columns = np.array(rows, np.int64).T
    order = np.argsort(columns[0], kind="stable")
    return Requests(*(column[order] for column in columns))


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"), parse_float=_exactly, parse_int=_exactly, parse_constant=_no_number)
    except UnicodeDecodeError:
        raise InputError(f"{where} is not UTF-8 text") from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError(f"{where} is no JSON that is read here: {reason}") from None
    if not isinstance(row, dict):
        raise InputError(f"{where} is no JSON object: a request is written {{\"arrival_s\": 0.5, \"prompt_tokens\": "
                         "100, \"output_tokens\": 20}")
    for key in row:
        if key not in KEYS:
            raise InputError(f"{where}: {unknown('key', key, KEYS)}")
    return row


def _exactly(text: str) -> Fraction:
    """The number that a text says; refuses what would fill the memory."""
    if len(text) > _DIGITS or abs(int(text.lower().partition("e")[2] or "0")) > _DIGITS:
        raise ValueError(f"the number {text[:_DIGITS]} is out of all bounds")
    return Fraction(text)


def _no_number(text: str) -> Fraction:
    raise ValueError(f"{text} is no number")


def _row(row: dict[str, Any], where: str, groups: dict[str, tuple[int, int]],
         arrivals: bool) -> tuple[int, int, int, int, int]:
    prompt, output = (_tokens(row, key, where) for key in ("prompt_tokens", "output_tokens"))
    at_s = row.get("arrival_s") if arrivals else Fraction(0)
    if not isinstance(at_s, Fraction) or not 0 <= at_s * PS_PER_S < LAST_PS:
        told = "is missing" if at_s is None else f"is {_shown(at_s)}"
        raise InputError(f"{where}: arrival_s {told}; it is a number of seconds from 0 to {LAST_PS // PS_PER_S}")
    group, shared = NO_PREFIX, 0
    if "prefix" in row or "prefix_tokens" in row:
        name = row.get("prefix")
        if not isinstance(name, str | Fraction):
            raise InputError(f"{where}: prefix {'is missing' if name is None else f'is {_shown(name)}'}; it is the "
                             "name of the requests that begin alike, beside prefix_tokens")
        shared = _tokens(row, "prefix_tokens", where)
        if shared >= prompt:
            raise InputError(f"{where}: prefix_tokens is {shared}, and the prompt has {prompt}: a prompt is longer "
                             "than the prefix that it shares")
        group, first = groups.setdefault(str(name), (len(groups), shared))
        if first != shared:
            raise InputError(f"{where}: prefix_tokens is {shared}, and {first} on an earlier line of prefix "
                             f"{_shown(name)}: it is the same for all that share it")
    return int(at_s * PS_PER_S), prompt, output, group, shared


def _tokens(row: dict[str, Any], key: str, where: str) -> int:
    value = row.get(key)
    if not isinstance(value, Fraction) or value.denominator != 1 or not 1 <= value <= MOST_TOKENS:
        told = "is missing" if value is None else f"is {_shown(value)}"
        raise InputError(f"{where}: {key} {told}; it is a whole number from 1 to {MOST_TOKENS}")
    return int(value)


def _shown(value: object) -> str:
    """A value of a line as it is named to the user."""
    if isinstance(value, Fraction):
        return str(value.numerator) if value.denominator == 1 else repr(float(value))
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else text[:37] + "..."
