"""Files from elsewhere, read whole up to a size: what cannot be read is told in one sentence."""

import json
from pathlib import Path
from typing import Any

from emulation.errors import InputError

LARGEST_JSON_BYTES = 64 << 20
PIECE_BYTES = 1 << 20
"""What is asked for at a time: Python takes the memory for all that it may get before it reads."""


def read_bytes(path: Path, what: str, most: int) -> bytes:
    """What a file or a pipe holds; refuses more than `most` bytes without reading on. `what` names it in errors."""
    try:
        data = bytearray()
        with path.open("rb") as file:
            while len(data) <= most and (piece := file.read(min(PIECE_BYTES, most + 1 - len(data)))):
                data += piece
    except FileNotFoundError:
        raise InputError(f"there is no {what} {path}") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{what} {str(path)!r} cannot be read: {reason}") from None
    if len(data) > most:
        raise InputError(f"{what} {path} is above {most} bytes, the most that is read")
    return bytes(data)


def read_json(path: Path, what: str, most: int = LARGEST_JSON_BYTES) -> Any:
    """The value of a JSON file; raises InputError where there is none."""
    return parse_json(read_bytes(path, what, most), f"{what} {path}")


def parse_json(text: str | bytes, where: str) -> Any:
    """The value that a JSON text says; `where` names it in errors. Raises InputError."""
    try:
        return json.loads(text if isinstance(text, str) else text.decode("utf-8"))
    except UnicodeDecodeError:
        reason = "it is not UTF-8 text"
    except RecursionError:
        reason = "it is nested too deeply"
    except ValueError as error:  # also whole numbers of thousands of digits
        reason = str(error).partition(":  ")[0]
    raise InputError(f"{where} is no JSON that is read here: {reason}") from None
