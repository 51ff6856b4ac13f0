"""Folders at a URL that fsspec reaches, such as s3://bucket/folder: objects appear whole, and the last one last.

A store has no way to let several objects appear at one moment. The last one that is written stands for all: it is
taken away first and written when the others are complete, so that where it lies the others lie too.
"""

import re
import tempfile
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from emulation.errors import ConfigError, MoelabError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(//|:)")


def folder_of(out: "str | Path | Store") -> "Path | Store":
    """A folder by its path, or by a URL; ConfigError for one that nothing here can reach."""
    if not isinstance(out, str) or not _URL.match(out):
        return Path(out) if isinstance(out, str) else out
    parts = urlsplit(out)
    if parts.scheme in ("file", "local"):
        if parts.netloc not in ("", "localhost"):
            raise ConfigError(f"{out} names the host {parts.netloc!r}: a folder of this host is written file:///folder")
        return Path(unquote(parts.path))
    store = Store(out)
    _ = store.system
    return store


class Store:
    """A folder at a URL."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def __str__(self) -> str:
        return re.sub(r"//[^/@]*@", "//", self.url)  # a password is not shown

    def __truediv__(self, name: str) -> "Store":
        return Store(f"{self.url}/{name}")

    @cached_property
    def system(self) -> Any:
        """The file system behind the URL."""
        scheme = self.url.partition(":")[0]
        try:
            import fsspec.core
        except ImportError:
            raise ConfigError(f"{self} needs fsspec: install it, or choose a local folder") from None
        try:
            return fsspec.core.url_to_fs(self.url)[0]
        except ImportError as error:
            raise ConfigError(f"{self} needs a package that is not installed here ({_line(error)}): install it (in a "
                              f"Ray job: --runtime-env-json), or choose a local folder") from None
        except ValueError as error:
            raise ConfigError(f"{self}: {scheme!r} is no kind of store that fsspec knows ({_line(error)})") from None
        except Exception as error:  # noqa: BLE001 (each store has errors of its own: credentials, network)
            raise MoelabError(f"{self} cannot be reached: {_line(error)}") from None

    @cached_property
    def _path(self) -> str:
        """Where it is within its file system."""
        return str(self.system._strip_protocol(self.url)).rstrip("/")

    def write_whole(self, writers: Mapping[str, Callable[[IO[bytes]], object]]) -> None:
        """Write objects, each whole; the last of them when the others are there."""
        *others, marker = writers
        name = marker
        try:
            with tempfile.TemporaryDirectory(prefix="moelab-") as folder:
                for name, writer in writers.items():
                    with (Path(folder) / name).open("wb") as file:
                        writer(file)
                if others and self.system.exists(f"{self._path}/{marker}"):
                    self.system.rm_file(f"{self._path}/{marker}")
                for name in writers:
                    self._put(Path(folder) / name, name)
        except Exception as error:  # noqa: BLE001 (each store has errors of its own)
            raise MoelabError(f"cannot write {self / name}: {_line(error)}; free some space, or choose another folder"
                              ) from None

    def _put(self, source: Path, name: str) -> None:
        """An object from a file. In a tree of folders it is moved to its name when it is whole."""
        at, system = f"{self._path}/{name}", self.system
        if system.root_marker != "/":
            system.put_file(str(source), at)
            return
        part = f"{self._path}/.{name}.part"
        system.makedirs(self._path, exist_ok=True)
        system.put_file(str(source), part)
        if system.exists(at):
            system.rm_file(at)
        system.mv(part, at)

    def read(self, name: str) -> bytes | None:
        """What an object holds; None where there is none."""
        try:
            data: bytes = self.system.cat_file(f"{self._path}/{name}")
            return data
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001
            raise MoelabError(f"cannot read {self / name}: {_line(error)}") from None

    def read_all(self) -> dict[str, bytes]:
        """Every object in the folder, by name, in the order of their names."""
        try:
            self.system.invalidate_cache()
            if not self.system.isdir(self._path):
                return {}
            paths = [row["name"] for row in self.system.ls(self._path, detail=True) if row["type"] == "file"]
            found = self.system.cat(paths) if paths else {}
        except Exception as error:  # noqa: BLE001
            raise MoelabError(f"cannot read {self}: {_line(error)}") from None
        return {path.rpartition("/")[2]: found[path] for path in sorted(found)}

    def check_writable(self) -> None:
        """Tell before the work whether objects can be written; leaves none."""
        self.write_whole({".probe": lambda file: file.write(b"moelab")})
        try:
            self.system.rm_file(f"{self._path}/.probe")
        except Exception as error:  # noqa: BLE001
            raise MoelabError(f"cannot take {self / '.probe'} away again: {_line(error)}; writing there needs the "
                              "right to delete objects") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
