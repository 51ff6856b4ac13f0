"""The compiled engine does what the specification does, keeps no more than it must, and is chosen by name."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulation.engine.choose import make_engine
from emulation.engine.spec import SpecEngine
from emulation.errors import ConfigError, PlanError
from emulation.ops import DEMAND, PREFETCH, Lane, OpBuilder, Ops, Pool
from tests.emulation.random_plans import drive, flat, seen

pytest.importorskip("numba")

import numba
from numba.core.caching import _CacheLocator

from emulation.engine import compiled, compiled_cache
from emulation.engine.compiled import CompiledEngine
from emulation.engine.compiled_cache import drop_stale, kept_in, shared_of
from emulation.engine.compiled_table import kernel

BOTH = (SpecEngine, CompiledEngine)


@given(st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_runs_of_any_plans_are_those_of_the_specification(random: Random) -> None:
    drive(BOTH, random, most=10, plans=6)


@pytest.mark.parametrize("seed", range(100))
def test_long_runs_that_retire_are_those_of_the_specification(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "FORGET_AT_LEAST", 1)
    drive(BOTH, Random(seed), most=40, plans=8)


@pytest.mark.soak
def test_thousands_of_runs_are_those_of_the_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "FORGET_AT_LEAST", 1)
    assert sum(drive(BOTH, Random(seed), most=25, plans=8) for seed in range(10_000)) > 200_000


def overtaken(first: int = 0, loads: int = 40) -> Ops:
    """Demand loads on a link that a prefetch with a quantum holds: all but one wait in the shadow of the first."""
    build = OpBuilder(first)
    build.op({0: 10_000}, priority=PREFETCH, quantum_ps=70)
    wait = build.op(length_ps=15)
    for k in range(loads):
        build.op({0: 11} if k % 3 else {0: 11, 1: 5}, after=[wait], priority=DEMAND)
        build.op({1: 1}, after=[build.next_serial - 1] if k % 4 == 0 else [])
    return build.build()


@pytest.mark.parametrize("servers", [1, 2])
def test_many_demand_loads_overtake_one_prefetch_in_their_order(servers: int) -> None:
    engines = [make([Lane("link", servers), Lane("port")], []) for make in BOTH]
    for engine in engines:
        engine.submit(overtaken())
        engine.run()
    assert seen(engines[0]) == seen(engines[1])
    if servers == 1:
        start_ps, end_ps = flat(engines[1].spans())
        assert start_ps[2::2] == [70 + 11 * k for k in range(40)]
        assert end_ps[0] == 10_000 + 40 * 11


@pytest.mark.parametrize("most", [0, 5])
def test_more_sets_of_lanes_than_there_was_room_for(most: int) -> None:
    """All pairs and some triples of 40 lanes, in two plans; with a quantum some are stopped when a lane is left."""
    random = Random(most)
    lanes = [Lane(f"lane{i}") for i in range(40)]
    engines = [make(lanes, []) for make in BOTH]
    for pairs in (True, False):
        build = OpBuilder(engines[0].next_serial)
        for low in range(40):
            for high in range(low + 1, 40):
                held = [low, high] if pairs else sorted({low, high, (low + 2 * high) % 40})
                build.op({lane: random.randint(20, 40) for lane in held}, priority=random.choice([0, 0, 1]),
                         quantum_ps=random.randint(0, most), after=[build.next_serial // 2] if low else [])
        ops = build.build()
        for engine in engines:
            engine.submit(ops)
            engine.advance(500)
    for engine in engines:
        engine.run()
    assert seen(engines[0]) == seen(engines[1])


@pytest.mark.parametrize("priority", [1 << 22, -(1 << 22)])
def test_a_priority_that_is_too_great_is_refused(priority: int) -> None:
    engine = CompiledEngine([Lane("lane")])
    build = OpBuilder()
    build.op({0: 1}, priority=priority)
    with pytest.raises(PlanError, match=f"has priority {priority}: 4194303 is the most there is, either way"):
        engine.submit(build.build())
    assert engine.next_serial == 0


def chain(engine: CompiledEngine, ops: int, held: int) -> Ops:
    """One operation after the other on one lane; each takes a slot, of which all but one in `held` are given back."""
    build = OpBuilder(engine.next_serial, engine.next_take)
    for k in range(ops):
        op = build.op({0: 7}, takes=[(0, 1, 1)], after=[build.next_serial - 1] if build.next_serial else [])
        if k % held:
            build.release(build.take_handle(op), after=[op])
    return build.build()


def test_a_long_run_that_retires_keeps_only_what_is_left() -> None:
    engine = CompiledEngine([Lane("lane")], [Pool("slots", 1_000_000)])
    sizes, retired = [], 0
    for _ in range(120):
        engine.submit(chain(engine, 250, held=250))
        engine.run((engine.next_serial - 1,))
        first, spans, occupancy = engine.retire()
        assert first == retired
        assert (spans.end_ps - spans.start_ps == 7).all()
        assert occupancy.op.tolist() == list(range(first, first + len(spans.end_ps)))
        retired += len(spans.end_ps)
        sizes.append(engine.kept_bytes)
    assert retired == engine.first_serial == 120 * 250
    assert engine.free(0) == 1_000_000 - 120
    assert sizes[-1] == sizes[40]
    late = OpBuilder(engine.next_serial, engine.next_take)
    late.release(0, after=[0])
    engine.submit(late.build())
    engine.run()
    assert engine.free(0) == 1_000_000 - 119


def test_columns_of_any_integers_are_taken() -> None:
    engines = [CompiledEngine([Lane("link"), Lane("port")]) for _ in range(2)]
    ops = overtaken()
    other = {name: column.astype(np.int32) for name, column in vars(ops).items() if isinstance(column, np.ndarray)}
    other["hold_ps"].flags.writeable = False
    for engine, given_ops in zip(engines, (ops, replace(ops, **other)), strict=True):
        engine.submit(given_ops)
        engine.run()
    assert seen(engines[0]) == seen(engines[1])


def test_engines_are_chosen_by_name_and_the_compiled_one_is_usual() -> None:
    assert isinstance(make_engine("spec", [Lane("lane")]), SpecEngine)
    assert isinstance(make_engine("compiled", [Lane("lane")]), CompiledEngine)
    with pytest.raises(ConfigError, match=r"unknown engine 'compield'; did you mean 'compiled'\?"):
        make_engine("compield", [])


def test_a_missing_numba_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(ConfigError, match=r"needs numba: pip install 'moelab\[core\]', or choose engine: spec"):
        make_engine("compiled", [])
    make_engine("spec", [])


def test_a_compiler_that_is_turned_off_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numba.config.DISABLE_JIT", 1)
    with pytest.raises(ConfigError, match="NUMBA_DISABLE_JIT turns off: unset it, or choose engine 'spec'"):
        make_engine("compiled", [])


def test_machine_code_older_than_a_source_is_dropped(tmp_path: Path) -> None:
    kept = tmp_path / "__pycache__"
    kept.mkdir()
    for name, age_s in (("compiled_a.py", 50), ("compiled_b.py", 20),
                        ("__pycache__/compiled_a.f.nbi", 30), ("__pycache__/compiled_b.f.nbi", 10)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1e9 - age_s, 1e9 - age_s))
    drop_stale(kept, tmp_path)
    assert [path.name for path in kept.iterdir()] == ["compiled_b.f.nbi"]


def test_where_no_folder_can_be_written_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise OSError("read-only")

    assert kept_in(drop_stale) is not None
    monkeypatch.setattr(_CacheLocator, "ensure_cache_path", refuse)
    assert kept_in(drop_stale) is None
    compiled = kernel("int64(int64)")(twice)
    assert compiled(21) == 42


def twice(number: int) -> int:
    return 2 * number


def test_machine_code_that_came_with_read_only_sources_is_taken_along(tmp_path: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "compiled_sum.py"
    source.write_text("def add(a, b):\n    return a + b\n", encoding="utf-8")
    names: dict[str, Any] = {}
    exec(compile(source.read_text(encoding="utf-8"), source, "exec"), names)  # a function whose file is that one
    shipped = numba.njit("int64(int64, int64)", cache=True)(names["add"])
    assert list(shipped.stats.cache_misses.values()) == [1]
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "elsewhere"))
    kept = kept_in(names["add"])
    assert kept is not None
    assert kept.is_relative_to(tmp_path / "elsewhere")
    again = numba.njit("int64(int64, int64)", cache=True)(names["add"])
    assert list(again.stats.cache_hits.values()) == [1]
    assert again(2, 3) == 5


COMPILES = """
import sys
from emulation.engine.compiled_table import kernel

