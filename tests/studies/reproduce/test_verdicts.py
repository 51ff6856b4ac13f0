"""Verdicts by hand, and sweeps of assumed constants over real, small runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.config.load import validate
from cluster.session import Silent
from emulation.errors import ConfigError
from studies.reproduce import reproduce as whole
from studies.reproduce.claims import SYSTEMS, Claim, Claims, load_claims
from studies.reproduce.laboratory import Laboratory
from studies.reproduce.measure import Case, Figure, Measure, Results, no_runs, unknown_figure
from studies.reproduce.picture import picture
from studies.reproduce.report import page, worst_first
from studies.reproduce.sweeping import Sweep, Sweeper, Tried, evaluate
from studies.reproduce.verdict import FAIL, IN_RANGE, OUT_OF_RANGE, PASS, UNKNOWN, Row, judge
from studies.sweep_crew import Processes

PLAIN = Measure(no_runs, lambda _: None, "none", "because")


def claim(published: float | bool | None, name: str = "speed") -> Claim:
    return Claim(id=name, claim="how fast", published=published, unit="x", tag="found")


def judged(published: float | bool | None, ours: Figure, sweep: Sweep | None = None, **more: str) -> Row:
    return judge("gpu_ndp", claim(published), PLAIN, ours, sweep or Sweep(ours), **more)


def swept(base: Figure, *found: Figure) -> Sweep:
    return Sweep(base, {"links.a": tuple(Tried(str(i), one) for i, one in enumerate(found))})


@pytest.mark.parametrize(("published", "ours", "sweep", "verdict"), [
    (2.0, 2.3, None, PASS),
    (2.0, 1.7, None, PASS),
    (2.0, 2.31, None, FAIL),
    (2.0, 2.0, swept(2.0, 2.0, 2.01), PASS),  # what moves it by less than 1 % is no dependence
    (2.0, 2.0, swept(2.0, 2.0, 2.03), IN_RANGE),
    (2.0, 3.0, swept(3.0, 1.9, 3.5), IN_RANGE),
    (2.0, 3.0, swept(3.0, 2.1, 3.5), OUT_OF_RANGE),
    (2.0, 3.0, swept(3.0, 2.015, 3.5), IN_RANGE),  # published figures are rounded
    (2.0, 3.0, swept(3.0, 2.03, 3.5), OUT_OF_RANGE),
    (2.0, None, None, UNKNOWN),
    (None, 2.0, None, UNKNOWN),
    (True, True, None, PASS),
    (True, False, None, FAIL),
    (True, True, swept(True, True, False), IN_RANGE),
    (True, False, swept(False, True), IN_RANGE),
    (True, False, swept(False, False), FAIL),
])
def test_verdicts_by_hand(published: float | bool | None, ours: Figure, sweep: Sweep | None, verdict: str) -> None:
    assert judged(published, ours, sweep).verdict == verdict


def test_a_row_says_what_it_rests_on_and_what_it_spans() -> None:
    row = judged(2.0, 3.0, swept(3.0, 1.5, 3.5))
    assert (row.ratio, row.low, row.high, row.assumed_parameters) == (1.5, 1.5, 3.5, ("links.a",))
    assert row.sweep == {"links.a": [{"value": "0", "ours": 1.5}, {"value": "1", "ours": 3.5}]}
    assert row.reason == "between 1.5 and 3.5 as links.a vary over their ranges. because"
    assert judged(2.0, 2.0, failed="no room").verdict == FAIL
    assert unknown_figure("not printed").value({}) is None


def test_what_quick_cases_change_is_applied_to_the_whole_figure() -> None:
    quick = Sweep(10.0, {"links.a": (Tried("0", 5.0), Tried("1", 20.0))})
    assert (judged(2.0, 3.0, quick).low, judged(2.0, 3.0, quick).high) == (1.5, 6.0)
    below = Sweep(-1.0, {"links.a": (Tried("0", -2.0), Tried("1", 4.0))})
    assert (judged(2.0, 3.0, below).low, judged(2.0, 3.0, below).high) == (2.0, 8.0)


def test_what_did_not_come_out_stands_first() -> None:
    rows = [judged(2.0, 2.0), judged(2.0, 3.0), judged(2.0, None), judged(2.0, 3.0, swept(3.0, 3.5))]
    assert [row.verdict for row in worst_first(rows)] == [FAIL, OUT_OF_RANGE, UNKNOWN, PASS]
    claims = Claims(title="A system", paper="a paper", claims=(claim(2.0),))
    text = page([whole.Reproduced("gpu_ndp", claims, rows, 4)])
    assert text.index("| FAIL | off") < text.index("| 3x | 1.50 | FAIL |") < text.index("| 2x | 1.00 | PASS |")
    drawn = picture("A system", rows)
    assert drawn.count("<circle") == 3
    assert picture("A system", rows[2:3]) == ""


def test_a_trend_or_number_is_told_from_text() -> None:
    with pytest.raises(ConfigError, match="neither a number, nor true for a trend"):
        validate(Claims, {"title": "t", "paper": "p", "claims": [
            {"id": "a", "claim": "c", "published": "2.41", "tag": "found"}]}, "the claims")
    with pytest.raises(ConfigError, match="'a' is there twice"):
        validate(Claims, {"title": "t", "paper": "p", "claims": [
            {"id": "a", "claim": "c", "published": 2, "tag": "found"}] * 2}, "the claims")
    with pytest.raises(ConfigError, match="did you mean 'fse_dp'"):
        whole.systems("fse_dq")


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_claim_has_a_measure(system: str) -> None:
    claims = load_claims(system)
    assert list(whole.measures_of(system, claims)) == [one.id for one in claims.claims]


SMALL = Case("mixtral_edge", ("workload.prompt_tokens=4", "workload.output_tokens=2", "model.layers=2"))


def ratio(results: Results) -> Figure:
    return results["whole"].makespan_ps / results["cut"].makespan_ps


def both(_quick: bool) -> dict[str, Case]:
    return {"whole": SMALL.with_("policy=expert_parallel"), "cut": SMALL.with_("policy=tensor_parallel")}


@pytest.fixture(scope="module")
def laboratory() -> Iterator[Laboratory]:
    with Processes(2) as crew:
        yield Laboratory(crew, Silent())


@pytest.mark.slow
def test_assumed_constants_of_the_machine_are_swept(laboratory: Laboratory) -> None:
    measure = Measure(both, ratio, "drawn", sweeps={"workload.output_tokens": ("1", "3")})
    sweep = Sweeper(laboratory).sweep_all({"speed": measure}, "test")["speed"]
    assert sweep.base == evaluate(measure, both(True), laboratory)
    assert "devices.ndp.memory_bandwidth" in sweep.matters
    assert "devices.gpu.memory" not in sweep.tried  # the paper gives it
    slow, fast = (one.figure for one in sweep.tried["devices.ndp.memory_bandwidth"])
    again = {key: case.with_("machine.constants.devices.ndp.memory_bandwidth=25.6 GB/s")
             for key, case in both(True).items()}
    laboratory.carry_out(again.values(), "test")
    assert slow == ratio({key: laboratory.result(case) for key, case in again.items()})
    assert slow != fast
    least, most = (float(end or 0) for end in sweep.corners)
    assert least < float(sweep.base or 0) < most
    assert {least, most} < set(sweep.figures())


def test_a_figure_without_runs_rests_on_how_its_source_is_read(laboratory: Laboratory) -> None:
    measure = Measure(no_runs, lambda _: 2.0, "none", readings={"layers": lambda: 3.0})
    sweep = Sweeper(laboratory).sweep_all({"speed": measure}, "test")["speed"]
    assert (sweep.base, sweep.matters) == (2.0, ("layers",))
    assert judge("gpu_ndp", claim(2.0), measure, 2.0, sweep).verdict == IN_RANGE
    assert judge("gpu_ndp", claim(1.9), measure, 2.0, sweep).verdict == OUT_OF_RANGE


@pytest.mark.slow
def test_each_run_is_carried_out_once_and_one_that_is_refused_is_told(laboratory: Laboratory) -> None:
    before = laboratory.runs
    cases = [SMALL.with_("seed=7"), SMALL.with_("seed=7"), SMALL.with_("seed=7", "model.layers=2")]
    laboratory.carry_out(cases, "test")
    assert laboratory.runs == before + 1
    wrong, too_many = SMALL.with_("polisy=lru"), SMALL.with_("machine.options.units=7")
    laboratory.carry_out([wrong, too_many], "test")
    assert "did you mean 'policy'" in laboratory.failed[wrong]
    assert "units" in laboratory.failed[too_many]


def test_files_are_written_whole(tmp_path: Path) -> None:
    claims = Claims(title="A system", paper="a paper", claims=(claim(2.0),))
    found = [whole.Reproduced("gpu_ndp", claims, [judged(2.0, 3.0)], 4)]
    assert whole.write(found, tmp_path) == ["rows.json", "reproduction.md", "gpu_ndp.svg"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["gpu_ndp.svg", "reproduction.md", "rows.json"]
