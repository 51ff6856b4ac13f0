"""Where a run in an actor writes how far it is, the tokens that it produced and what is to outlive it, for the driver
to read."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from cluster.transports.crash import Fuse
from cluster.wall.stream import Token


class News(NamedTuple):
    """last: how far the run is. tokens, kept: those since the last call; kept: what was put into the safe, by name."""

    last: tuple[int, int, str] | None
    tokens: list[Token]
    kept: dict[str, Any]


class Board:
    """Written by the run's threads, read by the driver's calls. kept: what a scheduler before this one put there."""

    def __init__(self, kept: Mapping[str, Any] | None = None, burn: Fuse | None = None) -> None:
        self._fuse = burn or Fuse()
        self._last: tuple[int, int, str] | None = None
        self._tokens: list[Token] = []
        self._before = dict(kept or {})
        self._new: list[tuple[str, Any]] = []

    def update(self, done: int, total: int, text: str) -> None:
        self._last = (done, total, text)

    def add(self, token: Token) -> None:
        self._tokens.append(token)

    def get(self, key: str) -> Any:
        return self._before.get(key)

    def put(self, key: str, value: Any) -> None:
        self._new.append((key, value))
        self._fuse.at("keeping")

    def read(self) -> News:
        """What is new. What was told before what it rests on was kept would be told again by another scheduler: so how
        far the run is, is read first."""
        last = self._last
        return News(last, _taken(self._tokens), dict(_taken(self._new)))


def _taken(items: list[Any]) -> list[Any]:
    """What is in a list, which it then holds no more; always the one list: what is added meanwhile stays in it."""
    found = items[:]
    del items[:len(found)]
    return found
