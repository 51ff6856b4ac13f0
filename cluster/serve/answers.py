"""Answers on their way from the machine's thread to the loop in which somebody listens."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

from cluster.serve.contract import Ask, End, Reason, StoppedError, Token
from cluster.serve.spelling import Speech, Telling

Item = Token | End | StoppedError


class LiveAnswer:
    """An answer to whoever iterates over it. What waits in it is at most the tokens that were asked for, and an end."""

    def __init__(self, number: int, loop: asyncio.AbstractEventLoop, gone: Callable[[int], None]) -> None:
        self.number, self.loop, self._gone = number, loop, gone
        self._items: asyncio.Queue[Item] = asyncio.Queue()
        self._over = False

    def hand(self, item: Item) -> None:
        """One more; in the answer's own loop."""
        self._items.put_nowait(item)

    async def __aiter__(self) -> AsyncIterator[Token | End]:
        while not self._over:
            item = await self._items.get()
            self._over = not isinstance(item, Token)
            if isinstance(item, StoppedError):
                raise item
            yield item

    def cancel(self) -> None:
        if not self._over:
            self._gone(self.number)


Handed = list[tuple[LiveAnswer, Item]]


def hand_out(handed: Iterable[tuple[LiveAnswer, Item]]) -> None:
    """Give items to their answers, each in its own loop; a loop that is closed hears nothing any more."""
    by_loop: dict[int, Handed] = {}
    for answer, item in handed:
        by_loop.setdefault(id(answer.loop), []).append((answer, item))
    for some in by_loop.values():
        try:
            some[0][0].loop.call_soon_threadsafe(_hand, some)
        except RuntimeError:
            continue


def _hand(some: Handed) -> None:
    for answer, item in some:
        answer.hand(item)


class Request:
    """A request under way. number: as its client was told; name: as the batching calls it, once it was taken up."""

    def __init__(self, ask: Ask, answer: LiveAnswer, speech: Speech, came_s: float) -> None:
        self.ask, self.answer, self.came_s = ask, answer, came_s
        self._ends = frozenset() if ask.ignore_eos else speech.ends
        self._telling = Telling(speech.decode, ask.stop)
        self.name = self.arrival_ps = self.scheduled_ps = self.first_ps = self.last_ps = -1
        self.made = 0

    @property
    def number(self) -> int:
        return self.answer.number

    def take(self, token: int, at_ps: int) -> tuple[Token, Reason | None]:
        """A new token; and why it ends the answer, if it does."""
        index, self.made, self.last_ps = self.made, self.made + 1, at_ps
        self.first_ps = at_ps if index == 0 else self.first_ps
        full = self.made == self.ask.max_tokens
        if token in self._ends:
            return Token(index, token, self._telling.end(), at_ps), "stop"
        text = self._telling.add(token, last=full)
        reason: Reason | None = "stop" if self._telling.stopped else "length" if full else None
        return Token(index, token, text, at_ps), reason

    def end(self, reason: Reason, now_ps: int) -> End:
        """How the answer ended; instants that did not come are told as its end."""
        at_ps = max(now_ps, self.arrival_ps, 0) if reason == "cancelled" else self.last_ps
        came, scheduled, first = (at_ps if ps < 0 else ps for ps in (self.arrival_ps, self.scheduled_ps, self.first_ps))
        return End(reason, len(self.ask.prompt), self.made, came, scheduled, first, at_ps)
