"""Runs an engine through operations that are submitted one batch after another, each when the last one's decision
operation has ended."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.engine.contract import Engine
from emulation.ops import Ops

Ints = NDArray[np.int64]


class Columns(NamedTuple):
    """The columns of operations that engines read, as in `Ops`."""

    priority: Ints
    quantum_ps: Ints
    length_ps: Ints
    hold_ptr: Ints
    hold_lane: Ints
    hold_ps: Ints
    wait_ptr: Ints
    wait_op: Ints
    wait_edge: Ints
    take_ptr: Ints
    take_pool: Ints
    take_needs: Ints
    take_amount: Ints
    release_take: Ints
    release_ptr: Ints
    release_op: Ints
    release_edge: Ints


def columns_of(ops: Ops) -> Columns:
    """Those of some operations."""
    return Columns._make(getattr(ops, name) for name in Columns._fields)


class Program(NamedTuple):
    """Operations of several batches. ops, releases [batches + 1]: where the rows of each begin; decisions [batches]:
    the operation at whose end the next is submitted."""

    columns: Ops
    ops: Ints
    releases: Ints
    decisions: Ints

    def batch(self, i: int) -> Ops:
        """The operations of one batch."""
        o, low, high = self.columns, int(self.ops[i]), int(self.ops[i + 1])
        holds, waits, takes = (slice(int(ptr[low]), int(ptr[high])) for ptr in (o.hold_ptr, o.wait_ptr, o.take_ptr))
        first, last = int(self.releases[i]), int(self.releases[i + 1])
        edges = slice(int(o.release_ptr[first]), int(o.release_ptr[last]))
        rows = slice(low, high)
        return Ops(
            o.first + low, o.first_take + takes.start, o.priority[rows], o.quantum_ps[rows], o.length_ps[rows],
            o.hold_ptr[low:high + 1] - holds.start, o.hold_lane[holds], o.hold_ps[holds],
            o.wait_ptr[low:high + 1] - waits.start, o.wait_op[waits], o.wait_edge[waits],
            o.take_ptr[low:high + 1] - takes.start, o.take_pool[takes], o.take_needs[takes], o.take_amount[takes],
            o.release_take[first:last], o.release_ptr[first:last + 1] - edges.start, o.release_op[edges],
            o.release_edge[edges])


def play(engine: Engine, program: Program) -> Ints:
    """Submit and run batch by batch; when each was submitted, [batches]."""
    whole: Callable[[Program], Ints] | None = getattr(engine, "play", None)
    if whole is not None:
        return whole(program)
    at_ps = np.empty(len(program.decisions), np.int64)
    for i, decision in enumerate(program.decisions.tolist()):
        at_ps[i] = engine.now_ps
        engine.submit(program.batch(i))
        engine.run([decision])
    return at_ps
