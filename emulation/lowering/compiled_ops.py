"""The compiled lowering's output: columns of operations, and the functions that write rows into them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numba.core import types
from numpy.typing import NDArray

from emulation.engine.compiled_cache import HERE as ENGINE
from emulation.engine.compiled_cache import drop_stale, kept_in, share
from emulation.lowering.emit import CAUSES, KINDS

Ints = NDArray[Any]
Small = NDArray[Any]
F = TypeVar("F", bound=Callable[..., Any])

OPS, HOLDS, WAITS, TAKES, RELEASES, EDGES, FIRST, FIRST_TAKE, LAYER = range(9)
"""Places in `Out.n`: rows in use, the first serial and take handle, and the layer that is being written."""
COUNTERS = 9

DEMAND = 0
NONE = -1
(ATTENTION, ROUTER, DENSE, SHARED, EXPERT, GATHER, SCATTER, REDUCE, NORM, HEAD, COPY, ISSUE, SYNC, JOIN,
 PLACE, SORT, MASK, EINSUM) = range(len(KINDS))
WAIT, RECORD = len(KINDS), len(KINDS) + 1
BY_DEMAND, BY_PREFETCH, BY_DISPATCH, BY_RETURN = (CAUSES.index(c) for c in ("demand", "prefetch", "dispatch", "return"))


class Out(NamedTuple):
    """Columns as in `Ops` and `Labels`, with room behind the rows in use. All waits and releases name ends."""

    n: Ints
    priority: Ints
    quantum_ps: Ints
    length_ps: Ints
    hold_ptr: Ints
    hold_lane: Ints
    hold_ps: Ints
    wait_ptr: Ints
    wait_op: Ints
    take_ptr: Ints
    take_pool: Ints
    take_amount: Ints
    release_take: Ints
    release_ptr: Ints
    release_op: Ints
    bytes: Ints
    kind: Small
    cause: Small
    device: Small
    layer: Small
    expert: Small


def inner(function: F) -> F:
    """Compiled as part of the kernels that call it."""
    return cast(F, numba.njit(error_model="numpy", nogil=True)(function))


def kernel(*like: Any) -> Callable[[F], F]:
    """Compiled for arguments like these when its module is first imported, without the interpreter's lock, and kept on
    disk; returns a whole number."""
    def compile_now(function: F) -> F:
        kept = kept_in(function)
        if kept is not None:
            here = Path(__file__).parent
            for sources in (ENGINE, here, Path(function.__code__.co_filename).parent):
                drop_stale(kept, sources)
            drop_stale(kept, here, "emit.py")
        signature = types.int64(*(numba.typeof(each) for each in like))
        compiled = numba.njit(signature, cache=kept is not None, error_model="numpy", nogil=True)(function)
        share(function, kept, compiled)
        return cast(F, compiled)
    return compile_now


def room(ops: int, holds: int, waits: int, takes: int, releases: int) -> Out:
    """Columns with room for so many rows, of which none is in use."""
    def ints(n: int) -> Ints:
        return np.empty(n, np.int64)

    def small() -> Small:
        return np.empty(ops, np.int32)

    out = Out(np.zeros(COUNTERS, np.int64), ints(ops), ints(ops), ints(ops), ints(ops + 1), ints(holds), ints(holds),
              ints(ops + 1), ints(waits), ints(ops + 1), ints(takes), ints(takes), ints(releases), ints(releases + 1),
              ints(2 * releases), ints(ops), small(), small(), small(), small(), small())
    for ptr in (out.hold_ptr, out.wait_ptr, out.take_ptr, out.release_ptr):
        ptr[0] = 0
    return out


@inner
def begin_op(o: Out, kind: int, cause: int, device: int, expert: int, bytes_: int) -> int:
    """A row; its holds, waits and takes follow, then `end_op`. Returns its serial."""
    i = o.n[OPS]
    o.priority[i] = DEMAND
    o.quantum_ps[i] = 0
    o.length_ps[i] = 0
    o.kind[i] = kind
    o.cause[i] = cause
    o.device[i] = device
    o.layer[i] = o.n[LAYER]
    o.expert[i] = expert
    o.bytes[i] = bytes_
    return o.n[FIRST] + i


@inner
def hold(o: Out, lane: int, ps: int) -> None:
    """The operation being written holds a lane; the same lane once, for the longest of its times."""
    i = o.n[OPS]
    for k in range(o.hold_ptr[i], o.n[HOLDS]):
        if o.hold_lane[k] == lane:
            o.hold_ps[k] = max(o.hold_ps[k], ps)
            o.length_ps[i] = max(o.length_ps[i], ps)
            return
    k = o.n[HOLDS]
    o.hold_lane[k] = lane
    o.hold_ps[k] = ps
    o.length_ps[i] = max(o.length_ps[i], ps)
    o.n[HOLDS] = k + 1


@inner
def wait(o: Out, op: int) -> None:
    if op >= 0:
        k = o.n[WAITS]
        o.wait_op[k] = op
        o.n[WAITS] = k + 1


@inner
def take(o: Out, pool: int, amount: int) -> int:
    """Returns the handle."""
    k = o.n[TAKES]
    o.take_pool[k] = pool
    o.take_amount[k] = amount
    o.n[TAKES] = k + 1
    return o.n[FIRST_TAKE] + k


@inner
def end_op(o: Out) -> None:
    i = o.n[OPS] + 1
    o.hold_ptr[i] = o.n[HOLDS]
    o.wait_ptr[i] = o.n[WAITS]
    o.take_ptr[i] = o.n[TAKES]
    o.n[OPS] = i


@inner
def release(o: Out, handle: int, one: int, other: int) -> None:
    """A take goes back after the ends of up to two operations."""
    r, k = o.n[RELEASES], o.n[EDGES]
    o.release_take[r] = handle
    if one >= 0:
        o.release_op[k] = one
        k += 1
    if other >= 0:
        o.release_op[k] = other
        k += 1
    o.n[EDGES] = k
    o.n[RELEASES] = r + 1
    o.release_ptr[r + 1] = k
