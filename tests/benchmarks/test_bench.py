"""The harness itself, on tiny cases: what it measures is measured elsewhere."""

import json
import math
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from actors.messages import Move, Run, Work
from benchmarks import growth, plot, replay, startup, suite
from benchmarks.floors import PipeFloor, reply
from benchmarks.harness import ROOT, Folder, Spread, figure, refused, timed
from benchmarks.table import markdown, table
from cluster.commands import bench
from cluster.main import enter

COLUMNS = {"bench", "case", "figure", "median", "low", "high", "n", "note"}


def check_rows(rows: list[dict[str, object]]) -> None:
    assert rows
    assert all(set(row) == COLUMNS for row in rows)
    json.dumps(rows, allow_nan=False)
    assert table(rows).row_count == len(rows)
    page = markdown(rows, {"cores": 2, "cpu": "a cpu", "python": "3.11", "load_1min": 0.1}).splitlines()
    assert len([line for line in page if line.startswith("| ")]) == 1 + len(rows)
    assert all(line.count("|") - line.count("\\|") == 8 for line in page if line.startswith("|"))


def test_a_spread_is_the_median_between_the_least_and_the_largest() -> None:
    assert Spread.of([3.0, 1.0, 2.0, 10.0]) == Spread(2.5, 1.0, 10.0, 4)
    assert Spread.of([1234.5678]).json() == {"median": 1235.0, "low": 1235.0, "high": 1235.0, "n": 1}
    check_rows([figure("a", "b", "c_d", Spread(1.0, 0.5, 2.0, 3)), refused("a", "b", "it does not fit")])


def test_a_case_is_timed_until_its_result_is_there_and_not_until_its_process_ends() -> None:
    with Folder() as folder:
        write = f"import time; open({str(folder / 'result.json')!r}, 'w').close(); time.sleep(1)"
        ended = timed([sys.executable, "-c", write], folder, 60.0)
        assert ended.code == 0
        assert 0.0 < ended.seconds < 1.0
        late = timed([sys.executable, "-c", "import time; time.sleep(9)"], folder / "none", 0.2)
        assert (late.code, late.said) == (-1, "not done after 0 s")
    assert not folder.exists()


def test_the_exponent_of_a_power_law_is_found_and_its_interval_is_students() -> None:
    x = [1.0, 2.0, 4.0, 8.0, 16.0]
    exact = growth.fit(x, [3.0 * v ** 1.25 for v in x])
    assert [exact.slope, exact.low, exact.high] == pytest.approx([1.25] * 3, abs=1e-9)
    # By hand, in powers of two: (0, 0), (1, 1), (2, 1.5) has slope 3/4, residuals -1/12, 1/6, -1/12 and so a standard
    # error of sqrt(1/24 / 1 / 2); Student's t of one degree of freedom is tan(0.475 pi) at 97.5 %.
    found = growth.fit([1.0, 2.0, 4.0], [1.0, 2.0, 2.0 ** 1.5])
    half = math.tan(0.475 * math.pi) * math.sqrt(1 / 48)
    assert [found.slope, found.low, found.high] == pytest.approx([0.75, 0.75 - half, 0.75 + half])


def test_growth_that_shows_only_in_the_larger_half_is_flagged() -> None:
    values = [4, 8, 16, 32, 64, 128]
    assert not growth.slopes(values, [0.5 + 0.01 * v for v in values])["over"]
    bent = growth.slopes(values, [1.0, 1.0, 1.0, 1.0, 4.0, 16.0])
    assert bent["larger_half"]["slope"] == pytest.approx(2.0)
    assert bent["over"]


def test_growth_measures_every_size_and_draws_it() -> None:
    report = growth.bench_growth(1, ("layers",), sizes={"layers": (1, 2, 3)})
    (axis,) = report["axes"]
    operations = [point["operations"] for point in axis["points"]]
    assert operations[1] - operations[0] > 0
    assert operations[0] < operations[1] < operations[2]
    check_rows(growth.rows(report))
    drawing = ElementTree.fromstring(plot.growth_svg(report))
    circles = [node for node in drawing.iter() if node.tag.endswith("circle")]
    assert len(circles) == 2 * 3


def test_a_replayed_case_gives_its_figures_and_what_does_not_fit_its_sentence() -> None:
    size = replay.Size(requests=2, layers=1, repeats=1)
    report = replay.bench_replay(size, [replay.Case("edge-gpu-ndp", "expert_parallel", "recorded")])
    (case,) = report["cases"]
    assert report["output_tokens_per_wall_s"] == {case["case"]: case["output_tokens_per_wall_s"]["median"]}
    assert case["output_tokens"] / case["wall_s"]["median"] == pytest.approx(
        case["output_tokens_per_wall_s"]["median"], rel=1e-2)
    assert case["operations"] > case["steps"] > 0
    (entry,) = report["ops_per_token"]
    assert list(entry["ops_per_token"]) == ["1", "16", "64", "256"]
    check_rows(replay.rows(report))
    found = replay.measure(replay.Case("edge-gpu-ndp", "resident", "synthetic"), size._replace(layers=None), Path())
    assert "room" in found["refused"]


def test_an_operation_count_does_not_depend_on_how_it_is_carried_out() -> None:
    once = replay.ops_per_token("h200-host", "lru", 4, 2)
    assert once == replay.ops_per_token("h200-host", "lru", 4, 2)
    assert once > 2 * 4


def test_the_floor_replies_as_many_bytes_as_the_work_asks_for() -> None:
    x = np.ones((3, 8), np.float32)
    runs = [Run(0, 1, 0, np.array([0, 2]), np.ones(2, np.float32)), Move(0, 2, 0, True),
            Run(0, 3, 0, np.array([1]), np.ones(1, np.float32))]
    answer = reply(Work(x, runs))
    assert answer.out is not None
    assert (answer.out.shape, answer.out.dtype, answer.runs) == ((3, 8), np.float32, 2)
    assert reply(Work(None, runs)).out is None
    with PipeFloor(2) as floor:
        assert floor.seconds([{4: Work(x, runs)}, {4: Work(x, runs), 7: Work(x, runs)}]) > 0


def test_the_first_operation_comes_before_the_end_of_a_run() -> None:
    report = startup.bench_startup(1, ())
    assert list(report["seconds"]) == ["first_operation"]
    check_rows(startup.rows(report))


def test_the_engines_report_becomes_rows() -> None:
    report = suite.engine(1, 500)
    assert {"ops_per_s", "simpy_ratio", "spans_equal"} <= set(report)
    check_rows(suite.rows(report))


def test_an_unknown_case_is_refused_with_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert enter(["bench", "replay", "--policies", "lru,residnt"]) == 2
    assert "unknown policy 'residnt'; did you mean 'resident'" in capsys.readouterr().err


def test_outside_a_checkout_a_sentence_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    assert enter(["bench", "engine"]) == 2
    assert "benchmarks are part of a checkout" in capsys.readouterr().err


@pytest.mark.alone
def test_execute_stands_beside_plain_transformers() -> None:
    command = [sys.executable, "-c", "from cluster.main import main; main()", "bench", "execute", "--repeats", "1",
               "--tokens", "2", "--transports", "local,processes", "--json"]
    report = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    assert [(case["transport"], case["batch"]) for case in report["cases"]] == [
        ("local", 1), ("local", 8), ("processes", 1), ("processes", 8)]
    assert all(case["tokens_equal"] for case in report["cases"])
    for name in ("times_floor", "times_local_and_floor"):
        assert [name in case for case in report["cases"]] == [False, False, True, True]
