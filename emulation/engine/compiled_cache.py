"""Machine code that numba keeps on disk, dropped where it no longer fits the sources."""

import importlib
import inspect
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache

HERE = Path(__file__).parent
_LOOKS = "numba.np.arraymath"


def _spare_linear_algebra() -> None:
    """When it loads its first kernel, numba imports SciPy's linear algebra to see whether it is there: a third of a
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


_spare_linear_algebra()


def kept_in(function: Callable[..., Any]) -> Path | None:
    """The folder in which numba keeps a function's machine code; None where it finds none that can be written."""
    try:
        kept = Path(FunctionCache(function).cache_path)  # type: ignore[no-untyped-call]
    except RuntimeError:  # numba's "no locator available": a read-only checkout, and no home
        return None
    take_along(Path(inspect.getfile(function)).parent / "__pycache__", kept)
    return kept


def take_along(shipped: Path, kept: Path) -> None:
    """Copy machine code that lies beside its sources to where numba keeps it, if that is elsewhere and still empty.

    numba reads only from folders that it can write to, so what an image was built with would be lost when its files are
    read-only. An index comes after what it points to, and each file whole: other processes may do the same meanwhile.
    """
    if shipped == kept or not shipped.is_dir() or next(kept.glob("compiled_*.nbi"), None) is not None:
        return
    for ending in ("nbc", "nbi"):
        for file in sorted(shipped.glob(f"compiled_*.{ending}")):
            handle, part = tempfile.mkstemp(dir=kept)
            os.close(handle)
            try:
                shutil.copy2(file, part)
                os.replace(part, kept / file.name)
            except OSError:  # no room: it is compiled again, or not kept at all
                Path(part).unlink(missing_ok=True)
                return


def drop_stale(kept: Path, sources: Path = HERE, named: str = "compiled*.py") -> None:
    """Remove kept code that is older than any source that it is compiled from: by default, of the compiled engine.

    numba looks only at the file of a kernel itself, not at what the kernel takes from other files.
    """
    newest_ns = max(source.stat().st_mtime_ns for source in sources.glob(named))
    for index in kept.glob("compiled_*.nbi"):
        if index.stat().st_mtime_ns < newest_ns:
            index.unlink(missing_ok=True)
