"""The timeline, decoded with Perfetto's own message classes."""

import io
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest

from cluster.observe.flight import Flight, read_flight
from cluster.observe.timeline import Extent, Written, pool_levels, write_timeline
from cluster.observe.wire import varint
from emulation.lowering.emit import CAUSES, KINDS

from .conftest import feed, policy_of, run

proto: Any = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2", reason="perfetto reads the file")
EVENT = {"begin": 1, "end": 2, "instant": 3, "counter": 4}


@dataclass
class Slice:
    name: str
    category: str
    track: str
    from_ns: int
    to_ns: int
    notes: dict[str, int]
    flows: list[int]
    ends_flows: list[int]


@dataclass
class Decoded:
    """A trace as a reader sees it; slices in file order."""

    parents: dict[str, str] = field(default_factory=dict)
    units: dict[str, int] = field(default_factory=dict)
    slices: list[Slice] = field(default_factory=list)
    counts: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    instants: list[tuple[str, int, str]] = field(default_factory=list)


def decode(data: bytes) -> Decoded:
    """Reads the packets in order, as Perfetto does; a slice ends the innermost open one of its track."""
    out = Decoded()
    interned: dict[tuple[str, int], str] = {}
    tracks: dict[int, Any] = {}
    open_: dict[int, list[Slice]] = defaultdict(list)
    trace = proto.Trace.FromString(data)
    assert trace.packet[0].sequence_flags == proto.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
    for packet in trace.packet:
        assert packet.trusted_packet_sequence_id == 1
        for what in ("event_names", "event_categories", "debug_annotation_names"):
            interned.update({(what, entry.iid): entry.name for entry in getattr(packet.interned_data, what)})
        if packet.HasField("track_descriptor"):
            track = packet.track_descriptor
            assert track.uuid not in tracks
            tracks[track.uuid] = track
            out.parents[track.name] = tracks[track.parent_uuid].name if track.parent_uuid else ""
            if track.HasField("counter"):
                out.units[track.name] = track.counter.unit
        if packet.HasField("track_event"):
            event, at_ns = packet.track_event, packet.timestamp
            name = tracks[event.track_uuid].name
            if event.type == EVENT["begin"]:
                notes = {interned["debug_annotation_names", note.name_iid]: note.int_value
                         for note in event.debug_annotations}
                opened = Slice(interned["event_names", event.name_iid],
                               interned["event_categories", event.category_iids[0]], name, at_ns, -1, notes,
                               list(event.flow_ids), list(event.terminating_flow_ids))
                assert not open_[event.track_uuid], "a slice of a lane opens within another"
                open_[event.track_uuid].append(opened)
                out.slices.append(opened)
            elif event.type == EVENT["end"]:
                open_[event.track_uuid].pop().to_ns = at_ns
            elif event.type == EVENT["counter"]:
                out.counts[name].append((at_ns, event.counter_value))
            else:
                out.instants.append((name, at_ns, event.name))
    assert not any(open_.values())
    return out


def timeline(flight: Flight, extent: Extent | None = None) -> tuple[Decoded, Written, bytes]:
    file = io.BytesIO()
    written = write_timeline(flight, file, extent)
    return decode(file.getvalue()), written, file.getvalue()


@pytest.fixture(scope="module")
def flight() -> Flight:
    scheduler, _ = run(policy_of("lru_prefetch", slots=4), feed(3, (0, 10**9)))
    return read_flight(scheduler)


def test_each_lane_is_a_track_of_its_device(flight: Flight) -> None:
    decoded, _, _ = timeline(flight)
    assert {track: parent for track, parent in decoded.parents.items() if parent and parent != "pools"} == {
        "host": "gpu", "stream": "gpu", "copy": "gpu", "h2d": "links", "d2h": "links", "worker #0": "cpu",
        "worker #1": "cpu"}
    assert {track for track, parent in decoded.parents.items() if not parent} == {"gpu", "cpu", "links", "pools"}


