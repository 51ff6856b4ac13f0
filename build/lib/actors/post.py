"""Datagrams between the processes of one host: how players tell each other what has happened."""

import errno
import os
import socket
from array import array
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from select import select
from typing import Self

LARGEST = 4096
"""Numbers in one datagram."""

_FULL = (errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS)
_GONE = (errno.ECONNREFUSED, errno.ENOENT, errno.ECONNRESET, errno.EPIPE)


class Post:
    """A box in a folder, and what goes to the others' boxes there. No message is lost while its reader lives.

    Where a reader's box is full, what is for it waits here: nobody waits for a reader that has been stopped.
    """

    def __init__(self, folder: str, name: str) -> None:
        self._folder, self._path = folder, f"{folder}/{name}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(self._path)
        self._kept: dict[str, deque[bytes]] = {}

    @property
    def keeps(self) -> bool:
        """Whether something still waits to be sent."""
        return bool(self._kept)

    def send(self, name: str, numbers: Sequence[int]) -> None:
        """Numbers for a reader, in order behind what went to it before."""
        for at in range(0, len(numbers), LARGEST):
            data = array("q", numbers[at:at + LARGEST]).tobytes()
            if name in self._kept or not self._sent(name, data):
                self._kept.setdefault(name, deque()).append(data)

    def flush(self) -> None:
        """Send what waited, as far as there is room."""
        for name in list(self._kept):
            queue = self._kept[name]
            while queue and self._sent(name, queue[0]):
                queue.popleft()
            if not queue:
                del self._kept[name]

    def _sent(self, name: str, data: bytes) -> bool:
        """Whether a message needs no more sending: it has gone, or its reader has."""
        try:
            self._socket.sendto(data, f"{self._folder}/{name}")
        except OSError as error:
            if error.errno in _FULL:
                return False
            if error.errno not in _GONE:
                raise
        return True

    def wake(self) -> None:
        """Let this box's own reader look up; from any thread."""
        with suppress(OSError):
            self._socket.sendto(b"", self._path)

    def receive(self) -> list[list[int]]:
        """All messages that have come."""
        out: list[list[int]] = []
        while True:
            try:
                data = self._socket.recv(8 * LARGEST)
            except BlockingIOError:
                return out
            if data:
                out.append(array("q", data).tolist())

    def wait(self, seconds: float) -> None:
        """Return when something has come, or after this time."""
        select([self._socket], [], [], max(seconds, 0.0))

    def close(self) -> None:
        self._socket.close()
        with suppress(OSError):
            os.unlink(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
