"""All benchmarks in one report: what `make bench` prints and keeps in out/bench.json."""

from collections.abc import Callable
from typing import Any

from benchmarks import execute, growth, replay, startup, sweep
from benchmarks.harness import Spread, figure, host

QUICK_SIZES = {axis: values[:4] for axis, values in growth.AXES.items()}


def engine(repeats: int = 5, ops: int = 20_000) -> dict[str, Any]:
    """The engine's report, with the name of the benchmark and the host."""
    from benchmarks.engine import bench_engine

    return {"bench": "engine", "host": host(), **bench_engine(ops=ops, repeats=repeats)}


def bench_all(quick: bool = False, heard: Callable[[int, int, str], None] | None = None) -> dict[str, Any]:
    """Every benchmark in turn; `quick` takes the smallest sizes and one measurement each."""
    size = replay.Size(requests=4, layers=2, repeats=1) if quick else replay.Size()
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "engine": lambda: engine(1, 2_000) if quick else engine(),
        "replay": lambda: replay.bench_replay(size),
        "execute": lambda: execute.bench_execute(1, 4, ("local",)) if quick else execute.bench_execute(),
        "startup": lambda: startup.bench_startup(1, ("local",)) if quick else startup.bench_startup(),
        "growth": lambda: growth.bench_growth(1, sizes=QUICK_SIZES) if quick else growth.bench_growth(),
        "sweep": lambda: sweep.bench_sweep(1, (sweep.FEW,)) if quick else sweep.bench_sweep(),
    }
    report: dict[str, Any] = {"bench": "all", "host": host(), "quick": quick}
    for done, (name, part) in enumerate(parts.items()):
        if heard is not None:
            heard(done, len(parts), name)
        report[name] = part()
    return report


def rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The report of all benchmarks, or of the engine alone, as lines of the table."""
    if report["bench"] == "engine":
        return _engine(report)
    others: dict[str, Callable[[dict[str, Any]], list[dict[str, Any]]]] = {
        "replay": replay.rows, "execute": execute.rows, "startup": startup.rows, "growth": growth.rows,
        "sweep": sweep.rows}
    return [*_engine(report["engine"]), *(line for name, lines in others.items() for line in lines(report[name]))]


def _engine(report: dict[str, Any]) -> list[dict[str, Any]]:
    speed = Spread(report["ops_per_s"], report["ops_per_s_min"], report["ops_per_s_max"], report["repeats"])
    return [figure("engine", "20 thousand ops", "ops_per_s", speed, note="target 5 million"),
            figure("engine", "20 thousand ops", "simpy_ratio", report["simpy_ratio"]),
            figure("engine", "20 thousand ops", "spec_ratio", report["spec_ratio"])]