sys.path.insert(0, "{folder}")
import compiled_sum

print(list(kernel("int64(int64, int64)")(compiled_sum.add).stats.cache_misses.values()))
"""


def test_machine_code_is_found_again_by_what_the_sources_hold(tmp_path: Path) -> None:
    """The same sources elsewhere, unpacked later, are not compiled again."""
    def compiles(folder: str, cache: Path) -> str:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "compiled_sum.py").write_text("def add(a, b):\n    return a + b\n", encoding="utf-8")
        done = subprocess.run([sys.executable, "-c", COMPILES.format(folder=tmp_path / folder)], text=True, check=True,
                              capture_output=True, env={**os.environ, "XDG_CACHE_HOME": str(cache)})
        return done.stdout.strip()

    assert compiles("one", tmp_path / "cache") == "[1]"
    assert compiles("other", tmp_path / "cache") == "[]"


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert kernel("int64(int32)")(twice)(21) == 42


def test_machine_code_of_other_sources_lies_elsewhere(tmp_path: Path) -> None:
    before = shared_of(twice)
    (tmp_path / "emulation").mkdir()
    (tmp_path / "emulation" / "a.py").write_text("1", encoding="utf-8")
    one = compiled_cache._digest(tmp_path)
    (tmp_path / "emulation" / "a.py").write_text("2", encoding="utf-8")
    compiled_cache._digest.cache_clear()
    assert compiled_cache._digest(tmp_path) != one
    compiled_cache._digest.cache_clear()
    assert shared_of(twice) == before
