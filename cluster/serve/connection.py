"""A connection of the HTTP door, with the limits of time that uvicorn's has not: for the head of a request to come, and
for what is sent to be taken."""

import asyncio
import socket

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from cluster.serve.options import STALL_S

HEAD_S = 10.0
"""How long a client may take from its first byte, or from its coming, to the end of a request's head."""

SEND_BYTES = 64 << 10
"""What the operating system holds of an answer that is not taken; left alone it takes megabytes, and nobody waits."""


class Connection(H11Protocol):
    """uvicorn's, which is cut off where its client keeps it waiting."""

    _head: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=1, low=0)  # whatever is not taken counts as waiting
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        self._head = self.loop.call_later(HEAD_S, transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            _cancel(self._head)
            self._head = None
        elif self._head is None:
            self._head = self.loop.call_later(HEAD_S, self.transport.close)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall is None:
            self._stall = self.loop.call_later(STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        _cancel(self._stall)
        self._stall = None

    def connection_lost(self, exc: Exception | None) -> None:
        _cancel(self._head, self._stall)
        super().connection_lost(exc)


def _cancel(*timers: asyncio.TimerHandle | None) -> None:
    for timer in timers:
        if timer is not None:
            timer.cancel()
