"""Engines with one fault put into their source text, and random plans in which such faults show."""

import sys
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from emulation.engine import compiled_layout as c
from emulation.engine import spec
from emulation.engine.contract import Engine
from emulation.ops import Lane, OpBuilder, Pool
from tests.emulation.random_plans import Makes, drive, outcome, seen

SOURCES = Path(spec.__file__).parent
KERNELS = ("compiled_heaps", "compiled_sets", "compiled_rows", "compiled_moves", "compiled_queues", "compiled_pass",
           "compiled_loop", "compiled_retire", "compiled_submit", "compiled_story", "compiled")
"""The modules of the compiled engine that schedule, each after those that it takes from."""


class Mutant(NamedTuple):
    """In the module `where`, `old` (which stands there once) becomes `new`."""

    kind: str
    where: str
    old: str
    new: str


class Plain(ModuleType):
    """`compiled_table` without numba: kernels are plain Python, and a table is its array, with bounds."""

    def __init__(self) -> None:
        super().__init__("emulation.engine.compiled_table")
        self.inner, self.seldom, self.kernel = _itself, _itself, lambda _: _itself
        self.expect = lambda *_: None
        self.Ints, self.as_column, self.tables = c.Ints, _itself, _tables


def _tables(s: Any, memory: Any) -> c.Tables:
    made = []
    for i, width in enumerate(c.WIDTHS):
        rows = memory[s[c.AT_WORD + i]:s[c.AT_WORD + i] + s[c.ROOM + i] * width]
        made.append(rows if width == 1 else rows.reshape(-1, width))
    return c.Tables(*made)


def _itself(value: Any) -> Any:
    return value


def engine_of(mutant: Mutant | None, modules: tuple[str, ...]) -> Any:
    """The last of `modules`, made from the source text with the fault in it; the compiled ones run as plain Python."""
    made: Any = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "emulation.engine.compiled_table", Plain())
        for name in modules:
            text = (SOURCES / f"{name}.py").read_text()
            if mutant is not None and mutant.where == name:
                assert text.count(mutant.old) == 1, f"{mutant.old!r} stands {text.count(mutant.old)} times in {name}"
                text = text.replace(mutant.old, mutant.new)
            made = ModuleType(f"emulation.engine.{name}")
            patch.setitem(sys.modules, made.__name__, made)
            exec(compile(text, f"{name} with a fault", "exec"), made.__dict__)
    return made


def crowd(makes: tuple[Makes, ...], random: Random) -> None:
    """Urgent work of few priorities on lanes full of work with quanta; some of it on several lanes or in order."""
    lanes = [Lane(f"lane{i}", random.choice([1, 1, 2]), i > 1 and random.random() < 0.3) for i in range(4)]
    engines: list[Engine] = [make(lanes, [Pool("pool", 2)]) for make in makes]
    build = OpBuilder()
    for _ in range(random.randint(6, 24)):
        held = random.sample(range(4), random.choice([1, 1, 1, 2, 3]))
        after = random.sample(range(build.next_serial), min(build.next_serial, random.choice([0, 0, 1, 1, 2])))
        weak = random.random() < 0.4
        takes = random.choice([[], [], [], [(0, 2, 1)], [(0, 1, 1), (0, 1, 1)]])
        op = build.op({lane: random.randint(1, 40) if weak else random.randint(1, 6) for lane in held}, after=after,
                      priority=random.choice([3, 4]) if weak else random.choice([0, 1, 1, 2]),
                      quantum_ps=random.choice([3, 5, 7]) if random.random() < 0.7 else 0, takes=takes)
        for index in range(len(takes)):
            build.release(build.take_handle(op, index), after=[op])
    ops = build.build()
    stories = []
    for engine in engines:
        engine.submit(ops)
        stories.append((outcome(engine, ()), seen(engine)))
    assert all(story == stories[0] for story in stories)


def differ(makes: tuple[Makes, ...], seeds: range) -> int | None:
    """The first seed whose plans tell the engines apart (or break one); None where none does."""
    for seed in seeds:
        try:
            drive(makes, Random(seed), most=12, plans=4)
            crowd(makes, Random(seed))
        except (AssertionError, IndexError, KeyError, RuntimeError):
            return seed
    return None
