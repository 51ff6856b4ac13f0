"""Choices by name, by `module:Class` or by the path of a file: found, checked and given their parameters."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from emulation.errors import ConfigError, unknown


@dataclass(frozen=True)
class Registry:
    """What is chosen by name: the files of a package, `module:Class`, or a file of the user's own.

    kind: what it is called. attribute: the class that a file holds. methods, flags: what the class must have.
    others: files of the package that hold none. contract: where it is told.
    """

    kind: str
    package: str
    folder: Path
    attribute: str
    methods: tuple[str, ...]
    flags: tuple[str, ...]
    others: tuple[str, ...]

    def names(self) -> tuple[str, ...]:
        """Names of those that come with moelab, none of them imported."""
        files = sorted(file.stem for file in self.folder.glob("*.py"))
        return tuple(name for name in files if not name.startswith("_") and name not in self.others)

    def load(self, name: str, parameters: Mapping[str, object]) -> Any:
        """One by its name, as `module:Class`, or from a file, with its parameters set."""
        return _checked(f"{self.kind} {name}", self.find(name), parameters)

    def find(self, name: str) -> type[Any]:
        """The class that a name stands for; refuses what is none of this kind."""
        kind = self.kind
        if name in self.names():
            module, attribute = importlib.import_module(f"{self.package}.{name}"), self.attribute
        elif name.endswith(".py"):
            module, attribute = _from_file(Path(name), kind), self.attribute
        elif ":" in name:
            where, _, attribute = name.partition(":")
            module = _from_module(where, f"{kind} {name!r}")
        else:
            raise ConfigError(f"{unknown(kind, name, self.names())}; one of your own is written module:Class or as "
                              "the path of its .py file")
        found = getattr(module, attribute, None)
        if not isinstance(found, type):
            classes = [key for key, value in vars(module).items() if isinstance(value, type)]
            raise ConfigError(f"{kind} {name!r}: {unknown(f'class in {module.__name__}', attribute, classes)}")
        lacking = [part for part in self.methods if not callable(getattr(found, part, None))]
        lacking += [flag for flag in self.flags if not isinstance(getattr(found, flag, None), bool)]
        if lacking or not is_dataclass(found):
            lack = f"lacks {', '.join(lacking)}" if lacking else "is no dataclass"
            parts = [*self.methods, *self.flags]
            raise ConfigError(f"{kind} {name!r}: class {attribute} {lack}: a {kind} is a frozen dataclass with "
                              f"{', '.join(parts[:-1])} and {parts[-1]} "
                              f"(see {self.package.replace('.', '/')}/contract.py)")
        return found


def _from_module(where: str, named: str) -> ModuleType:
    if not all(part.isidentifier() for part in where.split(".")):
        raise ConfigError(f"{named}: {where!r} is no name of a module: write it package.module:Class")
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is None or not (where == error.name or where.startswith(f"{error.name}.")):
            raise  # the module is there, and something that it imports is not
        raise ConfigError(f"{named}: there is no module {error.name!r} on the path") from None


def _from_file(path: Path, kind: str) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"{kind} {str(path)!r}: there is no such file")
    key = f"{kind}_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[key]
        raise
    return module


def _checked(named: str, found: type[Any], parameters: Mapping[str, object]) -> Any:
    takes = {field.name: field for field in fields(found) if field.init}
    types = get_type_hints(found)
    for key, value in parameters.items():
        if key not in takes:
            raise ConfigError(f"{named}: {unknown('parameter', key, takes)}")
        if not _fits(value, types[key]):
            raise ConfigError(f"{named}: parameter {key} is {value!r}; it is {_wanted(types[key])}")
    for key, field in takes.items():
        if key not in parameters and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{named}: parameter {key} has no default and must be given; "
                              f"it is {_wanted(types[key])}")
    return found(**parameters)


def _fits(value: object, wanted: Any) -> bool:
    """Whether a value from a config is of a type; a whole number is a float, too, and a truth value no number."""
    if get_origin(wanted) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(wanted))
    if get_args(wanted):
        return any(_fits(value, choice) for choice in get_args(wanted)) if _is_union(wanted) else isinstance(
            value, get_origin(wanted))
    if wanted in (int, float):
        return isinstance(value, (int, wanted)) and not isinstance(value, bool)
    return not inspect.isclass(wanted) or isinstance(value, wanted)


def _is_union(wanted: Any) -> bool:
    return getattr(get_origin(wanted), "__name__", "") in ("Union", "UnionType")


def _wanted(wanted: Any) -> str:
    if get_origin(wanted) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(wanted))
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return words.get(wanted, f"of type {getattr(wanted, '__name__', wanted)}")
