"""SIGTERM ends a command as Ctrl-C does: `ray job stop`, `docker stop` and a cluster's own managers send it, and kill
what has not ended some seconds later."""

import signal
from types import FrameType

TERMINATED = 128 + signal.SIGTERM
_told: list[int] = []


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


def heed_sigterm() -> None:
    """Raise `Terminated` in the main thread where SIGTERM comes; once: what is cleared away then is not cut short."""
    signal.signal(signal.SIGTERM, _raise)


def was_terminated() -> bool:
    """Whether SIGTERM came."""
    return bool(_told)


def _raise(number: int, _: FrameType | None) -> None:
    if not _told:
        _told.append(number)
        raise Terminated
