"""The solver by itself gives what SciPy's own way to it gives, and sparse rows multiply as SciPy's do."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.sparse import csr_array

from emulation import bound_solver
from emulation.bound_solver import Rows, prices_of


def matrix_of(rows: Rows) -> Any:
    """As SciPy holds it."""
    return csr_array((rows.value, (rows.row, rows.column)), shape=(rows.height, rows.width))


def program(seed: int) -> tuple[Rows, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows that something satisfies, some of their entries given twice; boxes with and without an upper end."""
    rng = np.random.default_rng(seed)
    height, width = int(rng.integers(2, 30)), int(rng.integers(2, 30))
    entries = height * 3
    row, column = rng.integers(0, height, entries), rng.integers(0, width, entries)
    rows = Rows(row, column, rng.uniform(0.1, 5.0, entries), height, width)
    high = np.where(rng.random(width) < 0.3, 50.0, np.inf)
    some = rng.uniform(0.0, 2.0, width)
    return rows, matrix_of(rows) @ some, np.zeros(width), high, rng.uniform(0.1, 1.0, width)


@pytest.mark.parametrize("seed", range(8))
def test_prices_are_those_of_linprog(seed: int) -> None:
    rows, least, low, high, cost = program(seed)
    matrix, boxes = matrix_of(rows), np.stack([low, high], axis=1)
    answer: Any = linprog(cost, A_ub=-matrix, b_ub=-least, bounds=boxes, method="highs-ds")  # type: ignore[call-overload]
    direct = bound_solver._directly(rows, least, low, high, cost)
    assert direct is not None
    assert direct.tolist() == (-answer.ineqlin.marginals).tolist()
    assert rows.priced(direct).tolist() == (matrix.T @ direct).tolist()


def test_where_the_solver_cannot_be_reached_linprog_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    found = prices_of(*program(3))
    for core in (None, object()):  # not there; another SciPy with other names
        monkeypatch.setattr(bound_solver, "core", lambda core=core: core)
        again = prices_of(*program(3))
        assert not isinstance(found, str)
        assert not isinstance(again, str)
        assert again.tolist() == found.tolist()


def test_rows_that_nothing_satisfies_say_so() -> None:
    rows = Rows(np.array([0]), np.array([0]), np.array([1.0]), 1, 1)
    found = prices_of(rows, np.array([2.0]), np.zeros(1), np.ones(1), np.ones(1))
    assert isinstance(found, str)
    assert "infeasible" in found


def test_entries_given_twice_are_added() -> None:
    rows = Rows(np.array([1, 0, 1]), np.array([0, 1, 0]), np.array([2.0, 3.0, 4.0]), 2, 2)
    assert (rows.row.tolist(), rows.column.tolist(), rows.value.tolist()) == ([0, 1], [1, 0], [3.0, 6.0])
    assert rows.priced(np.array([1.0, 10.0])).tolist() == [60.0, 3.0]


def test_scipy_imported_later_finds_the_solver_that_was_loaded() -> None:
    code = ("import sys; from emulation.bound_solver import core; mine = core(); assert 'scipy.optimize' not in "
            "sys.modules; from scipy.optimize import linprog; assert linprog([1], A_ub=[[-1]], b_ub=[-2]).x[0] == 2; "
            "import scipy.optimize._highspy._core as theirs; assert theirs is mine is not None")
    subprocess.run([sys.executable, "-c", code], check=True)
