"""The one seam between the scheduler and its devices."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from actors.messages import DeviceSpec, Reply, Work
from actors.programme import Order


class Transport(Protocol):
    """Carries work to devices and replies back. Replies are by device number: no order of arrival shows."""

    name: str

    def open(self, specs: Sequence[DeviceSpec]) -> None:
        """Start the devices, or start them anew; they may still be on their way when it returns."""

    def wait(self) -> None:
        """Return when every device is there."""

    def exchange(self, work: Mapping[int, Work]) -> dict[int, Reply]:
        """At most one message for each device, only to devices with work."""

    def players(self) -> dict[int, int]:
        """Device number -> number of the player that plays it at the wall clock: one a process, counted from 0."""

    def perform(self, orders: Mapping[int, Order]) -> dict[int, object]:
        """An order to each player named, and what it answers."""

    def close(self) -> None:
        """Stop the devices; nothing is left behind."""

    def describe(self) -> dict[str, object]:
        """What it ran on (processes, workers), for the `host` part of a result."""
