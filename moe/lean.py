"""Imports transformers without torch's compiler and distributed tensors: a host that runs eagerly uses neither.

Of the time that a run takes to start, they are about a third: transformers marks functions for torch.compile as it is
imported, which loads all of torch._dynamo, and looks for DTensor. While it is imported here a stand-in answers for
torch._dynamo with marks that do nothing, and torch.distributed counts as absent; both are themselves again afterwards.
"""

import importlib
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from moe.listing import remembered

_DYNAMO = "torch._dynamo"
_INDEXING = "torch._dynamo._trace_wrapped_higher_order_op"


def import_torch() -> None:
    """Import torch with Ctrl-C held back until it is there: interrupted in its native start it aborts the process."""
    if "torch" in sys.modules:
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        importlib.import_module("torch")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def import_transformers() -> None:
    """Import what moelab uses of transformers, the lean way where nobody imported it before."""
    if "transformers.modeling_utils" in sys.modules:
        return
    import torch.distributed

    with remembered():
        from transformers.utils import import_utils

    available = torch.distributed.is_available
    torch.distributed.is_available = lambda: False
    try:
        with without_compiler():
            import_utils.is_torch_distributed_available()  # transformers keeps the first answer
            for module in ("integrations.moe", "modeling_utils", "masking_utils", "cache_utils"):
                importlib.import_module(f"transformers.{module}")
    finally:
        torch.distributed.is_available = available


@contextmanager
def without_compiler() -> Iterator[None]:
    """Within it torch._dynamo is a stand-in, unless the real one is there already; marking for it costs nothing.

    Even tensors on the meta device load the compiler, to mark what it should leave alone.
    """
    if _DYNAMO not in sys.modules:
        marks = _Marks(_DYNAMO)
        marks.__path__ = []
        sys.modules.update({_DYNAMO: marks, _INDEXING: _Indexing(_INDEXING)})
    try:
        yield
    finally:
        _leave()


def _leave() -> None:
    """Take the stand-ins away: who imports torch._dynamo from now on gets the real one."""
    import torch

    if isinstance(sys.modules.get(_DYNAMO), _Marks):
        del sys.modules[_DYNAMO], sys.modules[_INDEXING]
        torch.__dict__.pop("_dynamo", None)


def _mark(function: Any = None, *_: object, **__: object) -> Any:
    """A mark for the compiler, as a decorator with or without arguments."""
    return _mark if function is None else function


class _Marks(ModuleType):
    """Stands in for torch._dynamo: marks do nothing, anything else fetches the real module."""

    allow_in_graph = assume_constant_result = disable = staticmethod(_mark)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _leave()
        return getattr(importlib.import_module(_DYNAMO), name)


class _Indexing(ModuleType):
    """Stands in for the module of one class, which is fetched when it is first used."""

    @staticmethod
    def TransformGetItemToIndex() -> Any:
        return importlib.import_module(_INDEXING).TransformGetItemToIndex()
