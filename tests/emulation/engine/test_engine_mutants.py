"""A fault in either engine is caught: the other one tells another story of some random plan."""

import pytest

from emulation.engine.spec import SpecEngine
from emulation.ops import Lane, OpBuilder
from tests.emulation.engine.mutants import KERNELS, Mutant, differ, engine_of
from tests.emulation.random_plans import Makes

TIE, PRIORITY, SLOT, QUANTUM, SHADE = "tie order", "priority", "slot release", "quantum", "shade"
HEAPS, MOVES, QUEUES, PASS, LOOP, SUBMIT = (
    f"compiled_{name}" for name in ("heaps", "moves", "queues", "pass", "loop", "submit"))

OF_SPEC = [
    Mutant(TIE, "spec", "key=lambda op: op.order", "key=lambda op: (op.priority, op.ready_ps, -op.serial)"),
    Mutant(TIE, "spec", "key=lambda op: op.order", "key=lambda op: (op.priority, op.serial)"),
    Mutant(TIE, "spec", "-op.priority, -op.serial", "-op.priority, op.serial"),
    Mutant(PRIORITY, "spec", "key=lambda op: op.order", "key=lambda op: (op.ready_ps, op.serial)"),
    Mutant(PRIORITY, "spec", "holder.priority > op.priority", "holder.priority >= op.priority"),
    Mutant(PRIORITY, "spec", "claims.get(lane, op.priority) < op.priority", "False"),
    Mutant(SLOT, "spec", "+= take.amount", "+= min(take.amount, 1)"),
    Mutant(SLOT, "spec", "[*edges, Edge(self._takes[handle].op, START)]", "edges"),
    Mutant(SLOT, "spec", "self._free[pool] - need[pool] < needs", "self._free[pool] < needs"),
    Mutant(QUANTUM, "spec", "op.rest_ps -= ran", "op.rest_ps -= 0"),
    Mutant(QUANTUM, "spec", "* op.quantum_ps", "* (op.quantum_ps + 1)"),
    Mutant(QUANTUM, "spec", "hold_ps - ran", "hold_ps"),
]

OF_COMPILED = [
    Mutant(TIE, HEAPS, "return a < b", "return a > b"),
    Mutant(TIE, HEAPS, "heap[up, c.BY_ROW] <= op", "heap[up, c.BY_ROW] >= op"),
    Mutant(TIE, MOVES, "and holder > victim", "and holder < victim"),
    Mutant(PRIORITY, SUBMIT, "priority[i] << c.PRIORITY_SHIFT", "-priority[i] << c.PRIORITY_SHIFT"),
    Mutant(PRIORITY, QUEUES, "priority_of(t, holder) <= priority", "priority_of(t, holder) <= priority + 1"),
    Mutant(PRIORITY, QUEUES, "lanes[lane, c.CLAIM_PRIORITY] < priority", "lanes[lane, c.CLAIM_PRIORITY] > priority"),
    Mutant(SLOT, LOOP, "+= t.takes[take, c.AMOUNT]", "+= t.takes[take, c.NEEDS]"),
    Mutant(SLOT, MOVES, "-= t.takes[row, c.AMOUNT]", "-= t.takes[row, c.NEEDS]"),
    Mutant(SLOT, PASS, "needs += t.takes[other, c.AMOUNT]", "needs += 0"),
    Mutant(SLOT, SUBMIT, "    t.releases[release, c.PENDING] = pending\n",
           "    t.releases[release, c.PENDING] = pending = 0\n"),
    Mutant(QUANTUM, MOVES, "ops[op, c.REST] -= ran", "ops[op, c.REST] -= 0"),
    Mutant(QUANTUM, MOVES, "now - resumed + quantum - 1", "now - resumed + quantum"),
    Mutant(QUANTUM, MOVES, "holds[row, c.HOLD_PS] -= ran", "holds[row, c.HOLD_PS] -= 0"),
    Mutant(SHADE, PASS, "full > 0 and meta & c.COUNT == 1 and shades", "full > 0 and shades"),
]


TURNS = Mutant(SHADE, MOVES, "        if turns == 0 and ", "        if ")
"""Who waits in an in-order lane too has fewer to make way for it: nobody lies in its shadow."""


def named(mutant: Mutant) -> str:
    return f"{mutant.kind}-{mutant.new.strip()}"


def test_without_a_fault_nothing_differs() -> None:
    plain, spec = engine_of(None, KERNELS).CompiledEngine, engine_of(None, ("spec",)).SpecEngine
    assert differ((SpecEngine, spec, plain), range(60)) is None


@pytest.mark.parametrize("mutant", OF_SPEC, ids=named)
def test_a_fault_in_the_specification_is_caught(mutant: Mutant) -> None:
    pytest.importorskip("numba")
    from emulation.engine.compiled import CompiledEngine
    assert differ((CompiledEngine, engine_of(mutant, ("spec",)).SpecEngine), range(400)) is not None


@pytest.mark.parametrize("mutant", OF_COMPILED, ids=named)
def test_a_fault_in_the_compiled_engine_is_caught(mutant: Mutant) -> None:
    assert differ((SpecEngine, engine_of(mutant, KERNELS).CompiledEngine), range(400)) is not None


def starts_of_two_claimers(make: Makes) -> list[int]:
    """Both want the link at 1; the first may not stop operation 0, since it is behind it in the stream."""
    engine = make([Lane("link", servers=2), Lane("stream", servers=2, in_order=True)], [])
    build = OpBuilder()
    build.op({0: 40, 1: 40}, priority=4, quantum_ps=5)
    build.op({0: 40}, priority=4, quantum_ps=7)
    wait = build.op(length_ps=1)
    build.op({0: 2, 1: 2}, after=[wait])
    build.op({0: 2}, after=[wait])
    engine.submit(build.build())
    engine.run()
    return engine.spans().start_ps.tolist()


def test_nobody_lies_in_the_shadow_of_one_that_waits_in_an_in_order_lane() -> None:
    """Operation 4 stops operation 0 at 5, its boundary; operation 3 stops operation 1 at 7."""
    assert starts_of_two_claimers(SpecEngine) == [0, 0, 0, 7, 5]
    assert starts_of_two_claimers(engine_of(None, KERNELS).CompiledEngine) == [0, 0, 0, 7, 5]
    assert starts_of_two_claimers(engine_of(TURNS, KERNELS).CompiledEngine) != [0, 0, 0, 7, 5]
