"""Machine code that numba keeps on disk, dropped where it no longer fits the sources."""

from pathlib import Path


def drop_stale(here: Path = Path(__file__).parent) -> None:
    """Remove kept code that is older than any source of the compiled engine.

    numba looks only at the file of a kernel itself, not at what the kernel takes from other files.
    """
    newest_ns = max(source.stat().st_mtime_ns for source in here.glob("compiled*.py"))
    for index in (here / "__pycache__").glob("compiled_*.nbi"):
        if index.stat().st_mtime_ns < newest_ns:
            index.unlink(missing_ok=True)
