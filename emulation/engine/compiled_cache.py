"""Machine code that numba keeps on disk, dropped where it no longer fits the sources.

A second folder, under the user's cache, keeps it by what all sources hold: what numba keeps lies beside its source, and
a job that Ray unpacks, or another checkout, would compile the same again.
"""

import hashlib
import importlib
import inspect
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache
from numba.misc.appdirs import AppDirs

HERE = Path(__file__).parent
STANDS = 4
"""States of the sources whose machine code the user's cache holds, at most: the latest."""
_LOOKS = "numba.np.arraymath"


def _spare_linear_algebra() -> None:
    """When it compiles its first kernel, numba imports SciPy's linear algebra to see whether it is there: a third of a
    second, and no kernel here multiplies matrices. For that one look it is told that there is none; where numba looks
    elsewhere, nothing happens."""
    linalg: Any = importlib.import_module("numba.np.linalg")
    ensure = getattr(linalg, "ensure_blas", None)
    if ensure is None or _LOOKS in sys.modules or "scipy.linalg" in sys.modules:
        return

    def none() -> None:
        raise ImportError("not looked for")

    linalg.ensure_blas = none
    try:
        importlib.import_module(_LOOKS)
    finally:
        linalg.ensure_blas = ensure


def _spare_registries() -> None:
    """Before it looks for a kernel on disk, numba imports all that it can compile, and tells its compiler: a fifth of a
    second, and machine code needs none of it but the runtime. For kernels of ours that comes only when none is found;
    where numba looks elsewhere, nothing happens."""
    cache_type: Any = FunctionCache
    load, found = getattr(cache_type, "load_overload", None), getattr(cache_type, "_load_overload", None)
    runtime: Any = importlib.import_module("numba.core.runtime")
    if load is None or found is None or not hasattr(runtime, "rtsys"):
        return

    def lean(self: Any, signature: Any, context: Any) -> Any:
        if self._py_func not in _KERNELS:
            return load(self, signature, context)
        runtime.rtsys.initialize(context)
        with self._guard_against_spurious_io_errors():
            loaded = found(self, signature, context)
        if loaded is None:
            _spare_linear_algebra()
            context.refresh()
        return loaded

    cache_type.load_overload = lean


_KERNELS: set[Callable[..., Any]] = set()
_spare_registries()


def kept_in(function: Callable[..., Any]) -> Path | None:
    """The folder in which numba keeps a function's machine code; None where it finds none that can be written."""
    _KERNELS.add(function)
    try:
        kept = Path(FunctionCache(function).cache_path)  # type: ignore[no-untyped-call]
    except RuntimeError:  # numba's "no locator available": a read-only checkout, and no home
        return None
    take_along(Path(inspect.getfile(function)).parent / "__pycache__", kept)
    if next(kept.glob("compiled_*.nbi"), None) is None:
        take_along(shared_of(function), kept)
        for index in kept.glob("compiled_*.nbi"):
            index.touch()  # it fits these sources, however late they were unpacked
    return kept


def shared_of(function: Callable[..., Any]) -> Path:
    """The folder of the user's cache for a function's machine code; where that is, numba's own way tells."""
    root = Path(AppDirs("moelab", appauthor=False).user_cache_dir)  # type: ignore[no-untyped-call]
    return root / "kernels" / _digest() / function.__module__.rpartition(".")[0]


@cache
def _digest(root: Path = HERE.parent.parent) -> str:
    """Of all sources that any kernel is compiled from, or takes a constant from."""
    sources = [*(root / "emulation").rglob("*.py"), *(root / "workloads" / "routing").glob("*.py"),
               *(root / "cluster" / "observe").rglob("compiled*.py")]
    total = hashlib.sha256()
    for source in sorted(sources):
        total.update(f"{source.relative_to(root)} {source.stat().st_size}\n".encode() + source.read_bytes())
    return total.hexdigest()[:16]


def share(function: Callable[..., Any], kept: Path | None, compiled: Any) -> None:
    """Put a kernel that was just compiled into the user's cache; nothing where it was loaded, or cannot be written."""
    if kept is None or not compiled.stats.cache_misses:
        return
    mine = shared_of(function)
    name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}-{function.__code__.co_firstlineno}."
    try:
        mine.mkdir(parents=True, exist_ok=True)
        for ending in ("nbc", "nbi"):
            for file in sorted(kept.glob(f"{name}*.{ending}")):
                _copy(file, mine)
        stands = sorted(mine.parent.parent.iterdir(), key=lambda folder: folder.stat().st_mtime_ns)
        for old in stands[:-STANDS]:
            shutil.rmtree(old, ignore_errors=True)
    except OSError:  # a cache that cannot be written is none
        return


def take_along(shipped: Path, kept: Path) -> None:
    """Copy machine code that lies beside its sources to where numba keeps it, if that is elsewhere and still empty.

    numba reads only from folders that it can write to, so what an image was built with would be lost when its files are
    read-only. An index comes after what it points to, and each file whole: other processes may do the same meanwhile.
    """
    if shipped == kept or not shipped.is_dir() or next(kept.glob("compiled_*.nbi"), None) is not None:
        return
    for ending in ("nbc", "nbi"):
        for file in sorted(shipped.glob(f"compiled_*.{ending}")):
            try:
                _copy(file, kept)
            except OSError:  # no room: it is compiled again, or not kept at all
                return


def _copy(file: Path, folder: Path) -> None:
    """Into a folder, whole, with its time."""
    handle, part = tempfile.mkstemp(dir=folder)
    os.close(handle)
    try:
        shutil.copy2(file, part)
        os.replace(part, folder / file.name)
    except OSError:
        Path(part).unlink(missing_ok=True)
        raise


def drop_stale(kept: Path, sources: Path = HERE, named: str = "compiled*.py") -> None:
    """Remove kept code that is older than any source that it is compiled from: by default, of the compiled engine.

    numba looks only at the file of a kernel itself, not at what the kernel takes from other files.
    """
    newest_ns = max(source.stat().st_mtime_ns for source in sources.glob(named))
    for index in kept.glob("compiled_*.nbi"):
        if index.stat().st_mtime_ns < newest_ns:
            index.unlink(missing_ok=True)
