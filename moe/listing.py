"""What transformers' models export, kept from start to start: it reads the sources of all of them to find out.

transformers lists the classes of its 400 model packages whenever it is imported, by reading their three thousand
files; that takes as long as all else that is imported of it. The list is kept in the user's cache, by the place, size
and time of every file: who changes one gets a new list.
"""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from typing import Any

_MODULE = "transformers.utils.import_utils"
FORMAT = 1

Listing = dict[frozenset[str], dict[str, set[str]]]
"""Needed backends -> module -> what it exports, as transformers' `define_import_structure` returns it."""


class _Finder(MetaPathFinder):
    """Finds one module of transformers, and lets its function remember."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != _MODULE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def exec_module(self, module: Any) -> None:
        super().exec_module(module)
        define = getattr(module, "define_import_structure", None)
        if define is not None:
            module.define_import_structure = remembering(define)


@contextmanager
def remembered() -> Iterator[None]:
    """Within it transformers is imported with the list of its models that was kept."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def remembering(define: Callable[..., Listing]) -> Callable[..., Listing]:
    """`define_import_structure(folder, or a file in it, prefix)` that keeps what it found of a folder `models`."""
    @wraps(define)
    def defining(module_path: str | Path, prefix: str | None = None) -> Listing:
        folder = Path(module_path)
        if folder.is_file():
            folder = folder.parent
        if folder.name != "models":
            return define(module_path, prefix=prefix)
        state = _state(folder)
        found = _read(state)
        if found is None:
            found = define(module_path)
            _write(state, found)
        lead = "" if prefix is None else f"{prefix}."
        return {needs: {lead + name: set(names) for name, names in modules.items()} for needs, modules in found.items()}
    return defining


@cache
def _state(folder: Path) -> str:
    """SHA-256 of where each source under a folder lies, its size and its time."""
    total = hashlib.sha256(f"{FORMAT} {folder}\n".encode())
    for root, folders, _ in os.walk(folder):
        folders.sort()
        with os.scandir(root) as entries:
            for entry in sorted((e for e in entries if e.name.endswith(".py")), key=lambda e: e.name):
                now = entry.stat()
                total.update(f"{root}/{entry.name} {now.st_size} {now.st_mtime_ns}\n".encode())
    return total.hexdigest()


def _place() -> Path:
    """The file in the user's cache. Raises RuntimeError where there is no home."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "moelab" / "transformers.json"


def _read(state: str) -> Listing | None:
    """What was kept of this state; None where nothing was, or nothing that can be read."""
    try:
        data = json.loads(_place().read_bytes())
        if data["state"] == state:
            return {frozenset(needs): {name: set(names) for name, names in modules.items()}
                    for needs, modules in data["listing"]}
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return None


def _write(state: str, found: Listing) -> None:
    """Keep it, whole or not at all; a cache that cannot be written is none."""
    told = [[sorted(needs), {name: sorted(names) for name, names in modules.items()}]
            for needs, modules in found.items()]
    with suppress(OSError, RuntimeError):
        place = _place()
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=place.parent, delete=False, encoding="utf-8") as out:
            json.dump({"state": state, "listing": told}, out)
        Path(out.name).replace(place)
