"""What studies that are read from a file have in common."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import PrivateAttr

from cluster.config.quantities import Strict, refuse


class FromFile(Strict):
    """A study that knows where it was read."""

    _name: str = PrivateAttr(default="study")
    _folder: Path = PrivateAttr(default=Path())
    _where: str = PrivateAttr(default="the study")

    @property
    def name(self) -> str:
        """The stem of the file that it was read from."""
        return self._name

    @property
    def folder(self) -> Path:
        """What paths in it are relative to."""
        return self._folder

    @property
    def where(self) -> str:
        """Its file, as errors name it."""
        return self._where

    def placed(self, name: str, folder: Path, where: str) -> Self:
        """The same study as read from a file of this name in this folder."""
        copy = self.model_copy()
        copy._name, copy._folder, copy._where = name, folder, where
        return copy


def with_lists(data: object, key: str) -> object:
    """Data of a study whose `key` holds path -> values, each a list of at least one, as tuples."""
    paths = data.get(key) if isinstance(data, Mapping) else None
    if not isinstance(data, Mapping) or not isinstance(paths, Mapping):
        return data
    for path, values in paths.items():
        if not isinstance(values, list | tuple) or not values:
            raise refuse(f"{key}.{path} is {values!r} and should be a list of values, one at least")
    found: dict[Any, Any] = {**data, key: {path: tuple(values) for path, values in paths.items()}}
    return found
