"""Times that theory gives in a line, to the picosecond: on both engines here, through policies in the file beside it.

Each formula is written out in whole picoseconds, as docs/closed_forms.md lists it, and holds for every number drawn.
"""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emulation.engine.contract import Engine
from emulation.ops import PREFETCH, Lane, OpBuilder, Pool

Makes = Callable[..., Engine]

law = settings(max_examples=40, deadline=None, derandomize=True, database=None,
               suppress_health_check=[HealthCheck.function_scoped_fixture])
durations = st.integers(1, 10**12)
"""A picosecond to a second."""


def ran(engine: Makes, lanes: Sequence[Lane], ops: OpBuilder, pools: Sequence[Pool] = ()) -> Engine:
    made = engine(lanes, pools)
    made.submit(ops.build())
    made.run()
    return made


def ends(made: Engine) -> list[int]:
    """When each operation ended, in the order in which they were written."""
    found: list[int] = made.spans().end_ps.tolist()
    return found


def lanes(count: int, **more: bool) -> list[Lane]:
    return [Lane(f"lane{i}", **more) for i in range(count)]


# Ring


def ring(engine: Makes, chunk_ps: Sequence[int], steps: int, latency_ps: int = 0) -> int:
    """Unit i passes a chunk on over link i in every step, when it has the one of the step before."""
    n, ops = len(chunk_ps), OpBuilder()
    for step in range(steps):
        for i, ps in enumerate(chunk_ps):
            before = [(step - 1) * n + (i - 1) % n] if step else []
            ops.op({i: ps}, after=before, length_ps=ps + latency_ps)
    return max(ends(ran(engine, lanes(n), ops)))


