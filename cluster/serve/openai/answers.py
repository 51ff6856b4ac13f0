"""The answers of one request while they are under way: how many there may be, all of them as one stream, and their end.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from cluster.serve.contract import Answer, Ask, BusyError, End, Machine, Token
from cluster.serve.options import STALL_S

T = TypeVar("T")
AHEAD = 64
"""Tokens of several answers that wait until the one before is sent."""


class Gone(Exception):
    """The client has left, or reads no more."""


class Slots:
    """How many answers may be under way at once."""

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0

    def take(self, count: int) -> None:
        """BusyError where there are too few left."""
        if self.taken + count > self.most:
            raise BusyError(f"{self.taken} answers are under way, and at most {self.most} may be: ask again later")
        self.taken += count


class Answers:
    """The answers of one request. `close` them, whatever happens: that frees the machine of them."""

    def __init__(self, slots: Slots, count: int) -> None:
        slots.take(count)
        self._slots, self._count = slots, count
        self._open: list[Answer] = []

    async def submit(self, machine: Machine, asks: Sequence[Ask]) -> None:
        """Hand the asks in, all or none."""
        try:
            for ask in asks:
                self._open.append(await machine.submit(ask))
        except BaseException:
            self.close()
            raise

    async def items(self, timeout_s: float | None) -> AsyncIterator[tuple[int, Token | End]]:
        """(number of the answer, what it tells) as it comes. TimeoutError when that many real seconds have passed."""
        until = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        source = self._merged() if len(self._open) > 1 else _numbered(0, self._open[0])
        left = len(self._open)
        while left:
            async with asyncio.timeout_at(until):
                found = await anext(source)
            left -= isinstance(found[1], End)
            yield found
        await source.aclose()

    async def _merged(self) -> Any:
        waiting: asyncio.Queue[tuple[int, Token | End] | Exception] = asyncio.Queue(AHEAD)

        async def pour(number: int, answer: Answer) -> None:
            try:
                async for item in _numbered(number, answer):
                    await waiting.put(item)
            except Exception as error:  # noqa: BLE001 (raised where the answers are read)
                await waiting.put(error)

        pouring = [asyncio.create_task(pour(number, answer)) for number, answer in enumerate(self._open)]
        try:
            while True:
                found = await waiting.get()
                if isinstance(found, Exception):
                    raise found
                yield found
        finally:
            for task in pouring:
                task.cancel()

    def close(self) -> None:
        """Nobody listens any more."""
        for answer in self._open:
            answer.cancel()
        self._slots.taken -= self._count
        self._open, self._count = [], 0


async def _numbered(number: int, answer: Answer) -> Any:
    async for item in answer:
        yield number, item


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """What the work returns; Gone, and the work is cancelled, if the client leaves before."""
    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        for each in (task, watch):
            each.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Events(StreamingResponse):
    """Server-sent events. `close` is called when they have ended, in whichever way."""

    def __init__(self, events: AsyncIterator[bytes], close: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream",
                         headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._close, self._events = close, events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them, as long as the client is there and reads."""
        try:
            await unless_gone(receive, self.stream_response(patient(send)))
        except Gone:
            pass
        finally:
            self._close()
            closing: Any = self._events
            await closing.aclose()


def patient(send: Send) -> Callable[[Message], Awaitable[None]]:
    """Send, but wait no longer than STALL_S for a client that reads nothing: then it counts as gone."""
    async def sending(message: Message) -> None:
        try:
            async with asyncio.timeout(STALL_S):
                await send(message)
        except TimeoutError:
            raise Gone from None

    return sending
