"""The rules of playing at a wall clock, without threads and sockets: told what is heard, it tells what to say."""

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush

import numpy as np

from actors.programme import NO, Ints, Load, Moment, Piece, Programme

Clock = Callable[[], int]
"""Nanoseconds on the host's monotonic clock."""

Read = Callable[[], int]
"""Reads some bytes and returns how many."""


_BEGIN, _READ, _MOMENT, _END = range(4)


class Play:
    """Pieces of one player.

    A piece starts when every moment that it waits for has really happened and its own emulated start has come; it ends
    when its emulated length has passed since, dilated. So none is early, and lateness propagates: what starts late
    ends late. A load's bytes are read in parts, spread over its length.
    """

    def __init__(self, origin_ns: int, dilation: float, clock: Clock,
                 reads: Callable[[Load], list[Read]] | None = None) -> None:
        self.origin_ns, self.dilation, self._clock, self._reads_of = origin_ns, dilation, clock, reads
        self._ns_per_ps = dilation / 1000
        self._agenda: list[tuple[int, int, int, int]] = []
        self._serial = 0
        self._pieces: dict[int, Piece] = {}
        self._lacking: dict[int, int] = {}
        self._waiting: dict[int, list[int]] = {}
        self._happened: set[int] = set()
        self._own: dict[int, Moment] = {}
        self._of_piece: dict[int, list[int]] = {}
        self._tell: dict[int, list[int]] = {}
        self._unread: dict[int, deque[Read]] = {}
        self.started_ns: dict[int, int] = {}
        self.ended_ns: dict[int, int] = {}
        self.read_bytes = self.read_ns = 0
        self._said: dict[int, list[int]] = {}
        self._steps: list[tuple[int, int]] = []

    @property
    def next_ns(self) -> int | None:
        """When something is due; None where all that is left waits for others."""
        return self._agenda[0][0] if self._agenda else None

    def add(self, programme: Programme) -> None:
        """More pieces and moments; what has happened already counts."""
        for moment in programme.moments:
            self._add_moment(moment)
        for piece in programme.pieces:
            self._pieces[piece.number] = piece
            lacking = [number for number in piece.waits if number not in self._happened]
            self._lacking[piece.number] = len(lacking)
            for number in lacking:
                self._waiting.setdefault(number, []).append(piece.number)
            if not lacking:
                self._ready(piece)

    def _add_moment(self, moment: Moment) -> None:
        if moment.number in self._happened:
            for player in moment.tell:
                self._said.setdefault(player, []).append(moment.number)
            return
        self._tell.setdefault(moment.number, []).extend(moment.tell)
        if moment.number in self._own:
            return
        self._own[moment.number] = moment
        piece, started = moment.piece, self.started_ns.get(moment.piece)
        if started is None:
            self._of_piece.setdefault(piece, []).append(moment.number)
        else:
            self._place(moment, started)

    def hear(self, moments: list[int]) -> None:
        """Moments of other players' pieces that have happened."""
        for moment in moments:
            self._happen(moment)

    def act(self) -> bool:
        """Do the first that is due; whether there was anything."""
        if self._agenda and self._agenda[0][0] <= self._clock():
            _, _, what, number = heappop(self._agenda)
            if what == _BEGIN:
                self._start(self._pieces[number])
            elif what == _END:
                self._end(self._pieces[number])
            elif what == _MOMENT:
                self._happen(number)
            else:
                self._read_on(number)
            return True
        return False

    @property
    def has_news(self) -> bool:
        """Whether there is something to tell."""
        return bool(self._said or self._steps)

    def take_said(self) -> dict[int, list[int]]:
        """Player -> moments that it is to be told."""
        said, self._said = self._said, {}
        return said

    def take_steps(self) -> list[tuple[int, int]]:
        """Steps that have ended, and when."""
        steps, self._steps = self._steps, []
        return steps

    def columns(self) -> tuple[Ints, Ints, Ints]:
        """Number, start and end (nanoseconds) of every piece that has ended."""
        rows = np.array([(piece, self.started_ns[piece], end) for piece, end in list(self.ended_ns.items())],
                        np.int64)
        numbers, starts, ends = rows.reshape(-1, 3).T
        return numbers, starts, ends

    def _dilated_ns(self, ps: int) -> int:
        return round(ps * self._ns_per_ps)

    def _plan(self, at_ns: int, what: int, number: int) -> None:
        heappush(self._agenda, (at_ns, self._serial, what, number))
        self._serial += 1

    def _ready(self, piece: Piece) -> None:
        """Everything that the piece waits for has happened."""
        due_ns = self.origin_ns + self._dilated_ns(piece.start_ps)
        if due_ns <= self._clock():
            self._start(piece)
        else:
            self._plan(due_ns, _BEGIN, piece.number)

    def _start(self, piece: Piece) -> None:
        now_ns = self.started_ns[piece.number] = self._clock()
        for moment in self._of_piece.pop(piece.number, ()):
            self._place(self._own[moment], now_ns)
        if not piece.length_ps:
            self._end(piece)
            return
        if piece.load is not None and self._reads_of is not None:
            length_ns, reads = self._dilated_ns(piece.length_ps), self._reads_of(piece.load)
            self._unread[piece.number] = deque(reads)
            for i in range(len(reads)):
                self._plan(now_ns + length_ns * i // len(reads), _READ, piece.number)
        self._plan(now_ns + self._dilated_ns(piece.length_ps), _END, piece.number)

    def _place(self, moment: Moment, started_ns: int) -> None:
        """A moment of a piece that has started: now, at its end, or in between."""
        if moment.offset_ps == 0:
            self._happen(moment.number)
        elif moment.offset_ps < self._pieces[moment.piece].length_ps:
            self._plan(started_ns + self._dilated_ns(moment.offset_ps), _MOMENT, moment.number)
        elif moment.piece in self.ended_ns:
            self._happen(moment.number)
        else:
            self._of_piece.setdefault(moment.piece, []).append(moment.number)

    def _end(self, piece: Piece) -> None:
        self.ended_ns[piece.number] = now_ns = self._clock()
        for moment in self._of_piece.pop(piece.number, ()):
            self._happen(moment)
        if piece.step != NO:
            self._steps.append((piece.step, now_ns))

    def _happen(self, moment: int) -> None:
        if moment in self._happened:
            return
        self._happened.add(moment)
        for player in self._tell.pop(moment, ()):
            self._said.setdefault(player, []).append(moment)
        for number in self._waiting.pop(moment, ()):
            self._lacking[number] -= 1
            if not self._lacking[number]:
                self._ready(self._pieces[number])

    def _read_on(self, number: int) -> None:
        """Read the next part of a load's bytes; all parts are due before its end."""
        begin_ns = self._clock()
        self.read_bytes += self._unread[number].popleft()()
        self.read_ns += self._clock() - begin_ns
        if not self._unread[number]:
            del self._unread[number]
