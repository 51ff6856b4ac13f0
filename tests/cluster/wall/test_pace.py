"""The dilation that is chosen, by hand."""

import pytest

from actors.programme import Load, Piece
from cluster.wall.cutting import Played
from cluster.wall.pace import Costs, pace, predicted_error, round_up

US = 10**6
COSTS = Costs(turn_ns=1_000.0, hop_ns=10_000.0, piece_ns=0.0, bytes_per_s=1e9, cores=2)


def chain(*players: int) -> Played:
    """Pieces of a microsecond, each behind the one before it."""
    count = len(players)
    pieces = [Piece(i, i * US, US, (i - 1,) if i else ()) for i in range(count)]
    return Played(pieces, list(players), list(range(count)), [(i, US) for i in range(count - 1)])


def test_handovers_add_up_along_the_longest_chain() -> None:
    # Ten pieces of a dilated 100 µs each; nine handovers within the player cost a microsecond each.
    assert predicted_error(chain(*[0] * 10), COSTS, 100.0) == pytest.approx(9 / 1000)
    # A hop to and fro costs ten: two of them, and seven turns.
    assert predicted_error(chain(0, 0, 0, 0, 1, 0, 0, 0, 0, 0), COSTS, 100.0) == pytest.approx(27 / 1000)


def test_what_has_time_to_spare_costs_nothing() -> None:
    spare = Played([Piece(0, 0, US, ()), Piece(1, 2 * US, US, (0,))], [0, 1], [0, 1], [(0, US)])
    assert predicted_error(spare, COSTS, 100.0) == 0.0


def test_twice_the_cost_needs_twice_the_dilation() -> None:
    once = pace(chain(0, 1, 0, 1, 0, 1), COSTS, 0.0, None)
    # Five hops of 10 µs in six microseconds: 0.6 percent of them dilated is 50 µs at 1389.
    assert once.dilation == pytest.approx(1400, rel=0.02)
    assert once.smallest == pytest.approx(417, rel=0.02)
    twice = pace(chain(0, 1, 0, 1, 0, 1), COSTS._replace(hop_ns=20_000.0), 0.0, None)
    assert twice.dilation == pytest.approx(2 * once.dilation, rel=0.03)


def test_what_binds_is_told() -> None:
    played = chain(0, 0)
    assert pace(played, COSTS, 0.0, None).binds == "handovers between operations"
    assert pace(played, COSTS, 1e6, None)[::2] == (2.5e6, "real computing")
    busy = pace(played, COSTS._replace(piece_ns=1e6), 0.0, None)
    assert (busy.dilation, busy.binds) == (2500.0, "processor time of the players")  # 2 ms in 0.4 x 2 µs
    played.pieces[0] = played.pieces[0]._replace(load=Load(0, 0, 0, 0, 10**6))
    assert pace(played, COSTS, 0.0, None)[::2] == (1300.0, "reading of shards")  # 1 ms in 0.4 x 2 µs


def test_a_given_dilation_is_kept_and_held_against_the_least() -> None:
    found = pace(chain(0, 1, 0, 1, 0, 1), COSTS, 0.0, 7.0)
    assert (found.dilation, found.binds) == (7.0, "given")
    assert found.smallest > 400


def test_nothing_to_play_needs_no_pace() -> None:
    assert pace(Played(), COSTS, 0.0, None).dilation == 1.0


@pytest.mark.parametrize(("value", "told"), [(833.4, 840), (840.0, 840), (0.0123, 0.013), (99.1, 100), (5.0, 5)])
def test_a_dilation_is_told_with_two_digits(value: float, told: float) -> None:
    assert round_up(value) == pytest.approx(told)