@law
@given(n=st.integers(2, 9), size=st.integers(1, 10**10), rate=st.integers(10**9, 10**13), latency=st.integers(0, 10**7))
def test_allreduce_on_a_ring_takes_2_n_minus_1_steps_of_an_nth(engine: Makes, n: int, size: int, rate: int,
                                                               latency: int) -> None:
    chunk_ps = -(-size * 10**12 // (n * rate))
    assert ring(engine, [chunk_ps] * n, 2 * (n - 1), latency) == 2 * (n - 1) * (chunk_ps + latency)


@law
@given(chunk_ps=st.lists(durations, min_size=2, max_size=8))
def test_the_slowest_link_sets_the_pace_of_a_ring(engine: Makes, chunk_ps: list[int]) -> None:
    n = len(chunk_ps)
    assert ring(engine, chunk_ps, 2 * (n - 1)) == 2 * (n - 1) * max(chunk_ps)
    assert ring(engine, chunk_ps, n - 1) == (n - 1) * max(chunk_ps)  # all-gather, or reduce-scatter


# All-to-all


@law
@given(data=st.data(), n=st.integers(2, 7))
def test_all_to_all_takes_its_fullest_row_or_column(engine: Makes, data: st.DataObject, n: int) -> None:
    """One operation that holds egress i for all that i sends and ingress j for all that j gets."""
    sent_ps = data.draw(st.lists(st.lists(durations, min_size=n, max_size=n), min_size=n, max_size=n))
    rows = [sum(ps for j, ps in enumerate(row) if j != i) for i, row in enumerate(sent_ps)]
    columns = [sum(row[j] for i, row in enumerate(sent_ps) if i != j) for j in range(n)]
    ops = OpBuilder()
    ops.op({**dict(enumerate(rows)), **{n + j: ps for j, ps in enumerate(columns)}})
    for lane, ps in enumerate([*rows, *columns]):  # what comes next on a lane starts when that lane is free
        ops.op({lane: 1}, after=())
        assert ps <= max(*rows, *columns)
    found = ends(ran(engine, lanes(2 * n), ops))
    assert found == [max(*rows, *columns), *(ps + 1 for ps in [*rows, *columns])]


# A hot link


@law
@given(transfers=st.lists(st.tuples(durations, durations), min_size=1, max_size=12), in_order=st.booleans())
def test_transfers_over_one_link_end_one_after_the_other(engine: Makes, transfers: list[tuple[int, int]],
                                                         in_order: bool) -> None:
    """Each also holds a port of its own, for at most as long."""
    ops = OpBuilder()
    for i, (shared_ps, own_ps) in enumerate(transfers):
        ops.op({0: shared_ps, 1 + i: min(own_ps, shared_ps)})
    made = ran(engine, [Lane("hot", in_order=in_order), *lanes(len(transfers))], ops)
    shared = [ps for ps, _ in transfers]
    assert ends(made) == [sum(shared[:i + 1]) for i in range(len(shared))]


@law
@given(count=st.integers(1, 12), wide=st.integers(1, 4), each_ps=durations)
def test_a_link_of_several_servers_takes_the_rounds_it_needs(engine: Makes, count: int, wide: int,
                                                             each_ps: int) -> None:
    ops = OpBuilder()
    for _ in range(count):
        ops.op({0: each_ps})
    assert max(ends(ran(engine, [Lane("hot", servers=wide)], ops))) == -(-count // wide) * each_ps


# Pipelines


def pipeline(engine: Makes, items: int, stage_ps: Sequence[int], slots: int | None = None) -> list[int]:
    """Ends of the last stage. slots: how many items fit between being taken in and leaving the last stage."""
    ops, s = OpBuilder(), len(stage_ps)
    for item in range(items):
        for stage, ps in enumerate(stage_ps):
            take = [(0, 1, 1)] if slots and not stage else []
            op = ops.op({stage: ps}, after=[item * s + stage - 1] if stage else [], takes=take)
        if slots:
            ops.release(ops.take_handle(item * s), after=[op])
    pools = [Pool("slots", slots)] if slots else []
    return ends(ran(engine, lanes(s), ops, pools))[s - 1::s]


@law
@given(n=st.integers(1, 12), s=st.integers(1, 8), t=durations)
def test_a_pipeline_fills_and_then_yields_an_item_a_beat(engine: Makes, n: int, s: int, t: int) -> None:
    found = pipeline(engine, n, [t] * s)
    assert found == [(i + s) * t for i in range(n)]
    assert found[-1] == (n + s - 1) * t


@law
@given(n=st.integers(1, 12), stage_ps=st.lists(durations, min_size=1, max_size=7))
def test_the_slowest_stage_is_the_beat_of_a_pipeline(engine: Makes, n: int, stage_ps: list[int]) -> None:
    assert pipeline(engine, n, stage_ps) == [sum(stage_ps) + i * max(stage_ps) for i in range(n)]


@law
@given(n=st.integers(1, 12), s=st.integers(2, 7), t=durations, slots=st.integers(1, 9))
def test_a_pipeline_with_room_for_few_items_beats_by_little_s_law(engine: Makes, n: int, s: int, t: int,
                                                                 slots: int) -> None:
    """Of k items in it at once each is there for s t: rounds of k, s t apart where k < s."""
    k = min(slots, s)
    assert pipeline(engine, n, [t] * s, slots) == [(s + i // k * s + i % k) * t for i in range(n)]


# Overlap of loads with compute


def overlapped(engine: Makes, layers: int, load_ps: int, compute_ps: int, slots: int) -> int:
    """Load l+1 starts when the load before is done and a slot is free; layer l computes when its load is there."""
    ops = OpBuilder()
    computes: list[int] = []
    for _ in range(layers):
        load = ops.op({0: load_ps}, takes=[(0, 1, 1)], priority=PREFETCH)
        computes.append(ops.op({1: compute_ps}, after=[load, *computes[-1:]]))
        ops.release(ops.take_handle(load), after=[computes[-1]])
    return max(ends(ran(engine, lanes(2), ops, [Pool("slots", slots)])))


@law
@given(layers=st.integers(1, 12), load_ps=durations, compute_ps=durations, slots=st.integers(2, 5))
def test_two_slots_hide_the_shorter_of_load_and_compute(engine: Makes, layers: int, load_ps: int, compute_ps: int,
                                                        slots: int) -> None:
    assert overlapped(engine, layers, load_ps, compute_ps, slots) == (
        load_ps + (layers - 1) * max(load_ps, compute_ps) + compute_ps)


@law
@given(layers=st.integers(1, 12), load_ps=durations, compute_ps=durations)
def test_one_slot_hides_nothing(engine: Makes, layers: int, load_ps: int, compute_ps: int) -> None:
    assert overlapped(engine, layers, load_ps, compute_ps, 1) == layers * (load_ps + compute_ps)


@law
@given(quantum_ps=st.integers(1, 10**6), quanta=st.integers(2, 50), at=st.integers(0, 10**8), demand_ps=durations)
def test_a_demand_waits_for_a_quantum_of_the_prefetch_and_the_rest_goes_on(engine: Makes, quantum_ps: int, quanta: int,
                                                                           at: int, demand_ps: int) -> None:
    prefetch_ps = quanta * quantum_ps
    asked_ps = 1 + at % (prefetch_ps - 1)  # while it is under way
    ops = OpBuilder()
    ops.op({0: prefetch_ps}, priority=PREFETCH, quantum_ps=quantum_ps)
    ops.op({0: demand_ps}, after=[ops.op(length_ps=asked_ps)])
    stops_ps = -(-asked_ps // quantum_ps) * quantum_ps
    found = ends(ran(engine, lanes(1), ops))
    assert found == [prefetch_ps + demand_ps * (stops_ps < prefetch_ps), asked_ps, stops_ps + demand_ps]


# A queue


@law
@given(count=st.integers(1, 30), every_ps=durations, service_ps=durations, pieces=st.booleans())
def test_a_d_d_1_queue_waits_for_what_service_lasts_longer_than_arrivals_are_apart(
        engine: Makes, count: int, every_ps: int, service_ps: int, pieces: bool) -> None:
    """Each arrives by a delay from time zero, or is submitted when the engine stands at its arrival."""
    made, ops = engine([Lane("server")], []), OpBuilder()
    served = []
    for number in range(count):
        if pieces:
            made.advance(number * every_ps)
            ops = OpBuilder(made.next_serial)
            served.append(ops.op({0: service_ps}))
            made.submit(ops.build())
        else:
            served.append(ops.op({0: service_ps}, after=[ops.op(length_ps=number * every_ps)]))
    if not pieces:
        made.submit(ops.build())
    made.run()
    starts = made.spans().start_ps[served].tolist()
    assert [start - i * every_ps for i, start in enumerate(starts)] == [
        i * max(service_ps - every_ps, 0) for i in range(count)]


@pytest.mark.parametrize("servers", [2, 3])
def test_a_queue_of_several_servers_waits_in_rounds(engine: Makes, servers: int) -> None:
    """D/D/c, all there at once: customer i waits floor(i / c) services."""
    ops = OpBuilder()
    for _ in range(11):
        ops.op({0: 700})
    made = ran(engine, [Lane("server", servers=servers)], ops)
    assert made.spans().start_ps.tolist() == [i // servers * 700 for i in range(11)]
