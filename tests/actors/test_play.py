"""The rules of playing at a wall clock, on a clock of the test's own: exact nanoseconds."""

from actors.play import Play, Read
from actors.programme import Load, Moment, Piece, Programme

US = 10**6
"""A microsecond of emulated time, in picoseconds; at dilation 2 it is 2,000 ns."""


class Stage:
    """A play with a clock that stands until it is moved; `late_ns`: by how much each look at the agenda comes late."""

    def __init__(self, programme: Programme, late_ns: int = 0, reads: list[Read] | None = None) -> None:
        self.now_ns = 0
        self.play = Play(1000, 2.0, lambda: self.now_ns, lambda _: reads or [])
        self.late_ns = late_ns
        self.play.add(programme)

    def run(self) -> None:
        """Until nothing is due any more."""
        while (due_ns := self.play.next_ns) is not None:
            self.now_ns = max(self.now_ns, due_ns) + self.late_ns
            while self.play.act():
                pass

    def times(self) -> dict[int, tuple[int, int]]:
        return {piece: (self.play.started_ns[piece], end) for piece, end in self.play.ended_ns.items()}


CHAIN = Programme([Piece(0, 0, US, ()), Piece(1, US, 3 * US, (0,)), Piece(2, 6 * US, US, (1,))],
                  [Moment(0, 0, US), Moment(1, 1, 3 * US)])


def test_on_time_a_piece_starts_at_its_instant_and_ends_a_dilated_length_later() -> None:
    stage = Stage(CHAIN)
    stage.run()
    # The third waits for the second until 9,000 and for its own emulated start until 1,000 + 2 x 6,000.
    assert stage.times() == {0: (1000, 3000), 1: (3000, 9000), 2: (13000, 15000)}


def test_lateness_is_handed_on_and_a_pause_makes_it_good() -> None:
    stage = Stage(CHAIN, late_ns=100)
    stage.run()
    # 100 late to start, 100 more at each end; the third has time to spare, and is late by its own 100 only.
    assert stage.times() == {0: (1100, 3200), 1: (3200, 9300), 2: (13100, 15200)}


def test_a_successor_moves_with_what_it_waits_for_on_another_player() -> None:
    stage = Stage(Programme([Piece(5, US, US, (7,))]))
    stage.run()
    assert stage.times() == {}
    stage.now_ns = 50_000  # its input was due at 3,000
    stage.play.hear([7])
    stage.run()
    assert stage.times() == {5: (50_000, 52_000)}


def test_word_that_came_before_the_piece_counts() -> None:
    stage = Stage(Programme())
    stage.play.hear([7])
    stage.play.add(Programme([Piece(5, US, US, (7,))]))
    stage.run()
    assert stage.times() == {5: (3000, 5000)}


def test_a_moment_in_between_comes_before_the_end() -> None:
    cut = Programme([Piece(0, 0, 4 * US, ()), Piece(1, US, US, (0,)), Piece(2, 4 * US, 0, (1,))],
                    [Moment(0, 0, US), Moment(1, 0, 4 * US, (3,))])
    stage = Stage(cut)
    stage.run()
    assert stage.times() == {0: (1000, 9000), 1: (3000, 5000), 2: (9000, 9000)}
    assert stage.play.take_said() == {3: [1]}
    assert stage.play.take_said() == {}


def test_who_asks_late_is_told_what_has_happened() -> None:
    stage = Stage(CHAIN)
    stage.run()
    stage.play.add(Programme([], [Moment(0, 0, US, (4,)), Moment(8, 1, US, (4,)), Moment(9, 1, 3 * US, (5,)),
                                  Moment(10, 2, 0, (5,))]))
    stage.run()
    assert stage.play.take_said() == {4: [0, 8], 5: [9, 10]}


def test_bytes_of_a_load_are_read_in_parts_spread_over_it_and_before_its_end() -> None:
    seen: list[int] = []

    def read() -> int:
        seen.append(stage.now_ns)
        return 10

    stage = Stage(Programme([Piece(0, 0, 4 * US, (), Load(0, 1, 2, 0, 40))]), reads=[read] * 4)
    stage.run()
    assert seen == [1000, 3000, 5000, 7000]
    assert stage.play.read_bytes == 40
    assert stage.times() == {0: (1000, 9000)}


def test_the_end_of_a_step_is_told_once_with_its_real_time() -> None:
    stage = Stage(Programme([Piece(0, 0, US, (), None, 4)]))
    stage.run()
    assert stage.play.take_steps() == [(4, 3000)]
    assert stage.play.take_steps() == []
