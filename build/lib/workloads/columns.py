"""The columns of a trace file, checked one by one: what is wrong with one is told with its name and its values."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emulation.errors import InputError
from emulation.trace import NO_EXPERT, Trace
from emulation.view import DECODE, PREFILL

Array = NDArray[Any]
Ints = NDArray[np.int64]
MOST = 2**31 - 1
LATEST_PS = 2**62


def checked(where: str, columns: Mapping[str, Array]) -> Trace:
    """The trace that these columns amount to; what is absent is derived where it can be."""
    experts = columns["experts"]
    if experts.ndim != 3 or experts.dtype.kind not in "ui" or not experts.size:
        raise InputError(f"{where}: experts is {experts.dtype} {list(experts.shape)}; it must be integers "
                         "[tokens, layers, top_k] with at least one token")
    tokens, layers, _ = experts.shape
    picked = _ids(experts)
    named = picked[picked != NO_EXPERT]
    count = int(_whole(where, columns, "num_experts", (), 1, NO_EXPERT) if "num_experts" in columns
                else named.max(initial=0) + 1)
    if named.size and named.max() >= count:
        raise InputError(f"{where} routes to expert {int(named.max())}, but has num_experts {count}")
    _check_distinct(where, picked)
    step, sequence = (_whole(where, columns, name, (tokens,)) for name in ("step", "sequence"))
    phase = _whole(where, columns, "phase", (tokens,), PREFILL, DECODE, " (prefill) or ", " (decode)")
    if (np.diff(step) < 0).any():
        raise InputError(f"{where}: step goes back at token {int(np.argmax(np.diff(step) < 0)) + 1}; "
                         "tokens are listed by step")
    _check_together(where, step, sequence)
    position = _whole(where, columns, "position", (tokens,)) if "position" in columns else _positions(sequence)
    ids = _whole(where, columns, "layer_ids", (layers,), 0, NO_EXPERT) if "layer_ids" in columns else np.arange(layers)
    if (np.diff(ids) <= 0).any():
        raise InputError(f"{where}: layer_ids is {ids.tolist()[:8]}; it names {layers} layers, ascending")
    weights = _weights(where, columns, experts.shape)
    return Trace(str(columns.get("model", np.array("unknown"))), count, ids.astype(np.uint16),
                 picked.astype(np.uint16), weights, step.astype(np.int32), sequence.astype(np.int32),
                 position.astype(np.int32), phase.astype(np.uint8), _forecast(where, columns, experts.shape, count),
                 _whole(where, columns, "tokens", (tokens,)).astype(np.int32) if "tokens" in columns else None,
                 _time(where, columns, sequence) if "time" in columns else None)


def _whole(where: str, columns: Mapping[str, Array], name: str, shape: tuple[int, ...], least: int = 0,
           most: int = MOST, between: str = " to ", behind: str = "") -> Ints:
    """A column of whole numbers from `least` to `most`, one for each token (or as its shape says)."""
    column = columns[name]
    if column.shape != shape or column.dtype.kind not in "ui":
        each = ", one for each token of experts" if len(shape) == 1 and name != "layer_ids" else ""
        raise InputError(f"{where}: {name} is {column.dtype} {list(column.shape)}; it must be integers "
                         f"{list(shape)}{each}")
    wrong = column[(column < least) | (column > most)]
    if wrong.size:
        raise InputError(f"{where}: {name} holds {int(wrong.flat[0])}; it is {least}{between}{most}{behind}")
    return column.astype(np.int64)


def _time(where: str, columns: Mapping[str, Array], sequence: Ints) -> Ints:
    """When each token's request arrived, in picoseconds: one instant for a sequence."""
    time = _whole(where, columns, "time", sequence.shape, most=LATEST_PS)
    order = np.argsort(sequence, kind="stable")
    same = np.diff(sequence[order]) == 0
    if (moved := same & (np.diff(time[order]) != 0)).any():
        raise InputError(f"{where}: sequence {int(sequence[order][int(np.argmax(moved))])} arrives at two times")
    return time


def _ids(column: Array) -> Ints:
    """Expert ids; what is negative is none."""
    wide = column.astype(np.int64)
    wide[wide < 0] = NO_EXPERT
    return wide


def _check_distinct(where: str, picked: Ints) -> None:
    ordered = np.sort(picked, axis=2)
    twice = (ordered[:, :, 1:] == ordered[:, :, :-1]) & (ordered[:, :, 1:] != NO_EXPERT)
    if twice.any():
        token, layer, place = (int(i[0]) for i in np.nonzero(twice))
        raise InputError(f"{where}: token {token} visits expert {int(ordered[token, layer, place])} twice in layer "
                         f"{layer} of the trace")


def _check_together(where: str, step: Ints, sequence: Ints) -> None:
    """The tokens of a sequence stand together in a step: the last of them is the one whose logits count."""
    starts = np.flatnonzero(np.r_[True, (step[1:] != step[:-1]) | (sequence[1:] != sequence[:-1])])
    runs = np.stack([step[starts], sequence[starts]], axis=1)
    _, first, counts = np.unique(runs, axis=0, return_index=True, return_counts=True)
    if (counts > 1).any():
        at = int(first[counts > 1].min())
        raise InputError(f"{where}: the tokens of sequence {int(runs[at, 1])} do not stand together in step "
                         f"{int(runs[at, 0])}")


def _weights(where: str, columns: Mapping[str, Array], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The router's weights; equal ones where there are none."""
    weights = columns.get("weights")
    if weights is None:
        return np.full(shape, 1.0 / shape[2], np.float32)
    if weights.shape != shape or weights.dtype.kind not in "uif":
        raise InputError(f"{where}: weights is {weights.dtype} {list(weights.shape)}; it must be numbers {list(shape)}")
    with np.errstate(over="ignore"):
        narrow = weights.astype(np.float32)
    if not np.isfinite(narrow).all():
        raise InputError(f"{where}: weights hold a value that is no number, or too large for one")
    return narrow


def _forecast(where: str, columns: Mapping[str, Array], shape: tuple[int, ...],
              count: int) -> NDArray[np.uint16] | None:
    forecast = columns.get("forecast")
    if forecast is None:
        return None
    if forecast.shape != shape or forecast.dtype.kind not in "ui":
        raise InputError(f"{where}: forecast is {forecast.dtype} {list(forecast.shape)}; it must be integers "
                         f"{list(shape)}")
    guessed = _ids(forecast)
    named = guessed[guessed != NO_EXPERT]
    if named.size and named.max() >= count:
        raise InputError(f"{where} forecasts expert {int(named.max())}, but has num_experts {count}")
    return guessed.astype(np.uint16)


def _positions(sequence: Ints) -> Ints:
    """The place of each token in its sequence, counted from the trace's first."""
    order = np.argsort(sequence, kind="stable")
    _, start, counts = np.unique(sequence[order], return_index=True, return_counts=True)
    position = np.empty(len(sequence), np.int64)
    position[order] = np.arange(len(sequence)) - np.repeat(start, counts)
    return position
