"""Trace files: a versioned .npz of plain columns, read without pickle and checked; and what is told of one."""

import dataclasses
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emulation.errors import InputError
from emulation.trace import NO_EXPERT, Trace
from emulation.view import DECODE, PREFILL
from workloads.columns import checked

Array = NDArray[Any]
FORMAT_VERSION = 1
REQUIRED = ("experts", "step", "sequence", "phase")


def write_trace(path: Path, trace: Trace) -> None:
    """Write a trace file; it is there whole or not at all."""
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
    columns = _columns(path)
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


def _columns(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise InputError(f"there is no trace file {path}") from None
    except (ValueError, OSError, EOFError, KeyError, AttributeError, TypeError, RuntimeError,
            SyntaxError, zipfile.BadZipFile, zlib.error) as error:
        # What numpy says of other files is how to load them unsafely.
        reason = "" if "pickle" in str(error) else f": {first_line(error)}"
        raise InputError(f"{path} is no trace file (an .npz of plain arrays){reason}") from None


def first_line(error: BaseException) -> str:
    """What an error says, on one line."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def info(trace: Trace) -> dict[str, object]:
    """What a trace holds, and how skewed and local its routing is.

    max_over_mean: load of the busiest expert of a layer over the mean. shared_with_last: share of a token's experts
    that the sequence's token before it also visited; by chance it is top_k / num_experts.
    """
    load = trace.popularity()
    ratio = load.max(axis=1) / np.maximum(load.mean(axis=1), 1e-12)
    by_sequence = np.lexsort((trace.position, trace.sequence))
    ids, owner = trace.experts[by_sequence].astype(np.int64), trace.sequence[by_sequence]
    follows = owner[1:] == owner[:-1]
    again = (ids[1:, :, :, None] == ids[:-1, :, None, :]).any(axis=3)[follows]
    guessed: float | None = None
    if trace.forecast is not None:
        known = (trace.forecast != NO_EXPERT).any(axis=2)
        hit = (trace.experts[:, :, :, None] == trace.forecast[:, :, None, :]).any(axis=3)
        guessed = float(hit[known].mean()) if known.any() else None
    return {
        "model": trace.model, "tokens": len(trace.step), "steps": len(np.unique(trace.step)),
        "sequences": len(np.unique(trace.sequence)), "prefill_tokens": int((trace.phase == PREFILL).sum()),
        "decode_tokens": int((trace.phase == DECODE).sum()), "moe_layers": len(trace.layer_ids),
        "num_experts": trace.num_experts, "top_k": trace.top_k,
        "dropped": int((trace.experts == NO_EXPERT).sum()),
        "max_over_mean": float(ratio.mean()), "max_over_mean_worst_layer": float(ratio.max()),
        "shared_with_last": float(again.mean()) if again.size else None, "forecast_hit_rate": guessed,
    }


def with_steps(experts: Array, model: str, num_experts: int, batch: int, where: str = "the routing") -> Trace:
    """Plain routing [tokens, layers, top_k] as decode steps of `batch` sequences, each a run of consecutive tokens."""
    tokens = len(experts) if experts.ndim else 0
    steps = tokens // batch
    if batch < 1 or steps < 1:
        raise InputError(f"{tokens} tokens do not make a decode step of {batch} sequences")
    rows = np.arange(steps * batch).reshape(batch, steps).T.ravel()
    step, sequence = np.repeat(np.arange(steps), batch), np.tile(np.arange(batch), steps)
    return checked(where, {"experts": experts[rows], "num_experts": np.array(num_experts), "model": np.array(model),
                           "step": step, "sequence": sequence, "position": step, "phase": np.full(len(step), DECODE)})


def convert(source: Path, *, model: str, num_experts: int, batch: int) -> Trace:
    """A trace from another tool's file: an .npz or .npy of experts, or HD-MoE's JSON (token -> layer -> experts)."""
    try:
        if source.suffix == ".npz":
            columns = _columns(source)
            if all(name in columns for name in REQUIRED):
                return read_trace(source)
            if "experts" not in columns:
                raise InputError(f"{source} has no array 'experts' [tokens, layers, top_k]")
            experts = columns["experts"]
        elif source.suffix == ".npy":
            experts = np.load(source, allow_pickle=False)
        else:
            rows = json.loads(source.read_text(encoding="utf-8"))
            rows = list(rows.values()) if isinstance(rows, dict) else rows
            experts = np.array([list(row.values()) if isinstance(row, dict) else row for row in rows])
    except FileNotFoundError:
        raise InputError(f"there is no file {source}") from None
    except (ValueError, TypeError, OSError, EOFError, AttributeError, RecursionError) as error:
        raise InputError(f"{source} is no routing that moelab can read: {first_line(error)}") from None
    return with_steps(experts, model, num_experts, batch, str(source))
