"""A sweep on Ray: the rows of worker processes, an actor that dies replaced, nothing left behind."""

import gc
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from studies.sweep import Options, sweep
from studies.sweep_study import load_study
from tests.studies.small import POLICY, lines, told, written

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
              pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]
"""Ray drops its handles of processes that it has told to end; that they do end is tested here."""


@pytest.fixture(autouse=True)
def _handles_are_dropped_within_the_test() -> Iterator[None]:
    yield
    gc.collect()


def test_actors_give_the_rows_of_processes_and_one_that_dies_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(POLICY.format(body="os._exit(3)"))
    study = load_study(written(tmp_path, points=[
        *({"seed": seed, "workload.batch": seed % 2 + 1} for seed in range(6)),
        {"workload.prompt_tokens": 10**8}, {"policy": "./mine.py"}]))
    before = set(psutil.Process().children(recursive=True))
    ray = sweep(study, tmp_path / "ray", Options(workers=2, transport="ray"))
    _, alive = psutil.wait_procs(set(psutil.Process().children(recursive=True)) - before, timeout=20)
    assert alive == []
    local = sweep(study, tmp_path / "local", Options(workers=2))
    assert told(ray.rows[:7]) == told(local.rows[:7])
    assert [row["status"] for row in ray.rows] == ["ok"] * 6 + ["failed"] * 2
    assert ray.rows[7]["error_kind"] == "WorkerDied"
    assert ray.rows[7]["error"].startswith("its worker died (")
    assert ray.rows[7]["error"].endswith(", 2 times in 2 attempts")
    assert len(lines(tmp_path / "ray")) == 8
    again = sweep(study, tmp_path / "ray", Options())  # what one transport left, the other goes on from
    assert (again.ran, again.kept) == (0, 8)
