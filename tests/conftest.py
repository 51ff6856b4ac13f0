"""What all tests share: the reference files, where a checkout has them beside it."""

import importlib
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from emulation.engine.contract import Engine
from emulation.ops import END, START, Edge, Lane, OpBuilder, Pool

# A shell that runs the tests in its background ignores Ctrl-C, and every child would inherit that; some tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Workers of pytest-xdist are told of 80, and tables would be cut to that.
os.environ.pop("COLUMNS", None)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference measurements and traces; the test is skipped where there is none."""
    folder = Path(os.environ.get("MOELAB_SHARED", ROOT.parent / "shared"))
    if not (folder / "hardware").is_dir():
        pytest.skip("no reference files: set MOELAB_SHARED to the folder that holds hardware/ and traces/")
    return folder


ENGINES = {"spec": ("emulation.engine.spec", "SpecEngine")}
if find_spec("emulation.engine.compiled") and find_spec("numba"):
    ENGINES["compiled"] = ("emulation.engine.compiled", "CompiledEngine")


@pytest.fixture(scope="session", params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> Callable[..., Engine]:
    """Every implementation of the timing engine: what constructs it from lanes, pools and `describe`."""
    module, name = ENGINES[request.param]
    made: Callable[..., Engine] = getattr(importlib.import_module(module), name)
    return made


class Board:
    """Lanes, pools and operations by name, so that a test reads like the timeline drawn above it.

    An edge is written "load" (its end) or "load:start".
    """

    def __init__(self, engine: Callable[..., Engine], lanes: Iterable[str | Lane], pools: dict[str, int]) -> None:
        rows = [Lane(lane) if isinstance(lane, str) else lane for lane in lanes]
        self.lane = {row.name: i for i, row in enumerate(rows)}
        self.pool = {name: i for i, name in enumerate(pools)}
        self.serial: dict[str, int] = {}
        self.engine = engine(rows, [Pool(name, size) for name, size in pools.items()], lambda op: list(self.serial)[op])
        self.plan = OpBuilder()
        self._handle: dict[str, int] = {}

    def _edges(self, after: Iterable[str]) -> list[Edge]:
        return [Edge(self.serial[name.removesuffix(":start")], START if name.endswith(":start") else END)
                for name in after]

    def op(self, name: str, holds: dict[str, int] | None = None, *, after: Sequence[str] = (),
           takes: Iterable[tuple[str, int, int]] = (), **more: int) -> None:
        """Add an operation to the plan being written; more: length_ps, priority, quantum_ps."""
        takes = [(self.pool[pool], needs, amount) for pool, needs, amount in takes]
        op = self.plan.op({self.lane[lane]: ps for lane, ps in (holds or {}).items()}, after=self._edges(after),
                          takes=takes, **more)
        self.serial[name] = op
        if takes:
            self._handle[name] = self.plan.take_handle(op)

    def release(self, taker: str, *, after: Iterable[str]) -> None:
        """Give back the (first) take of an operation, of this plan or an earlier one."""
        self.plan.release(self._handle[taker], after=self._edges(after))

    def submit(self) -> None:
        self.engine.submit(self.plan.build())
        self.plan = OpBuilder(self.engine.next_serial, self.engine.next_take)

    def run(self, *until: str) -> list[str]:
        """Submit what was written and run; the names of those in `until` that ended."""
        self.submit()
        ended = self.engine.run([self.serial[name] for name in until])
        return [list(self.serial)[op] for op in ended]

    def times(self) -> dict[str, tuple[int, int]]:
        """Operation -> (start, end) in picoseconds; -1 where it has not happened."""
        spans = self.engine.spans()
        return dict(zip(self.serial, zip(spans.start_ps.tolist(), spans.end_ps.tolist(), strict=True), strict=True))


@pytest.fixture(scope="session")
def board(engine: Callable[..., Engine]) -> Callable[..., Board]:
    """Lays out a `Board` for an engine: lanes by name (or as `Lane`), pools with their capacity."""
    return lambda lanes, pools=None: Board(engine, lanes, pools or {})
