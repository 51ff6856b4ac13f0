"""HiGHS, which comes with SciPy, for the least `c x` under `A x >= b` in boxes; and sparse rows without SciPy.

SciPy's own way to HiGHS imports all that it optimizes, and its sparse matrices: two thirds of a second, on the thread
that times a run meanwhile. So the solver's module is loaded by itself, with the options that `linprog` gives it, and
the same matrix: the same answer. Where it does not lie where it is looked for, or finds no least, `linprog` is asked.
"""

import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

CORE = "scipy.optimize._highspy._core"


class Rows:
    """A sparse matrix: row, column, value [entries], by row, then by column; what was given twice is added."""

    def __init__(self, row: Ints, column: Ints, value: Floats, height: int, width: int) -> None:
        order = np.lexsort((column, row))
        row, column, value = row[order], column[order], value[order]
        first = np.flatnonzero(np.r_[True, (row[1:] != row[:-1]) | (column[1:] != column[:-1])]) if len(row) else order
        self.row, self.column, self.height, self.width = row[first], column[first], height, width
        self.value: Floats = np.add.reduceat(value, first) if len(first) else value

    def priced(self, prices: Floats) -> Floats:
        """y A: what all rows together give to each column, [width]."""
        return np.bincount(self.column, self.value * prices[self.row], self.width).astype(np.float64)

    def by_column(self) -> tuple[Ints, Ints, Floats]:
        """Where each column begins, [width + 1]; and of its entries, in the order of rows, row and value."""
        order = np.argsort(self.column, kind="stable")
        begins = np.searchsorted(self.column[order], np.arange(self.width + 1))
        return begins, self.row[order], self.value[order]


@cache
def core() -> Any:
    """The solver's module, or None where SciPy keeps it elsewhere."""
    loaded = sys.modules.get(CORE)
    if loaded is not None:
        return loaded
    package = importlib.util.find_spec("scipy")
    for folder in (package.submodule_search_locations or []) if package is not None else []:
        for file in sorted((Path(folder) / "optimize" / "_highspy").glob("_core.*")):
            spec = importlib.util.spec_from_file_location(CORE, file)
            if spec is not None and spec.loader is not None:
                module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
                sys.modules[CORE] = module  # whoever imports SciPy's own way finds this one: there can be no second
                return module
    return None


def prices_of(rows: Rows, least: Floats, low: Floats, high: Floats, cost: Floats) -> Floats | str:
    """The prices of the rows `rows x >= least` at the least `cost x`, low <= x <= high; or why there is none."""
    found = _directly(rows, least, low, high, cost)
    if found is not None:
        return found
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    matrix = csr_array((-rows.value, (rows.row, rows.column)), shape=(rows.height, rows.width))
    answer = linprog(cost, A_ub=matrix, b_ub=-least, bounds=np.stack([low, high], axis=1),  # type: ignore[call-overload]
                     method="highs-ds")
    prices: Floats = -answer.ineqlin.marginals if answer.x is not None else np.empty(0)
    return str(answer.message) if answer.x is None else prices


def _directly(rows: Rows, least: Floats, low: Floats, high: Floats, cost: Floats) -> Floats | None:
    """The same by HiGHS itself; None where it cannot be reached, or says anything but `optimal`."""
    h = core()
    if h is None:
        return None
    try:
        program, options, solver = h.HighsLp(), h.HighsOptions(), h._Highs()
        begins, row, value = rows.by_column()
        program.num_col_ = program.a_matrix_.num_col_ = rows.width
        program.num_row_ = program.a_matrix_.num_row_ = rows.height
        program.a_matrix_.format_ = h.MatrixFormat.kColwise
        program.a_matrix_.start_, program.a_matrix_.index_ = begins.astype(np.int32), row.astype(np.int32)
        program.a_matrix_.value_ = -value
        program.col_cost_ = cost
        program.col_lower_, program.col_upper_ = (np.clip(box, -h.kHighsInf, h.kHighsInf) for box in (low, high))
        program.row_lower_, program.row_upper_ = np.full(rows.height, -h.kHighsInf), -least
        options.presolve, options.solver, options.output_flag, options.log_to_console = "on", "simplex", False, False
        options.simplex_strategy = h.simplex_constants.SimplexStrategy.kSimplexStrategyDual
        options.highs_debug_level = h.HighsDebugLevel.kHighsDebugLevelNone
        for done in (solver.passOptions(options), solver.passModel(program), solver.run()):
            if done == h.HighsStatus.kError:
                return None
        if solver.getModelStatus() != h.HighsModelStatus.kOptimal:
            return None
        return -np.array(solver.getSolution().row_dual)
    except (AttributeError, TypeError):  # another SciPy, whose module has other names
        return None
