"""Arrays as bare pointers inside kernels: numba counts references to an array at each call, a pointer costs nothing.

`as_ops(array)` and its like make a table of an array; `rows[row, column]` and, in a column, `rows[row]` read and write
it as they would the array. There are no bounds: the engine makes room before it calls a kernel.
"""

import operator
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic, models, overload, register_model
from numpy.typing import NDArray

from emulation.engine import compiled_layout as c
from emulation.engine.compiled_cache import drop_stale, kept_in

Ints = NDArray[np.int64]
F = TypeVar("F", bound=Callable[..., Any])


def inner(function: F) -> F:
    """Compiled as part of the kernels that call it."""
    return cast(F, numba.njit(error_model="numpy")(function))


def kernel(*like: Any) -> Callable[[F], F]:
    """Compiled when its module is first imported, without the interpreter's lock, and kept on disk where anything can
    be: for one signature, or for arguments like these and a whole number as its answer."""
    def compile_now(function: F) -> F:
        kept = kept_in(function)
        if kept is not None:
            drop_stale(kept)
        signature = like[0] if isinstance(like[0], str) else types.int64(*(numba.typeof(each) for each in like))
        return cast(F, numba.njit(signature, cache=kept is not None, error_model="numpy", nogil=True)(function))
    return compile_now


class Table(types.Type):
    """A pointer to int64 and, known at compile time, how many make a row."""

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__(f"Table({width})")


@register_model(Table)
class TableModel(models.PrimitiveModel):
    def __init__(self, manager: Any, table_type: Table) -> None:
        super().__init__(manager, table_type, ir.IntType(64).as_pointer())


def _table_of(width: int) -> Callable[[Ints], Ints]:
    @intrinsic
    def table(_: Any, array: Any) -> Any:
        def make(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return context.make_array(signature.args[0])(context, builder, values[0]).data
        return Table(width)(array), make
    return cast(Callable[[Ints], Ints], table)


as_column = _table_of(1)
as_ops, as_holds = _table_of(c.OP_COLUMNS), _table_of(c.HOLD_COLUMNS)
as_takes, as_releases = _table_of(c.TAKE_COLUMNS), _table_of(c.RELEASE_COLUMNS)
as_lanes, as_pools, as_log = _table_of(c.LANE_COLUMNS), _table_of(c.POOL_COLUMNS), _table_of(c.LOG_COLUMNS)
as_events, as_heap, as_lists = _table_of(c.EVENT_COLUMNS), _table_of(c.CANDIDATE_COLUMNS), _table_of(c.LISTS)


def _place(builder: Any, values: Any, width: int) -> Any:
    rows, row, column = values[:3]
    return builder.gep(rows, [builder.add(builder.mul(row, ir.Constant(ir.IntType(64), width)), column)])


def _load(_: Any, rows: Any, row: Any, column: Any) -> Any:  # noqa: ARG001
    def load(_: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(_place(builder, values, signature.args[0].width))
    return types.int64(rows, types.int64, types.int64), load


def _store(_: Any, rows: Any, row: Any, column: Any, value: Any) -> Any:  # noqa: ARG001
    def store(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(values[3], _place(builder, values, signature.args[0].width))
        return context.get_dummy_value()
    return types.void(rows, types.int64, types.int64, types.int64), store


_read: Any = intrinsic(_load)
_write: Any = intrinsic(_store)


@overload(operator.getitem, strict=False)
def _getitem(rows: Any, index: Any) -> Any:
    if not isinstance(rows, Table):
        return None
    if isinstance(index, types.BaseTuple):
        return lambda rows, index: _read(rows, index[0], index[1])
    return lambda rows, index: _read(rows, index, 0)


@overload(operator.setitem, strict=False)
def _setitem(rows: Any, index: Any, value: Any) -> Any:  # noqa: ARG001
    if not isinstance(rows, Table):
        return None
    if isinstance(index, types.BaseTuple):
        return lambda rows, index, value: _write(rows, index[0], index[1], value)
    return lambda rows, index, value: _write(rows, index, 0, value)
