"""NamedTuples of arrays inside kernels as one pointer, to a note of where the arrays lie.

numba takes a NamedTuple of arrays apart at each call from Python, a fifth of a microsecond an array, and hands its
members one by one from function to function: with a hundred arrays that is longer than the work. `Addressed` notes
once where the arrays lie; inside a kernel `located(like)` makes of that note a value of one pointer, `t`, and `t.name`
is the array (as a `Bare`), read from the note where it is used.
"""

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import typeof
from numba.core import cgutils, types
from numba.core.imputils import lower_getattr_generic
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import intrinsic, models, register_model
from numpy.typing import NDArray

from emulation.engine.compiled_bare import WORD, Bare

Ints = NDArray[np.int64]

WORDS = 5
"""Of each array in a note: an address and up to four lengths."""


class Addressed:
    """A NamedTuple of contiguous arrays, and where they lie. It keeps them, so that the note stays true; they may be
    written, and no array may come in the place of another."""

    def __init__(self, table: Any) -> None:
        self.table = table
        self.at: Ints = np.zeros((len(table), WORDS), np.int64)
        for row, array in zip(self.at, table, strict=True):
            if not array.flags.c_contiguous:
                raise ValueError("an array of a table is not contiguous")
            row[0] = array.ctypes.data
            row[1:1 + array.ndim] = array.shape


class Located(types.Type):
    """A pointer to the note of a NamedTuple's arrays."""

    def __init__(self, name: str, fields: tuple[str, ...], kinds: tuple[Bare, ...]) -> None:
        self.fields, self.kinds = fields, kinds
        super().__init__(f"Located({name}, {', '.join(map(str, kinds))})")


@register_model(Located)
class LocatedModel(models.PrimitiveModel):
    def __init__(self, manager: Any, located_type: Located) -> None:
        super().__init__(manager, located_type, WORD.as_pointer())


@infer_getattr
class LocatedFields(AttributeTemplate):
    key = Located

    def generic_resolve(self, located_type: Located, name: str) -> Bare | None:  # type: ignore[override]
        return located_type.kinds[located_type.fields.index(name)] if name in located_type.fields else None


@lower_getattr_generic(Located)  # type: ignore[untyped-decorator]
def _field(context: Any, builder: Any, located_type: Located, words: Any, name: str) -> Any:
    number = located_type.fields.index(name)
    kind = located_type.kinds[number]
    made = cgutils.create_struct_proxy(kind)(context, builder)
    address, *lengths = (builder.load(builder.gep(words, [ir.Constant(WORD, number * WORDS + i)]))
                         for i in range(1 + kind.ndim))
    made.data = builder.inttoptr(address, context.get_value_type(types.CPointer(kind.dtype)))
    for i, length in enumerate(lengths):
        setattr(made, f"n{i}", length)
    return made._getvalue()


def located(like: NamedTuple) -> Any:
    """For kernels: of an `Addressed.at`, a pointer to arrays of the types that `like` has."""
    of = Located(type(like).__name__, like._fields, tuple(
        Bare(array.dtype, array.ndim) for array in map(typeof, like)))

    def take(_: Any, at: Any) -> Any:
        def make(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return context.make_array(signature.args[0])(context, builder, values[0]).data
        return of(at), make
    return intrinsic(take)
