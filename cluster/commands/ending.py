"""SIGTERM ends a command as Ctrl-C does: `ray job stop`, `docker stop` and a cluster's own managers send it, and kill
what has not ended some seconds later."""

import signal
import sys
import threading
from types import FrameType

TERMINATED = 128 + signal.SIGTERM
MOMENT_S = 0.1
"""Long enough for a finalizer to end, and too short to be noticed."""
_told: list[int] = []


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


def heed_sigterm() -> None:
    """Raise `Terminated` in the main thread where SIGTERM comes; once: what is cleared away then is not cut short."""
    signal.signal(signal.SIGTERM, _raise)


def hear_again() -> None:
    """Where Ctrl-C or SIGTERM comes while Python cannot raise it (in a finalizer, in a callback of a library's), it is
    raised a moment later; Python alone would print it and go on with the command."""
    sys.unraisablehook = _unraisable


def was_terminated() -> bool:
    """Whether SIGTERM came."""
    return bool(_told)


def _unraisable(told: "sys.UnraisableHookArgs") -> None:
    if not isinstance(told.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(told)
        return
    number = signal.SIGINT
    if isinstance(told.exc_value, Terminated):
        number = signal.SIGTERM
        _told.clear()
    again = threading.Timer(MOMENT_S, signal.pthread_kill, (threading.main_thread().ident, number))
    again.daemon = True
    again.start()


def _raise(number: int, _: FrameType | None) -> None:
    if not _told:
        _told.append(number)
        raise Terminated
