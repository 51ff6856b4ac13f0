"""Where a run in an actor writes how far it is, and the tokens that it produced, for the driver to read."""

from cluster.wall.stream import Token


class Board:
    """Written by the run's threads, read by the driver's calls."""

    def __init__(self) -> None:
        self._last: tuple[int, int, str] | None = None
        self._tokens: list[Token] = []

    def update(self, done: int, total: int, text: str) -> None:
        self._last = (done, total, text)

    def add(self, token: Token) -> None:
        self._tokens.append(token)

    def read(self) -> tuple[tuple[int, int, str] | None, list[Token]]:
        """How far the run is, and the tokens since the last call."""
        tokens = self._tokens[:]  # always the one list: what is added meanwhile stays in it
        del self._tokens[:len(tokens)]
        return self._last, tokens
