"""Turns what is right into what is nearly right: values by their structure, texts by their lines, bytes by their place.

Every function takes a `random.Random` and changes a copy, so that a case comes again from its number.
"""

import contextlib
import copy
import json
import random
from collections.abc import Callable
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 7, -0.0, 1e308, -1e308, 5e-324, float("nan"), float("inf"), 2**31, 2**63,
    -(2**63), 10**20,
    10**400, 0.1, "", " ", "0", "-1", "nan", "1e999", "1 GB", "-1 GB", "0 GB/s", "1e400 s", "1e-400 GB/s",
    "1e99999999 s", "1/0 s", "NaN GB", "٣ GB", "units", "gpu", "bf16", "all", "mesh", "../x", "/etc/passwd",
    "/dev/zero", "/dev/null",
    "a:b", "os:system", "x.py", "~", "\0", "./\0", "é", "\ud800", "\u202e", "{x}", "{0.__class__}", "%s",
    "x" * 300, "x/" * 3000, [], {}, [[]], [None], {"": None}, {"name": None}, {"name": "lru"}, {"value": "1 GB"},
    [1, "a", None], list(range(300)), {"a": {"a": {"a": {}}}})


def places(data: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value below the top."""
    found = [path] if path else []
    rows = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in rows:
        found += places(value, (*path, key))
    return found


def at(data: Any, way: tuple[Any, ...]) -> Any:
    for key in way:
        data = data[key]
    return data


def nested(depth: int) -> Any:
    out: Any = 1
    for i in range(depth):
        out = [out] if i % 2 else {"a": out}
    return out


def data_of(draw: random.Random, original: Any) -> Any:
    """The value with one to three things put, dropped, renamed, swapped, doubled, retyped or nested."""
    data = copy.deepcopy(original)
    for _ in range(draw.randint(1, 3)):
        where = places(data)
        if not where:
            break
        *way, last = draw.choice(where)
        place = at(data, tuple(way))
        action = draw.choice(("put", "put", "put", "drop", "rename", "swap", "retype", "scale", "double", "nest"))
        if action == "drop":
            del place[last]
        elif action == "rename" and isinstance(place, dict):
            place[draw.choice((str(last)[:-1], str(last).upper(), f"{last} ", "__class__", "", "é"))] = place.pop(last)
        elif action == "swap":
            place[last] = copy.deepcopy(at(data, draw.choice(where)) if draw.random() < 0.5 else data)
        elif action == "retype":
            value = place[last]
            place[last] = draw.choice((str(value), [value], {str(last): value}, {"value": value}, repr(value)))
        elif action == "scale" and isinstance(place[last], int | float) and not isinstance(place[last], bool):
            factor = draw.choice((-1, 0, 1000, 10**9, 0.5))
            with contextlib.suppress(OverflowError):  # half of 10**400
                place[last] *= factor
        elif action == "double" and isinstance(place, list):
            place.insert(last, copy.deepcopy(place[last]))
        elif action == "nest":
            place[last] = nested(draw.choice((2, 30, 400)))
        else:
            place[last] = copy.deepcopy(draw.choice(ODD))
    return data


def as_yaml(data: Any) -> str:
    """The value as JSON, which YAML reads, with YAML's own names of what is no number."""
    text = json.dumps(data, indent=1, default=str)
    for name, other in (("NaN", ".nan"), ("-Infinity", "-.inf"), ("Infinity", ".inf")):
        text = text.replace(f" {name}", f" {other}")
    return text


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n"
    for a, b in zip("abcdefgh", "bcdefghi", strict=True))
TAGS = ("!!python/object/apply:os.system [id]", "!!python/name:os.system", "!!binary |\n  R0lG", "!!set {a, b}",
        "!!timestamp 2001-01-01", "!unknown x", "!!int a", "!!float b", "!!omap [a: 1]")
