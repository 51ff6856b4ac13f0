"""Pydantic models as tables: each field with its type, its unit, its default, and what its class's docstring says."""

import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from cluster.config.quantities import SI_UNITS, Quantity

PLAIN = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "object": "anything",
         "Any": "anything", "NoneType": "null"}


def meanings(doc: str, names: Sequence[str]) -> tuple[str, dict[str, str]]:
    """What a docstring says of the whole, and of each field: sentences that begin with names of fields and a colon."""
    text = " ".join(doc.split())
    alternatives = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    one = rf"`?(?:{alternatives}|[a-z_]*\*[a-z_]*)`?(?: \([^)]*\))?"
    label = re.compile(rf"(?:(?<=^)|(?<=[.;:] )|(?<=\. ))({one}(?:(?:, | and ){one})*): ") if names else None
    found = list(label.finditer(text)) if label else []
    if not found:
        return text, {}
    told: dict[str, str] = {}
    for at, end in zip(found, [*(match.start() for match in found[1:]), len(text)], strict=True):
        said = text[at.end():end].strip().rstrip(";")
        for word in re.findall(r"`?([a-z_*]+)`?(?: \(([^)]*)\))?", at[1]):
            name, aside = word
            for field in names:
                if re.fullmatch(name.replace("*", "[a-z_]*"), field):
                    told[field] = f"{said[:1].upper()}{said[1:]}" + (f" ({aside})" if aside else "")
    return text[:found[0].start()].strip().rstrip(";"), told


def typed(annotation: Any, link: Mapping[type, str]) -> str:
    """A type in words; classes that have a place of their own are linked."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return typed(inner[0], link)
    if origin is Literal:
        return " \\| ".join(f"`{value}`" for value in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(typed(one, link) for one in inner if one is not type(None)))
    if origin is tuple:
        return f"list of {typed(inner[0], link)}" if len(inner) == 2 and inner[1] is ... else \
            f"[{', '.join(typed(one, link) for one in inner)}]"
    if origin in (dict, Mapping) or getattr(origin, "__name__", "") == "Mapping":
        return f"map of {typed(inner[0], link)} to {typed(inner[1], link)}"
    if origin is list:
        return f"list of {typed(inner[0], link)}"
    if isinstance(annotation, type) and issubclass(annotation, Quantity):
        unit = SI_UNITS[annotation.dimension] or "a plain number"
        return f"[quantity](hardware.md#quantities), {unit}"
    if annotation in link:
        return f"[{annotation.__name__}]({link[annotation]})"
    name = getattr(annotation, "__name__", str(annotation))
    return PLAIN.get(name, "JSON" if "Json" in str(annotation) else name)


def limits(field: FieldInfo) -> str:
    """The bounds of a field, in signs."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "length ≥", "max_length": "length ≤"}
    told = [f"{signs[key]} {_number(value)}" for part in field.metadata for key in signs
            if (value := getattr(part, key, None)) is not None]
    return ", ".join(told)


def default_of(field: FieldInfo) -> str:
    """A field's default as YAML would have it; required where it has none."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True) if not field.default_factory else field.default_factory()  # type: ignore[call-arg]
    return default_text(value)


def default_text(value: object) -> str:
    """A default as a config would write it; an empty cell where there is nothing to write."""
    if value is None or value is PydanticUndefined or value in ((), {}, "", []):
        return ""
    if isinstance(value, Quantity):
        return f"`{value.value}`"
    if isinstance(value, BaseModel):
        given = value.model_dump(exclude_defaults=True) or {"": ""}
        told = [f"{key}: {inner}" for key, inner in given.items() if key]
        return f"`{{{', '.join(told)}}}`" if told else "its defaults"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{_number(value)}`"


def _number(value: object) -> str:
    return f"{value:,}".replace(",", " ") if isinstance(value, int) and abs(value) >= 10_000 else f"{value}"


def section(model: type[BaseModel], link: Mapping[type, str], *, defaults: bool = True) -> str:
    """A model's heading, what it is, and its table. defaults: whether it is written by a user."""
    names = {name: field.alias or name for name, field in model.model_fields.items()}
    whole, told = meanings(model.__doc__ or "", [*names, *(alias for alias in names.values() if alias not in names)])
    head = ("key", "type", *(("default",) if defaults else ()), "meaning")
    rows = [row(head), row("---" for _ in head)]
    for name, field in model.model_fields.items():
        bounds = limits(field)
        kind = typed(field.annotation, link) + (f", {bounds}" if bounds else "")
        cells = [f"`{names[name]}`", kind, *([default_of(field)] if defaults else []),
                 told.get(name) or told.get(names[name]) or _of_its_type(field.annotation)]
        rows.append(row(cells))
    return f"## {model.__name__}\n\n{prose(whole)}\n\n" + "\n".join(rows) + "\n"


def row(cells: Iterable[str]) -> str:
    """A line of a table."""
    return "| " + " | ".join(re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in cells) + " |"


def prose(text: str) -> str:
    """Text of a docstring as a paragraph: what looks like markup is not meant so."""
    return re.sub(r"(?<!`)([*_<])(?!`)", r"\\\1", text) if "`" not in text else text.replace("<", "&lt;")


def below(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The model and all that its fields name, each once, in order; quantities are a page's own matter."""
    seen: dict[type[BaseModel], None] = {}
    todo = [model]
    while todo:
        one = todo.pop(0)
        if one in seen:
            continue
        seen[one] = None
        todo += [part for field in one.model_fields.values() for part in _models(field.annotation)]
    yield from seen


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and not issubclass(annotation, Quantity):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _of_its_type(annotation: Any) -> str:
    """What the one model that a field holds says of itself, in its first sentence."""
    models = list(_models(annotation))
    if len(models) != 1:
        return ""
    whole, _ = meanings(models[0].__doc__ or "", list(models[0].model_fields))
    return re.split(r"(?<=[.;]) ", whole)[0].rstrip(".;") + "." if whole else ""


def parameters(found: type[Any]) -> str:
    """The parameters of a policy or batcher (its dataclass's fields) as a table; empty where it has none."""
    if not is_dataclass(found) or not fields(found):
        return ""
    hints = typing.get_type_hints(found, include_extras=True)
    names = [field.name for field in fields(found)]
    _, told = meanings(found.__doc__ or "", names)
    rows = ["| parameter | type | default | meaning |\n|---|---|---|---|"]
    for field in fields(found):
        default = "required" if field.default is MISSING else default_text(field.default) or "none"
        rows.append(row([f"`{field.name}`", typed(hints[field.name], {}), default, told.get(field.name, "")]))
    return "\n".join(rows) + "\n"


def about(found: type[Any]) -> str:
    """What a policy's or batcher's docstring says of the whole."""
    names = [field.name for field in fields(found)] if is_dataclass(found) else []
    return meanings(found.__doc__ or "", names)[0]
