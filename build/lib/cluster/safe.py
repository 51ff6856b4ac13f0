"""Where a scheduler puts what outlives it, so that another one in its place need not do it again."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from emulation.view import Routing, Step


class Safe(Protocol):
    """Keeps values by name where the scheduler's end does not reach them."""

    def get(self, key: str) -> Any:
        """What was kept under this name by a scheduler before this one; None where nothing was."""

    def put(self, key: str, value: Any) -> None:
        """Hand a value on. It counts as kept once it is fetched: until then it may be asked for again."""


@dataclass(frozen=True)
class Part:
    """A policy's part of a safe."""

    name: str
    whole: Safe

    def get(self, key: str) -> Any:
        return self.whole.get(f"{self.name}: {key}")

    def put(self, key: str, value: Any) -> None:
        self.whole.put(f"{self.name}: {key}", value)


@dataclass
class Answered:
    """A batch that the model has answered: all that timing it again needs, and its tokens.

    steps: each with the routing of its layers and the forecast made there, as they were decided on.
    """

    steps: list[tuple[Step, list[tuple[Routing, Routing | None]]]] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)