BREAKS: tuple[Callable[[random.Random, str], str], ...] = (
    lambda *_: "", lambda *_: "\n\n# nothing\n", lambda *_: LAUGHS,
    lambda _, text: text + LAUGHS, lambda _, text: "\ufeff" + text, lambda _, text: text.replace(" ", "\t"),
    lambda _, text: text + text, lambda _, text: text + "\n---\n" + text, lambda _, text: text[::-1],
    lambda _, text: text + "\nseed: 0x" + "f" * 6000, lambda _, text: text + "\nseed: " + "9" * 6000,
    lambda _, text: text + "\nseed: " + ":".join(["59"] * 2000),
    lambda draw, text: text + "\nx: " + "[" * draw.choice((50, 5000)),
    lambda draw, text: text + "\nx: " + "{a: " * draw.choice((50, 2000)),
    lambda draw, text: text + f"\nx: {draw.choice(TAGS)}\n", lambda _, text: text + "\n? [a, b]\n: c\n",
    lambda _, text: text + "\n<<: {a: b}\n", lambda _, text: text + "\n1: 2\n", lambda *_: "[]",
    lambda _, text: text + "\n%TAG ! tag:x\n", lambda _, text: text + "\n'", lambda _, text: text + "\x07",
    lambda *_: "- " * 3000, lambda *_: "null", lambda _, text: "\u2028" + text)


def text_of(draw: random.Random, text: str) -> str:
    """The text with lines dropped, doubled or moved, characters put in or taken out, or something worse."""
    if draw.random() < 0.4:
        return draw.choice(BREAKS)(draw, text)
    lines = text.splitlines(keepends=True) or [""]
    for _ in range(draw.randint(1, 3)):
        i = draw.randrange(len(lines))
        action = draw.choice(("drop", "double", "move", "cut", "put", "indent"))
        if action == "drop":
            lines[i] = ""
        elif action == "double":
            lines.insert(i, lines[i])
        elif action == "move":
            lines.insert(draw.randrange(len(lines)), lines.pop(i))
        elif action == "cut":
            lines[i] = lines[i][:draw.randrange(len(lines[i]) + 1)]
        elif action == "indent":
            lines[i] = draw.choice((" ", "   ", "\t", "- ")) + lines[i]
        else:
            j = draw.randrange(len(lines[i]) + 1)
            lines[i] = lines[i][:j] + draw.choice(("{", "}", "[", ":", "&a ", "*a", "\t", "\0", "é", "#", '"', ",", "!",
                                                   "\r", "%", "\x85", "|")) + lines[i][j:]
    return "".join(lines)


def bytes_of(draw: random.Random, data: bytes) -> bytes:
    """The bytes cut, flipped, filled, doubled, or with a length field of another size."""
    raw = bytearray(data)
    for _ in range(draw.randint(1, 3)):
        i = draw.randrange(len(raw) + 1)
        action = draw.choice(("cut", "flip", "flip", "zero", "splice", "length", "head"))
        if action == "cut":
            del raw[i:]
        elif action == "flip" and i < len(raw):
            raw[i] ^= 1 << draw.randrange(8)
        elif action == "zero":
            raw[i:i + 16] = bytes(len(raw[i:i + 16]))
        elif action == "splice":
            raw[i:i] = raw[:draw.randrange(1, 65)]
        elif action == "length":
            raw[i:i + 8] = draw.choice((0, 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)).to_bytes(8, "little")
        elif action == "head":
            del raw[:draw.randrange(1, 65)]
    return bytes(raw)


def any_of(draw: random.Random, text: str, data: Any) -> bytes:
    """A case of a text with a structure: by its values in most cases, by its lines, or by its bytes."""
    way = draw.random()
    if way < 0.6:
        return as_yaml(data_of(draw, data)).encode("utf-8", "surrogatepass")
    if way < 0.9:
        return text_of(draw, text).encode("utf-8", "surrogatepass")
    return bytes_of(draw, text.encode())
