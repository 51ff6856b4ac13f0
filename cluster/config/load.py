"""Configs by name or path, read strictly: what is wrong with one is told in one sentence."""

import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cluster.config.hardware import Hardware
from cluster.config.names import CONFIGS, locate
from cluster.config.precision import Precision
from cluster.config.quantities import Strict
from cluster.kept import kept
from emulation.errors import ConfigError, brief, unknown

LARGEST_BYTES = 1 << 20
MOST_DIGITS = 1000
"""Of a number; Python itself refuses to write out more than 4300."""

Part = TypeVar("Part", bound=Strict)

_NOUNS = {"string": "text", "int": "a whole number", "float": "a number", "bool": "true or false",
          "dict": "a mapping", "tuple": "a list", "list": "a list", "model": "a mapping"}


class _Loader(yaml.SafeLoader):
    """YAML whose mappings hold each key once, and no aliases (a config says what it says)."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is no text: put it in quotes",
                                                        key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > MOST_DIGITS:
            raise yaml.constructor.ConstructorError(None, None, f"a number has {len(node.value)} digits",
                                                    node.start_mark)
        return int(super().construct_yaml_int(node))

    def construct_yaml_str(self, node: yaml.ScalarNode) -> str:
        text = str(super().construct_yaml_str(node))
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise yaml.constructor.ConstructorError(None, None, f"{brief(text)} holds half a character (a surrogate)",
                                                    node.start_mark)
        return text


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.yaml_constructors = {
    tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in ("null", "bool", "int", "float", "str", "seq", "map")}
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_yaml_str)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds."""
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_BYTES + 1).decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"there is no config file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{path} cannot be read: {reason}") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """The mapping that a YAML text holds; `where` names it in errors."""
    if len(text.encode("utf-8", "surrogatepass")) > LARGEST_BYTES:
        raise ConfigError(f"{where} is above {LARGEST_BYTES} bytes: no config is so long")
    try:
        data = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{where}{line} is not YAML that is read here: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise ConfigError(f"{where} is not YAML that is read here: {reason}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{where} holds {type(data).__name__} and not a mapping of keys to values")
    return data


def validate(schema: type[Part], data: object, where: str) -> Part:
    """A part of a config, checked; one sentence where it is wrong."""
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise ConfigError(sentence(error, where)) from None
    except RecursionError:
        raise ConfigError(f"{where} is nested too deeply") from None


def sentence(error: ValidationError, where: str) -> str:
    """The first thing that is wrong, where it is, and how many more there are."""
    return told(error.errors(include_url=False), where)


def told(details: Sequence[ErrorDetails], where: str) -> str:
    """The same of the errors that pydantic found."""
    first = next((d for d in details if d["type"] == "refused"), details[0])
    place = ".".join(str(part) for part in first["loc"] if part != "[key]")
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return f"{where}: {place + ': ' if place else ''}{_reason(first)}{more}"


def _reason(detail: ErrorDetails) -> str:
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    shown = brief(given)
    if kind == "refused":
        return str(context["text"])
    if kind == "missing":
        return "is missing"
    if kind == "literal_error" and isinstance(given, str):
        return unknown("value", given, re.findall(r"'([^']*)'", str(context["expected"])))
    if kind.endswith("_type"):
        noun = _NOUNS.get(kind.removesuffix("_type"))
        if noun:
            return f"{shown} should be {noun}"
    return f"{shown}: {detail['msg'][0].lower()}{detail['msg'][1:]}"


def load(schema: type[Part], folder: str, what: str, name: str, base: Path = Path()) -> Part:
    """A config of this schema by name or path."""
    return _read(locate(folder, what, name, base), schema)


@kept(most=64)
def _read(path: Path, schema: type[Part]) -> Part:
    return validate(schema, read_yaml(path), shown(path))


def shown(path: Path) -> str:
    """A path as it is named to the user: what ships with moelab, from its root."""
    return str(path.relative_to(CONFIGS.parent)) if path.is_relative_to(CONFIGS) else str(path)


def load_hardware(name: str, base: Path = Path()) -> Hardware:
    """A machine by name, or by the path of its file."""
    return load(Hardware, "hardware", "machine", name, base)


def load_precision(name: str, base: Path = Path()) -> Precision:
    """A precision by name, or by the path of its file."""
    return load(Precision, "precision", "precision", name, base)
