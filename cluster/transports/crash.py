"""Where a process ends itself by SIGKILL: how tests and drills kill an actor in a given state of the protocol.

Off unless the environment variable MOELAB_CRASH_AT is set, like `worker:1:working:3,scheduler:0:decided:7`: worker 1
ends the third time that it is working, the scheduler the seventh time that it has decided. A fifth field tells which
life is meant: 0, the first, where it is absent; `*`, every one, those that are started in its place included.
"""

import os
import signal
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from emulation.errors import ConfigError, unknown

VARIABLE = "MOELAB_CRASH_AT"

STATES: Mapping[str, tuple[str, ...]] = {
    "worker": ("starting", "opened", "received", "working", "answering", "answered", "closing"),
    "scheduler": ("starting", "opening", "waiting", "decided", "exchanging", "exchanged", "keeping", "finishing"),
}
"""A worker's: its process runs; its devices are open, and it has not said so; a message is here; the first device of it
has made its moves and computed; half of the reply is sent (over a pipe; as a Ray actor: it is ready); it waits for the
next message; it was told to end. The scheduler's: its process runs; it starts the devices; it waits for them; a plan is
decided and lowered; its messages are sent; they are answered; something is put into the safe; the results are there."""


@dataclass
class Fuse:
    """Burns down each time that a state is reached. left: state -> how often it is still to be reached."""

    left: dict[str, int] = field(default_factory=dict)

    def at(self, state: str) -> None:
        """The state is reached: the process may end here."""
        if self.left and self._burnt(state):
            os.kill(os.getpid(), signal.SIGKILL)

    def at_reply(self, state: str, pipe: "Connection[Any, Any]") -> None:
        """The same, with the beginning of a longer message left in the pipe."""
        if self.left and self._burnt(state):
            os.write(pipe.fileno(), struct.pack("!i", 1 << 20) + b"the beginning of a reply")
            os.kill(os.getpid(), signal.SIGKILL)

    def _burnt(self, state: str) -> bool:
        left = self.left.get(state, 0) - 1
        self.left[state] = left
        return left == 0


def fuse(role: str, number: int, life: int = 0) -> Fuse:
    """What MOELAB_CRASH_AT says of a process: the worker or scheduler of this number, started so often before."""
    left = {}
    for text in filter(None, os.environ.get(VARIABLE, "").split(",")):
        kind, who, state, times, which = _read(text)
        if (kind, who) == (role, number) and which in ("*", str(life)):
            left[state] = times
    return Fuse(left)


def _read(text: str) -> tuple[str, int, str, int, str]:
    role, *rest = text.strip().split(":")
    if role not in STATES:
        raise ConfigError(f"{VARIABLE}: {unknown('role', role, STATES)}")
    if len(rest) not in (3, 4) or not rest[0].isdigit() or not rest[2].isdigit() or not int(rest[2]):
        raise ConfigError(f"{VARIABLE}: {text!r} is written like worker:1:working:3, with a life behind it or not")
    if rest[1] not in STATES[role]:
        raise ConfigError(f"{VARIABLE}: {unknown(f'state of a {role}', rest[1], STATES[role])}")
    return role, int(rest[0]), rest[1], int(rest[2]), rest[3] if len(rest) == 4 else "0"
