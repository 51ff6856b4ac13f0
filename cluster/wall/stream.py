"""What a run at the wall clock tells while it is played: tokens, at the emulated machine's pace times the dilation."""

from collections.abc import Callable
from typing import NamedTuple


class Token(NamedTuple):
    """A token that a run at the wall clock has just produced.

    step, sequence, token: what it is; text: what it adds to its answer (empty until a letter is whole). emulated_s,
    real_s: since the run began, on the emulated machine and on this host.
    """

    step: int
    sequence: int
    token: int
    text: str
    emulated_s: float
    real_s: float


OnToken = Callable[[Token], None]
"""Hears tokens as they come, on a thread of the run's; what it raises ends the run."""


class Made(NamedTuple):
    """A token before it is time for it."""

    sequence: int
    token: int
    text: str


class Spelling:
    """Answers as text, token by token: what each adds, held back while it ends in the middle of a letter."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._tokens: dict[int, list[int]] = {}
        self._shown: dict[int, int] = {}

    def add(self, sequence: int, token: int) -> str:
        """What a token adds to its answer."""
        tokens = self._tokens.setdefault(sequence, [])
        tokens.append(token)
        text, shown = self._decode(tokens), self._shown.get(sequence, 0)
        if text.endswith("\ufffd"):
            return ""
        self._shown[sequence] = max(shown, len(text))
        return text[shown:]
