"""Arrays without their bookkeeping inside kernels: numba counts references to an array at each call, and a NamedTuple
of twenty arrays costs twenty counts; a pointer and its widths cost nothing.

`bare(table)` makes of a NamedTuple of arrays the same NamedTuple of pointers: `t.name[i, j]` reads and writes as the
array would, `len` and `shape` work, slices do not. There are no bounds: who calls a kernel has made room.
"""

import operator
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic, models, overload, overload_attribute, register_model

WORD = ir.IntType(64)


class Bare(types.Type):
    """A pointer to numbers of one type, and the lengths of its dimensions."""

    def __init__(self, dtype: Any, ndim: int) -> None:
        self.dtype, self.ndim = dtype, ndim
        super().__init__(f"Bare({dtype}, {ndim})")


@register_model(Bare)
class BareModel(models.StructModel):
    def __init__(self, manager: Any, bare_type: Bare) -> None:
        members: list[tuple[str, Any]] = [("data", types.CPointer(bare_type.dtype))]
        members += [(f"n{i}", types.intp) for i in range(bare_type.ndim)]
        super().__init__(manager, bare_type, members)


def _of_array(context: Any, builder: Any, array_type: Any, value: Any) -> Any:
    array = context.make_array(array_type)(context, builder, value)
    made = cgutils.create_struct_proxy(Bare(array_type.dtype, array_type.ndim))(context, builder)
    made.data = array.data
    for i, length in enumerate(cgutils.unpack_tuple(builder, array.shape)):
        setattr(made, f"n{i}", length)
    return made._getvalue()


def _bare(_: Any, table: Any) -> Any:
    if isinstance(table, types.Array):
        def one(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return _of_array(context, builder, signature.args[0], values[0])
        return Bare(table.dtype, table.ndim)(table), one
    kinds = tuple(Bare(each.dtype, each.ndim) for each in table.types)
    of = types.NamedTuple(kinds, table.instance_class)

    def make(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        arrays = cgutils.unpack_tuple(builder, values[0])
        made = [_of_array(context, builder, kind, array)
                for kind, array in zip(signature.args[0].types, arrays, strict=True)]
        return context.make_tuple(builder, signature.return_type, made)
    return of(table), make


bare: Any = intrinsic(_bare)


def _place(context: Any, builder: Any, bare_type: Any, value: Any, index: Any) -> Any:
    made = cgutils.create_struct_proxy(bare_type)(context, builder, value=value)
    at = index[0]
    for i in range(1, bare_type.ndim):
        at = builder.add(builder.mul(at, getattr(made, f"n{i}")), index[i])
    return builder.gep(made.data, [at])


def _index(builder: Any, index_type: Any, value: Any) -> Any:
    return cgutils.unpack_tuple(builder, value) if isinstance(index_type, types.BaseTuple) else [value]


def _wide(index: Any) -> Any:
    return types.UniTuple(types.int64, len(index)) if isinstance(index, types.BaseTuple) else types.int64


def _load(_: Any, rows: Any, index: Any) -> Any:
    def load(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        rows_type, index_type = signature.args
        place = _place(context, builder, rows_type, values[0], _index(builder, index_type, values[1]))
        found = builder.load(place)
        if rows_type.dtype == types.int64:
            return found
        return builder.sext(found, WORD) if rows_type.dtype.signed else builder.zext(found, WORD)
    return types.int64(rows, _wide(index)), load


def _store(_: Any, rows: Any, index: Any, value: Any) -> Any:  # noqa: ARG001
    def store(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        rows_type, index_type = signature.args[:2]
        place = _place(context, builder, rows_type, values[0], _index(builder, index_type, values[1]))
        value = values[2]
        if rows_type.dtype != types.int64:
            value = builder.trunc(value, ir.IntType(rows_type.dtype.bitwidth))
        builder.store(value, place)
        return context.get_dummy_value()
    return types.void(rows, _wide(index), types.int64), store


def _length(_: Any, rows: Any, axis: Any) -> Any:
    if not isinstance(axis, types.IntegerLiteral):
        return None
    number = axis.literal_value

    def length(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        made = cgutils.create_struct_proxy(signature.args[0])(context, builder, value=values[0])
        return getattr(made, f"n{number}")
    return types.int64(rows, axis), length


_read: Any = intrinsic(_load)
_write: Any = intrinsic(_store)
_length_of: Any = intrinsic(prefer_literal=True)(_length)


@overload(operator.getitem, strict=False)
def _getitem(rows: Any, index: Any) -> Any:  # noqa: ARG001
    return (lambda rows, index: _read(rows, index)) if isinstance(rows, Bare) else None


@overload(operator.setitem, strict=False)
def _setitem(rows: Any, index: Any, value: Any) -> Any:  # noqa: ARG001
    return (lambda rows, index, value: _write(rows, index, value)) if isinstance(rows, Bare) else None


@overload(len, strict=False)
def _len(rows: Any) -> Any:
    return (lambda rows: _length_of(rows, 0)) if isinstance(rows, Bare) else None


@overload_attribute(Bare, "shape", strict=False)  # type: ignore[call-arg]
def _shape(rows: Any) -> Any:
    if rows.ndim == 2:
        return lambda rows: (_length_of(rows, 0), _length_of(rows, 1))
    if rows.ndim == 3:
        return lambda rows: (_length_of(rows, 0), _length_of(rows, 1), _length_of(rows, 2))
    if rows.ndim == 4:
        return lambda rows: (_length_of(rows, 0), _length_of(rows, 1), _length_of(rows, 2), _length_of(rows, 3))
    return lambda rows: (_length_of(rows, 0),)
