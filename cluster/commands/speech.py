"""What a model says while it is played at the wall clock, as it comes."""

import sys
from collections.abc import Sequence

from cluster.commands.show import printable
from cluster.wall.stream import Token


class Speech:
    """Prints tokens: one answer at a time as running text, several at once as a line a step."""

    def __init__(self, prompts: Sequence[str], batch: int) -> None:
        self.is_whole = batch == 1
        self._prompts = prompts
        self._at = -1

    def __call__(self, token: Token) -> None:
        if self.is_whole:
            if token.sequence != self._at:
                asked = self._prompts[token.sequence % len(self._prompts)] if self._prompts else ""
                self._say(("\n" if self._at >= 0 else "") + f"[{token.sequence}] {asked}|")
                self._at = token.sequence
            self._say(token.text)
            return
        if token.step != self._at:
            self._say(("\n" if self._at >= 0 else "") + f"{token.real_s:8.2f} s")
            self._at = token.step
        self._say(f"  [{token.sequence}] {printable(token.text)}")

    def end(self) -> None:
        """The last line ends."""
        if self._at >= 0:
            self._say("\n")

    def _say(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
