"""Players in one thread on a clock of the test's own: what a wall clock plays, without a wall clock."""

from collections.abc import Callable, Mapping
from heapq import heappop, heappush

from actors.play import Play
from actors.programme import Programme

NEVER = 1 << 62


class Ensemble:
    """Plays that tell each other what happened. delay: how many nanoseconds a player's next look comes too late.

    A nanosecond is a picosecond of emulated time.
    """

    def __init__(self, players: int, delay: Callable[[int], int] = lambda _: 0, word_ns: int = 0) -> None:
        self.now_ns = [0] * players
        self.plays = [Play(0, 1000.0, lambda player=player: self.now_ns[player]) for player in range(players)]
        self._delay, self._word_ns = delay, word_ns
        self._words: list[tuple[int, int, list[int]]] = []

    def add(self, programmes: Mapping[int, Programme]) -> None:
        for player, programme in programmes.items():
            self.plays[player].add(programme)
            self._tell(player)

    def run(self) -> None:
        """Until nobody has anything to do."""
        while True:
            due = [(NEVER if play.next_ns is None else max(play.next_ns, self.now_ns[player]), player)
                   for player, play in enumerate(self.plays)]
            due_ns, player = min(due)
            if self._words and self._words[0][0] <= due_ns:
                at_ns, player, moments = heappop(self._words)
                self.now_ns[player] = max(self.now_ns[player], at_ns)
                self.plays[player].hear(moments)
            elif due_ns < NEVER:
                self.now_ns[player] = due_ns + self._delay(player)
                self.plays[player].act()
            else:
                return
            self._tell(player)

    def _tell(self, player: int) -> None:
        for other, moments in self.plays[player].take_said().items():
            heappush(self._words, (self.now_ns[player] + self._word_ns, other, moments))

    def times(self) -> dict[int, tuple[int, int]]:
        """Piece -> real start and end, nanoseconds."""
        return {piece: (play.started_ns[piece], end) for play in self.plays for piece, end in play.ended_ns.items()}
