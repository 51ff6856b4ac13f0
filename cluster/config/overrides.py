"""`--set a.b=c`: a value put into a config before it is checked, as if the file had said so."""

from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml

from cluster.config.load import parse_yaml
from cluster.config.quantities import Strict
from emulation.errors import ConfigError, unknown


def override(schema: type[Strict], data: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """The data with every `path=value` applied, in order; a path that the schema does not know is refused."""
    out = dict(data)
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set {setting!r} is not of the form a.b=value")
        out = _put(schema, out, path.split("."), text, path)
    return out


def _put(annotation: Any, data: Any, keys: list[str], text: str, path: str) -> Any:
    annotation = _plain(annotation)
    if not keys:
        return _value(annotation, text, path)
    key, rest = keys[0], keys[1:]
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        data = annotation.from_short({} if data is None else data)
        fields = {field.alias or name: field for name, field in annotation.model_fields.items()}
        if key not in fields:
            raise ConfigError(f"--set {path}: {unknown('setting', key, fields)}")
        inner: Any = fields[key].annotation
    elif get_origin(annotation) is dict:
        inner = get_args(annotation)[1]
        if not _holds_more(inner):
            key, rest = ".".join(keys), []
    elif get_origin(annotation) is tuple:
        return _put_in_list(get_args(annotation)[0], data, keys, text, path)
    else:
        raise ConfigError(f"--set {path}: there is nothing below {path.removesuffix('.' + '.'.join(keys))!r}")
    if not isinstance(data, Mapping):
        data = {}
    return {**data, key: _put(inner, data.get(key), rest, text, path)}


def _put_in_list(annotation: Any, data: Any, keys: list[str], text: str, path: str) -> list[Any]:
    rows = list(data or ())
    if not keys[0].isdecimal() or int(keys[0]) >= len(rows):
        raise ConfigError(f"--set {path}: {keys[0]!r} is no place in a list of {len(rows)}, which are numbered from 0")
    at = int(keys[0])
    rows[at] = _put(annotation, rows[at], keys[1:], text, path)
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


def _value(annotation: Any, text: str, path: str) -> Any:
    """The text as YAML reads it; where the schema wants text, as it stands."""
    if annotation is str and text not in ("null", "~"):
        return text
    try:
        return parse_yaml(f"value: {text}", f"--set {path}")["value"]
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {path}: {text!r} is no value ({error})") from None