def test_slices_are_the_occupancy_in_whole_nanoseconds(flight: Flight) -> None:
    decoded, written, _ = timeline(flight)
    rows = flight.rows
    held = rows.to_ps > rows.from_ps
    expected = sorted((flight.lanes[lane].name, op, from_ps // 1000, to_ps // 1000, from_ps, to_ps - from_ps)
                      for lane, op, from_ps, to_ps in zip(*(c[held].tolist() for c in rows), strict=True))
    found = sorted((s.track.split(" ")[0], s.notes["op"], s.from_ns, s.to_ns, s.notes["from_ps"], s.notes["held_ps"])
                   for s in decoded.slices)
    assert found == expected
    assert written == Written(len(expected), len(expected), None)


def test_slices_of_a_track_never_overlap(flight: Flight) -> None:
    decoded, _, _ = timeline(flight)
    last: dict[str, int] = defaultdict(int)
    for piece in decoded.slices:
        assert last[piece.track] <= piece.from_ns <= piece.to_ns
        last[piece.track] = piece.to_ns


def test_slices_are_named_by_what_they_are(flight: Flight) -> None:
    decoded, _, _ = timeline(flight)
    labels = flight.labels
    for piece in decoded.slices:
        op = piece.notes["op"]
        kind, cause = KINDS[labels.kind[op]], CAUSES[labels.cause[op]]
        category = {"demand": "demand load"}.get(cause, cause) if kind == "copy" else kind
        assert piece.category == category
        expert = int(labels.expert[op])
        assert piece.name == (category if expert < 0 else f"{category} {expert}")
        assert piece.notes.get("expert", -1) == expert
        assert piece.notes.get("layer", -1) == labels.layer[op]
        assert piece.notes["step"] == labels.step[op]
    assert {"demand load", "prefetch", "expert", "sync", "issue"} <= {piece.category for piece in decoded.slices}


def test_flows_lead_from_each_load_to_its_first_use(flight: Flight) -> None:
    decoded, _, _ = timeline(flight)
    starts = {flow: piece for piece in decoded.slices for flow in piece.flows}
    ends = {flow: piece for piece in decoded.slices for flow in piece.ends_flows}
    assert set(starts) == set(ends)
    assert sum(len(piece.ends_flows) for piece in decoded.slices) == len(ends)
    for flow, load in starts.items():
        use = ends[flow]
        assert load.category in ("demand load", "prefetch")
        assert use.category in ("expert", "gather")
        assert (load.notes["expert"], load.notes["layer"] <= use.notes["layer"]) == (use.notes["expert"], True)
        assert load.to_ns <= use.from_ns
    loaded = {piece.notes["op"] for piece in decoded.slices if piece.category == "demand load"}
    assert loaded == {piece.notes["op"] for piece in starts.values() if piece.category == "demand load"}


def test_pools_count_what_is_lent(flight: Flight) -> None:
    decoded, _, _ = timeline(flight)
    assert set(decoded.units) == {"gpu.memory", "cpu.memory"}
    assert set(decoded.units.values()) == {proto.CounterDescriptor.UNIT_SIZE_BYTES}
    pool, at_ps, held = pool_levels(flight)
    assert decoded.counts["gpu.memory"] == [(ps // 1000, amount) for number, ps, amount in
                                            zip(pool.tolist(), at_ps.tolist(), held.tolist(), strict=True)
                                            if flight.pools[number].name == "gpu.memory"]
    for number, amount in zip(pool.tolist(), held.tolist(), strict=True):
        assert 0 <= amount <= flight.pools[number].capacity


def test_pool_levels_by_hand() -> None:
    from emulation.ops import Lane, Pool

    from .test_attribution import Story

    story = Story([Lane("x"), Lane("y")], [Pool("p", 4), Pool("q", 9)])
    a = story.op("expert", {"x": 10}, takes=[(0, 3, 3), (1, 9, 5)])
    story.ops.release(story.ops.take_handle(a), after=[a])
    b = story.op("expert", {"y": 20}, takes=[(0, 2, 2)])
    story.ops.release(story.ops.take_handle(b), after=[b])
    pool, at_ps, held = pool_levels(story.flight())
    # at 10 the first gives 3 back and the second, which needed 2 of 4, takes 2
    rows = [(0, 0, 3), (1, 0, 5), (0, 10, 2), (0, 30, 0)]
    assert list(zip(pool.tolist(), at_ps.tolist(), held.tolist(), strict=True)) == rows


def test_a_window_holds_the_slices_that_touch_it(flight: Flight) -> None:
    whole, _, _ = timeline(flight)
    first_ps, last_ps = flight.horizon_ps // 3, flight.horizon_ps // 2
    decoded, written, _ = timeline(flight, Extent(first_ps / 1e12, last_ps / 1e12))
    expected = [piece.notes["op"] for piece in whole.slices
                if piece.notes["from_ps"] + piece.notes["held_ps"] >= first_ps and piece.notes["from_ps"] <= last_ps]
    assert [piece.notes["op"] for piece in decoded.slices] == expected
    assert 0 < len(expected) < len(whole.slices)
    assert written.truncated is None
    # the level of a pool at the window's beginning is what was lent before it
    before = [amount for ns, amount in whole.counts["gpu.memory"] if ns * 1000 < first_ps]
    assert decoded.counts["gpu.memory"][0] == (first_ps // 1000, before[-1])


def test_a_cap_cuts_the_timeline_and_says_so(flight: Flight) -> None:
    whole, _, data = timeline(flight)
    cap = 64 * 2**10
    assert len(data) > cap
    decoded, written, cut = timeline(flight, Extent(cap_bytes=cap))
    assert cap - 1024 < len(cut) <= cap
    assert [s.notes["op"] for s in decoded.slices] == [s.notes["op"] for s in whole.slices[:len(decoded.slices)]]
    assert (written.slices, written.of) == (len(decoded.slices), len(whole.slices))
    assert written.truncated is not None
    assert written.truncated.endswith(f"{cap} bytes hold {written.slices} of {written.of} slices; choose a window or a "
                                      "larger cap")
    assert decoded.instants == [("cut short", decoded.instants[0][1], written.truncated)]
    assert decoded.instants[0][1] >= decoded.slices[-1].from_ns


def test_a_window_or_cap_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="its end is no earlier"):
        Extent(2.0, 1.0)
    with pytest.raises(ValueError, match="the least is 65536"):
        Extent(cap_bytes=10)


def test_a_timeline_is_the_same_bytes_again(flight: Flight) -> None:
    scheduler, _ = run(policy_of("lru_prefetch", slots=4), feed(3, (0, 10**9)))
    assert timeline(flight)[2] == timeline(read_flight(scheduler))[2]


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**31, 2**63 - 1, -1, -(2**63)])
def test_integers_are_what_protocol_buffers_read(value: int) -> None:
    note = proto.DebugAnnotation(int_value=value)
    assert b"\x20" + varint(value) == note.SerializeToString()
