"""A machine behind its HTTP door, in a loop on a thread of its own: clients of tests call it as strangers do."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from cluster.config.run import RunConfig
from cluster.serve.http import HttpDoor, serve_http
from cluster.serve.machine import Emulated
from cluster.serve.options import ServeOptions

T = TypeVar("T")


class Behind:
    """A loop on a thread, the machine and its door in it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.machine: Emulated
        self.door: HttpDoor

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Carry out something in the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    @property
    def url(self) -> str:
        return self.door.url

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@contextmanager
def behind_http(config: RunConfig, **options: Any) -> Iterator[Behind]:
    """An open door, and what is behind it."""
    behind = Behind()
    try:
        behind.machine = Emulated(config)
        behind.do(behind.machine.start())
        try:
            behind.door = behind.do(serve_http(behind.machine, ServeOptions(grpc_port=None, drain_s=1.0, **options)))
            try:
                yield behind
            finally:
                behind.do(behind.door.close())
        finally:
            behind.do(behind.machine.close())
    finally:
        behind.close()
