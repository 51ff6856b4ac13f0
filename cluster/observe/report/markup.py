"""Markup out of text: the one place where what others wrote (names of policies, models, sources) is escaped.

`tag` escapes every child and attribute that is no `Markup`; nothing else makes Markup of text.
"""

import re
from collections.abc import Iterable
from html import escape

_VOID = ("meta", "br", "hr", "input", "link", "col")
_EMPTY = ("rect", "path", "line", "circle", "polyline", "polygon", "use")
_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]")
"""What XML forbids, and what would turn the direction of the text around it."""
_HARMLESS = re.compile(r"[\w .,:;()\[\]{}=+*/%#-]*", re.ASCII)


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


NOTHING = Markup("")


def text(value: str) -> Markup:
    """A text as it may stand between tags and in attributes; Markup stays as it is."""
    if isinstance(value, Markup):
        return value
    return Markup(value if _HARMLESS.fullmatch(value) else escape(_UNSEEN.sub("\ufffd", value), quote=True))


def join(parts: Iterable[str], between: str = "") -> Markup:
    """Parts behind each other."""
    return Markup(text(between).join(text(part) for part in parts))


def number(value: float) -> str:
    """A coordinate with at most two digits behind the point, the shortest that says it."""
    short = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if short == "-0" else short


def tag(name: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """An element. Attributes: a trailing underscore goes, others become dashes (`class_`, `aria_label`); None: none."""
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
                      for key, value in attributes.items() if value is not None)
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    if name in _EMPTY and not children:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def _value(value: str | float) -> str:
    return text(value) if isinstance(value, str) else number(value)


def svg(label: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """A picture that says what it shows: to a reader of screens and to a pointer that rests on it."""
    return tag("svg", tag("title", label), *children, role="img", aria_label=label, **attributes)
