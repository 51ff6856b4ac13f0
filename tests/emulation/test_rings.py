"""Streams in columns are the operations of the readable lowering, on random paths, machines and action times."""

from dataclasses import fields, replace

import numpy as np
import pytest

from emulation.actions import Action, Actions
from emulation.engine.spec import SpecEngine
from emulation.ledger import Ledger
from emulation.lowering.crossing import CrossingEmitter
from emulation.lowering.rings import Rings
from emulation.lowering.rings_columns import RingColumns
from emulation.machine import Machine
from emulation.ops import Ops
from emulation.streams import Handing, Streams, streams_of
from schedulers._rings import laid, trajectory
from tests.schedulers.rig import chiplets, fast_engine, model, setting

ACTIONS = Actions(50, Action(1, 2), Action(5), Action(5, whole=True), Action(5), 1, 2, True)
OF = model(moe_layers=2, experts=6, top_k=2, d_ff=10)


def drawn(rng: np.random.Generator, machine: Machine, parts: int) -> tuple[Streams, Handing, np.ndarray]:
    """Segments of one ring, some starting anywhere; tokens bound at random, on some chiplets none."""
    side = int(len(machine.homes) ** 0.5)
    ring = trajectory("spiral", side, side)[0]
    paths = []
    n = int(rng.integers(0, 30))
    for _ in range(n):
        at, length = int(rng.integers(len(ring))), int(rng.integers(1, len(ring) + 1))
        paths.append([*ring[at:], *ring[:at]][:length])
    bound = rng.integers(0, 3, (OF.experts, len(machine.devices)))
    bound[:, len(machine.homes):] = 0
    edges = ("start", "end")
    handing = Handing(needs=2, hop_after=edges[rng.integers(2)], slot_free_at=edges[rng.integers(2)])
    return (streams_of(rng.integers(0, OF.experts, n), rng.integers(0, parts, n), paths), handing,
            bound.astype(np.int64))


def same(a: Ops, b: Ops) -> None:
    for field in fields(Ops):
        assert np.array_equal(getattr(a, field.name), getattr(b, field.name)), field.name


@pytest.mark.parametrize("seed", range(24))
def test_columns_write_what_the_readable_lowering_writes(seed):
    rng = np.random.default_rng(seed)
    side, parts = int(rng.integers(2, 4)), int(rng.integers(1, 5))
    machine = replace(chiplets(side), actions=ACTIONS if seed % 3 == 0 else None)
    rest = np.tile(laid(OF.experts, parts, tuple(machine.stores), "even"), (2, 1, 1))
    given = setting(machine, OF)
    from emulation.ledger import Start

    ledger = Ledger(machine, OF, Start(rest), given.budget_bytes)
    batches = []
    for kind in (Rings, RingColumns):
        draws = np.random.default_rng(seed)
        emit = CrossingEmitter(machine, OF)
        lowering = kind(emit, OF, ledger)
        out = []
        for layer in range(2):
            emit.layer, emit.step = layer, 7
            emit.join([])  # rows by hand before a block and behind it
            lowered = lowering.issue(layer, *drawn(draws, machine, parts))
            emit.join(list(lowered.ends.values()))
            out.append((*emit.finish(), lowered))
        crossed = emit.take_crossed()
        batches.append((out, emit.moved_bytes, emit.worked, crossed[np.lexsort(crossed.T)]))
    for (ops, labels, lowered), (ops_2, labels_2, lowered_2) in zip(batches[0][0], batches[1][0], strict=True):
        same(ops, ops_2)
        for column, column_2 in zip(labels, labels_2, strict=True):
            assert np.array_equal(column, column_2)
        assert lowered.ends == lowered_2.ends
        assert np.array_equal(lowered.loads, lowered_2.loads)
        assert np.array_equal(lowered.runs, lowered_2.runs)
    assert np.array_equal(batches[0][1], batches[1][1])
    assert np.array_equal(batches[0][2], batches[1][2])
    assert np.array_equal(batches[0][3], batches[1][3])
    spans = []
    for make in (SpecEngine, fast_engine()):
        engine = make(machine.lanes, machine.pools, str)
        for ops, *_ in batches[1][0]:
            engine.submit(ops)
        engine.run()
        spans.append(engine.spans())
    assert np.array_equal(spans[0].end_ps, spans[1].end_ps)
    assert np.array_equal(spans[0].start_ps, spans[1].start_ps)
