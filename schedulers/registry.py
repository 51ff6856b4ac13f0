"""Finds a policy by name, by `module:Class` or by the path of a file, and gives it its parameters."""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from emulation.errors import ConfigError, unknown
from schedulers.contract import Policy

_FOLDER = Path(__file__).parent
_NO_POLICIES = ("contract", "registry")


def policy_names() -> tuple[str, ...]:
    """Names of the policies that come with moelab: the files of this folder, none of them imported."""
    files = sorted(file.stem for file in _FOLDER.glob("*.py"))
    return tuple(name for name in files if not name.startswith("_") and name not in _NO_POLICIES)


def load_policy(name: str, parameters: Mapping[str, object]) -> Policy:
    """A policy by its name, as `module:Class`, or from a file whose class `Policy` it is, with its parameters set."""
    made: Policy = _checked(name, policy_class(name), parameters)
    return made


def policy_class(name: str) -> type[Any]:
    """The class that a name stands for; refuses what is no policy."""
    if name in policy_names():
        module, attribute = importlib.import_module(f"schedulers.{name}"), "Policy"
    elif name.endswith(".py"):
        module, attribute = _from_file(Path(name)), "Policy"
    elif ":" in name:
        where, _, attribute = name.partition(":")
        module = _from_module(where, name)
    else:
        raise ConfigError(f"{unknown('policy', name, policy_names())}; one of your own is written module:Class or as "
                          "the path of its .py file")
    found = getattr(module, attribute, None)
    if not isinstance(found, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise ConfigError(f"policy {name!r}: {unknown(f'class in {module.__name__}', attribute, classes)}")
    lacking = [part for part in ("start", "plan") if not callable(getattr(found, part, None))]
    lacking += [] if isinstance(getattr(found, "exact", None), bool) else ["exact"]
    if lacking or not is_dataclass(found):
        lack = f"lacks {', '.join(lacking)}" if lacking else "is no dataclass"
        raise ConfigError(f"policy {name!r}: class {attribute} {lack}: a policy is a frozen dataclass with start, plan "
                          "and exact (see schedulers/contract.py)")
    return found


def _from_module(where: str, name: str) -> ModuleType:
    if not all(part.isidentifier() for part in where.split(".")):
        raise ConfigError(f"policy {name!r}: {where!r} is no name of a module: write it package.module:Class")
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is None or not (where == error.name or where.startswith(f"{error.name}.")):
            raise  # the module is there, and something that it imports is not
        raise ConfigError(f"policy {name!r}: there is no module {error.name!r} on the path") from None


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"policy {str(path)!r}: there is no such file")
    key = f"policy_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
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


def _checked(name: str, policy: type[Any], parameters: Mapping[str, object]) -> Any:
    takes = {field.name: field for field in fields(policy) if field.init}
    types = get_type_hints(policy)
    for key, value in parameters.items():
        if key not in takes:
            raise ConfigError(f"policy {name}: {unknown('parameter', key, takes)}")
        if not _fits(value, types[key]):
            raise ConfigError(f"policy {name}: parameter {key} is {value!r}; it is {_wanted(types[key])}")
    for key, field in takes.items():
        if key not in parameters and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"policy {name}: parameter {key} has no default and must be given; "
                              f"it is {_wanted(types[key])}")
    return policy(**parameters)


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
