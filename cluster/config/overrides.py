"""Values put into a config before it is checked, as if its file had said so: `--set a.b=c`, and points of a study."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml

from cluster.config.load import parse_yaml
from cluster.config.quantities import Strict
from emulation.errors import ConfigError, unknown

PATHS = {"machine", "machine.name", "precision", "policy", "policy.name", "model.config", "model.checkpoint",
         "workload", "workload.trace", "workload.prompts", "workload.generator.fitted",
         "workload.serving.recorded", "workload.serving.batcher", "workload.serving.batcher.name"}
"""Settings that may hold a path."""

SUFFIXES = (".yaml", ".yml", ".py", ".npz", ".json", ".jsonl")


def from_here(setting: str) -> str:
    """A `--set` whose relative paths lead on from the current folder, where something is there by that name."""
    path, equals, text = setting.partition("=")
    if not any(path == known or known.startswith(f"{path}.") for known in PATHS):
        return setting
    if not text.lstrip().startswith("{"):
        return f"{path}{equals}{here(text) if path in PATHS else text}"
    try:
        value = parse_yaml(f"value: {text}", f"--set {path}")["value"]
    except (ConfigError, yaml.YAMLError):
        return setting  # whoever reads it next says what is wrong
    return f"{path}={json.dumps(_here(path, value))}"


def here(name: str) -> str:
    """The file or folder of the current folder that is meant, if one is and is there; else the name as it is."""
    is_path = "/" in name or name.endswith(SUFFIXES)
    return str(Path(name).absolute()) if is_path and Path(name).exists() else name


def _here(path: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _here(f"{path}.{key}", inner) for key, inner in value.items()}
    return here(value) if path in PATHS and isinstance(value, str) else value


def override(schema: type[Strict], data: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """The data with every `path=value` applied, in order; a path that the schema does not know is refused."""
    out = dict(data)
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set {setting!r} is not of the form a.b=value")
        where = f"--set {path}"
        out = _Change(path, where, partial(_value, text=text, where=where)).put(schema, out)
    return out


def put_value(schema: type[Strict], data: Mapping[str, Any], path: str, value: object, where: str) -> dict[str, Any]:
    """The data with a value at a dotted path, as it is; `where` names it in errors."""
    changed: dict[str, Any] = _Change(path, where, lambda _: value).put(schema, data)
    return changed


@dataclass(frozen=True)
class _Change:
    """A value for a dotted path; `value` makes it from what the schema wants there."""

    path: str
    where: str
    value: Callable[[Any], Any]

    def put(self, schema: type[Strict], data: Mapping[str, Any]) -> Any:
        return self._put(schema, data, self.path.split("."))

    def _put(self, annotation: Any, data: Any, keys: list[str]) -> Any:
        annotation = _plain(annotation)
        if not keys:
            return self.value(annotation)
        key, rest = keys[0], keys[1:]
        if isinstance(annotation, type) and issubclass(annotation, Strict):
            data = annotation.from_short({} if data is None else data)
            fields = {field.alias or name: field for name, field in annotation.model_fields.items()}
            if key not in fields:
                raise ConfigError(f"{self.where}: {unknown('setting', key, fields)}")
            inner: Any = fields[key].annotation
        elif get_origin(annotation) is dict:
            inner = get_args(annotation)[1]
            if not _holds_more(inner):
                key, rest = ".".join(keys), []
        elif get_origin(annotation) is tuple:
            return self._put_in_list(get_args(annotation)[0], data, keys)
        else:
            above = self.path.removesuffix("." + ".".join(keys))
            raise ConfigError(f"{self.where}: there is nothing below {above!r}")
        if not isinstance(data, Mapping):
            data = {}
        return {**data, key: self._put(inner, data.get(key), rest)}

    def _put_in_list(self, annotation: Any, data: Any, keys: list[str]) -> list[Any]:
        rows = list(data or ())
        if not keys[0].isdecimal() or int(keys[0]) >= len(rows):
            raise ConfigError(f"{self.where}: {keys[0]!r} is no place in a list of {len(rows)}, which are numbered "
                              "from 0")
        at = int(keys[0])
        rows[at] = self._put(annotation, rows[at], keys[1:])
        return rows


def _plain(annotation: Any) -> Any:
    """The annotation without Annotated and without None."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        others = [arm for arm in get_args(annotation) if arm is not type(None)]
        if len(others) == 1:
            return _plain(others[0])
    return annotation


def _holds_more(annotation: Any) -> bool:
    annotation = _plain(annotation)
    return get_origin(annotation) in (dict, tuple) or (isinstance(annotation, type) and issubclass(annotation, Strict))


def _value(annotation: Any, text: str, where: str) -> Any:
    """The text as YAML reads it; where the schema wants text, as it stands."""
    if annotation is str and text not in ("null", "~"):
        return text
    try:
        return parse_yaml(f"value: {text}", where)["value"]
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: {text!r} is no value ({error})") from None
