"""OK or VOID, by hand: three pieces on two players, two steps, dilation 1000 (a nanosecond for a picosecond)."""

import numpy as np
import pytest

from actors.programme import Piece, Record
from cluster.observe.schema import Wall
from cluster.wall.cutting import Played
from cluster.wall.pace import Costs, Pace
from cluster.wall.verdict import Host, Steps, judge

MS = 10**6
PLAYED = Played([Piece(0, 0, 100 * MS, (), None, 0), Piece(1, 0, 40 * MS, (), None),
                 Piece(2, 100 * MS, 100 * MS, (0, 1), None, 1)],
                [0, 1, 0], [0, 1, 2], [(0, 100 * MS), (1, 40 * MS)])
ORIGIN = 5 * MS
ON_TIME = [(0, 100), (0, 40), (100, 200)]


def judged(times: list[tuple[float, float]], *, smallest: float = 500.0, standstill_ms: float = 1, others: float = 0.0,
           read: int = 0) -> Wall:
    """Real starts and ends, in milliseconds behind the origin."""
    ns = np.array([[ORIGIN + int(at * MS) for at in row] for row in times], np.int64)
    records = {player: Record(np.array(pieces), ns[pieces, 0], ns[pieces, 1], bytes_, 0, int(standstill_ms * MS), 0.0,
                              player) for player, pieces, bytes_ in ((0, [0, 2], read), (1, [1], 0))}
    steps = Steps(np.array([0, 100 * MS]), np.array([100 * MS, 200 * MS]), ns[[0, 2], 1])
    return judge(PLAYED, records, steps, ORIGIN, Pace(1000.0, smallest, "given"), Costs(1e3, 1e4, 1e4, 1e9, 2),
                 Host(others, 2))


def test_on_time_is_ok_with_nothing_to_tell() -> None:
    wall = judged(ON_TIME)
    assert (wall.verdict, wall.reason) == ("OK", "")
    assert (wall.error, wall.causality_violations, wall.late_ops, wall.lag_p99_s) == (0.0, 0, 0, 0.0)
    assert (wall.steps, wall.ops, wall.players, wall.real_s) == (2, 3, 2, 0.2)


def test_the_error_is_real_time_over_dilated_time_of_all_steps_and_a_late_step_is_not_charged_twice() -> None:
    wall = judged([(0, 101), (0, 40), (101, 202)])
    assert wall.error == pytest.approx(0.01)
    assert wall.worst_step_error == pytest.approx(0.01)
    assert wall.verdict == "OK"
    assert (wall.lag_p50_s, wall.lag_p99_s) == (pytest.approx(1e-3), pytest.approx(2e-3))


def test_an_error_above_two_percent_is_void() -> None:
    wall = judged([(0, 103), (0, 40), (103, 206)])
    assert wall.verdict == "VOID"
    assert wall.reason == "the steps took +3.0 % more than their dilated time, and 2 % either way are allowed"


def test_a_start_before_an_inputs_real_end_is_a_violation() -> None:
    wall = judged([(0, 100), (0, 100.5), (100, 200)])  # the second ended late, and the third did not wait for it
    assert wall.causality_violations == 1
    assert wall.reason.startswith("1 operations started before what they wait for had happened")


def test_lateness_is_charged_to_the_operation_that_caused_it() -> None:
    wall = judged([(0, 130), (0, 40), (130, 230)])
    assert wall.late_ops == 1
    assert wall.late_after_s == pytest.approx(0.002)


@pytest.mark.parametrize(("more", "reason"), [
    ({"smallest": 1001.0}, "the dilation is 1000, and the least that this host was measured to manage is 1001"),
    ({"standstill_ms": 190}, "a player stood still for 190 ms, and 50 ms are allowed"),
    ({"others": 1.02}, "other programs kept 1.02 of 2 cores busy, and 0.70 are allowed")])
def test_what_voids_a_run_that_was_on_time(more: dict[str, float], reason: str) -> None:
    wall = judged(ON_TIME, **more)  # type: ignore[arg-type]
    assert (wall.verdict, wall.reason) == ("VOID", reason)


def test_bytes_are_those_really_read_over_the_real_time() -> None:
    assert judged(ON_TIME, read=10**6).bytes_per_s == pytest.approx(5e6)
