"""Arrays as bare pointers inside kernels: numba counts references to an array at each call, a pointer costs nothing.

`tables(s, memory)` gives all of the engine's tables; `rows[row, column]` and, in a column, `rows[row]` read and write
them as they would arrays. There are no bounds: the engine makes room before it calls a kernel.
"""

import operator
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic, models, overload, register_model

from emulation.engine import compiled_layout as c
from emulation.engine.compiled_cache import drop_stale, kept_in, share

Ints = c.Ints
F = TypeVar("F", bound=Callable[..., Any])


def inner(function: F) -> F:
    """Compiled as part of the kernels that call it."""
    return cast(F, numba.njit(error_model="numpy", forceinline=True)(function))


def seldom(function: F) -> F:
    """As `inner`, for what most operations never need: it stays out of the way of the rest."""
    return cast(F, numba.njit(error_model="numpy")(function))


def kernel(*like: Any) -> Callable[[F], F]:
    """Compiled when its module is first imported, without the interpreter's lock, and kept on disk where anything can
    be: for one signature, or for arguments like these and a whole number as its answer."""
    def compile_now(function: F) -> F:
        kept = kept_in(function)
        if kept is not None:
            drop_stale(kept)
        signature = like[0] if isinstance(like[0], str) else types.int64(*(numba.typeof(each) for each in like))
        compiled = numba.njit(signature, cache=kept is not None, error_model="numpy", nogil=True)(function)
        share(function, kept, compiled)
        return cast(F, compiled)
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


def _column(_: Any, array: Any) -> Any:
    def make(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return context.make_array(signature.args[0])(context, builder, values[0]).data
    return Table(1)(array), make


def _tables(_: Any, scalars: Any, memory: Any) -> Any:
    of: Any = types.NamedTuple([Table(width) for width in c.WIDTHS], c.Tables)

    def make(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        base = context.make_array(signature.args[1])(context, builder, values[1]).data
        word = ir.IntType(64)
        pointers = [builder.gep(base, [builder.load(builder.gep(values[0], [ir.Constant(word, c.AT_WORD + i)]))])
                    for i in range(len(c.WIDTHS))]
        return context.make_tuple(builder, signature.return_type, pointers)
    return of(scalars, memory), make


def _expect(_: Any, rows: Any, row: Any) -> Any:  # noqa: ARG001
    def fetch(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        flag = ir.IntType(32)
        at = builder.bitcast(_place(builder, [*values, ir.Constant(ir.IntType(64), 0)], signature.args[0].width),
                             ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [at.type, flag, flag, flag])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [at.type], kind)
        builder.call(prefetch, [at, *(ir.Constant(flag, value) for value in (1, 3, 1))])
        return context.get_dummy_value()
    return types.void(rows, types.int64), fetch


expect: Any = intrinsic(_expect)
"""`expect(rows, row)` brings a row into the cache that is read soon."""
as_column: Any = intrinsic(_column)
tables: Any = intrinsic(_tables)


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
