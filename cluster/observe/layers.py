"""A few layers of a run, operation by operation, small enough to lie beside its result and to be drawn.

`layers_of` takes them from what a run kept of its operations: the middle MoE layer of the decode step of median
length, the same of a prefill step, and further layers of these steps as far as there is room.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError, model_validator

from actors.scheduler import StepTimes
from cluster.observe.attribution import COPY, LABELS, paths, work_label
from cluster.observe.flight import Flight
from cluster.observe.schema import Part
from cluster.observe.store import Store, folder_of
from emulation.errors import InputError
from emulation.lowering.emit import KINDS
from emulation.reading import parse_json, read_bytes

Ints = NDArray[np.int64]

LAYERS_FILE = "layers.json"
SCHEMA_VERSION = 1
LARGEST_BYTES = 16 << 20
MOST_SPANS = 1000
"""Spans of one layer; where it has more, short neighbours of one kind are shown as one."""
ROOM_SPANS = 4000
"""Spans of the whole file, beyond those of the first layer of each phase."""
MOST_MARKS = 200
COARSER = (4096, 2048, 1024, 512, 256, 128, 64)
"""Where there are too many spans, those of one kind that start within such a part of a layer are put together."""
NO = -1
_OF_EXPERTS = [KINDS.index(kind) for kind in ("expert", "einsum")]
_AHEAD = LABELS.index(COPY["prefetch"])


class Track(Part):
    """A lane of the machine: its name, the device that it belongs to, how many operations it carries at once."""

    lane: str
    device: str
    servers: int


class Spans(Part):
    """When operations held a lane; one a place in each column, by lane, server and time.

    lane, what: places in the file's `tracks` and `whats`. from_ps, to_ps: from the layer's begin. op: serial. expert:
    -1 of none. bytes: that a copy moves. is_own: of this layer, and not of another at the same time. on_path: on the
    step's critical path. count: how many neighbours it stands for (then op, expert are the first's).
    """

    lane: tuple[int, ...]
    server: tuple[int, ...]
    from_ps: tuple[int, ...]
    to_ps: tuple[int, ...]
    op: tuple[int, ...]
    what: tuple[int, ...]
    expert: tuple[int, ...]
    bytes: tuple[int, ...]
    is_own: tuple[bool, ...]
    on_path: tuple[bool, ...]
    count: tuple[int, ...]

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if len({len(getattr(self, name)) for name in type(self).model_fields}) > 1:
            raise ValueError("its columns have different lengths")
        return self

    def __len__(self) -> int:
        return len(self.op)


class LayerSpans(Part):
    """One layer of one step, from the start of its first operation to the end of its last (prefetches aside).

    phase: prefill or decode. tokens: of the step. begin_ps: emulated time. step_ps: the step's length. of_spans: how
    many there were before neighbours were shown as one. decisions_ps: when plans came; marks: (instant, what happened
    then); both from begin_ps.
    """

    phase: str
    step: int
    layer: int
    tokens: int
    begin_ps: int
    length_ps: int
    step_ps: int
    spans: Spans
    of_spans: int
    decisions_ps: tuple[int, ...]
    marks: tuple[tuple[int, str], ...]


class Layers(Part):
    """layers.json. digest: of the result that it belongs to. is_whole: whether all steps of the run were there to
    choose from, and not the first ones only."""

    schema_version: int = SCHEMA_VERSION
    digest: str
    is_whole: bool
    tracks: tuple[Track, ...]
    whats: tuple[str, ...]
    layers: tuple[LayerSpans, ...]

    @model_validator(mode="after")
    def _known(self) -> Self:
        for layer in self.layers:
            for name, most in (("lane", len(self.tracks)), ("what", len(self.whats))):
                if any(not 0 <= at < most for at in getattr(layer.spans, name)):
                    raise ValueError(f"layers: step {layer.step}, layer {layer.layer}: a {name} that it does not list")
        return self

    def of(self, step: int | None = None, layer: int | None = None, phase: str | None = None) -> LayerSpans | None:
        """The first layer that is this one, as far as it is said; None where there is none."""
        return next((each for each in self.layers if step in (None, each.step) and layer in (None, each.layer)
                     and phase in (None, each.phase)), None)

    def to_json(self) -> str:
        """The text of layers.json, on one line."""
        return self.model_dump_json() + "\n"


def read_layers(data: bytes, digest: str, where: str = LAYERS_FILE) -> Layers:
    """The layers in a file's bytes. InputError where it is no such file, or one of another result."""
    if len(data) > LARGEST_BYTES:
        raise InputError(f"{where} is above {LARGEST_BYTES} bytes, the most that is read")
    found = parse_json(data, where)
    version = found.get("schema_version") if isinstance(found, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(f"{where} has schema version {version}; this moelab reads {SCHEMA_VERSION}: run it again")
    try:
        layers = Layers.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        parts = [*map(str, first["loc"]), first["msg"].removeprefix("Value error, ")]
        raise InputError(f"{where}: {': '.join(('.'.join(parts[:-1]), parts[-1]) if parts[:-1] else parts)}") from None
    if layers.digest != digest:
        raise InputError(f"{where} belongs to another result ({layers.digest[:16]}, not {digest[:16]}): run it again")
    return layers


def stored_layers(path: str | Path, digest: str) -> Layers | None:
    """The layers beside a result: in the folder of a run, which may be a URL, or in that of a result.json. None where
    none were written."""
    folder = folder_of(path)
    if isinstance(folder, Store):
        data = folder.read(LAYERS_FILE)
        return None if data is None else read_layers(data, digest, str(folder / LAYERS_FILE))
    file = (folder if folder.is_dir() else folder.parent) / LAYERS_FILE
    return read_layers(read_bytes(file, "layers", LARGEST_BYTES), digest, str(file)) if file.is_file() else None


def layers_of(flight: Flight, digest: str, *, step: int | None = None,
              layer: int | None = None) -> Layers:
    """What is worth drawing of a run; or what is asked for.

    step, layer: of the first layer that is taken; without them the middle MoE layer of a step of median length, of each
    phase. InputError where the run has no such step or layer among the operations that were kept.
    """
    cut = _Cut(flight)
    chosen = cut.choose(step)
    first, more = list[LayerSpans](), list[Iterator[LayerSpans]]()
    for times in chosen:
        ids = cut.layers(times)
        if not ids:
            continue
        if layer is not None and layer not in ids:
            raise InputError(f"step {times.number} has no layer {layer} with experts: it has {_listed(ids)}")
        middle = ids[(len(ids) - 1) // 2] if layer is None else layer
        first.append(cut.layer(times, middle))
        near = sorted((each for each in ids if each != middle), key=lambda each: (abs(each - middle), each))
        more.append(cut.layer(times, each) for each in near)
    room = 0 if layer is not None and step is not None else ROOM_SPANS
    kept = [*first, *chain(*(_within(room // len(more), found) for found in more))]
    tracks = tuple(Track(lane=lane.name, device=owner, servers=lane.servers)
                   for lane, owner in zip(flight.lanes, flight.owners, strict=True))
    return Layers(digest=digest, is_whole=flight.is_whole, tracks=tracks, whats=LABELS, layers=tuple(kept))


def _within(room: int, found: Iterator[LayerSpans]) -> Iterator[LayerSpans]:
    for each in found:
        room -= len(each.spans)
        if room < 0:
            return
        yield each


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:6]))
    return shown if len(numbers) <= 6 else f"{shown} ... {numbers[-1]}"


class _Cut:
    """Cuts layers out of a flight."""

    def __init__(self, flight: Flight) -> None:
        self.flight = flight
        self.steps = [each for each in flight.steps if 0 <= each.end_op < len(flight.start_ps)]
        self._what, self._by = work_label(flight), paths(flight).op
        behind = np.unique(flight.behind[flight.behind >= 0])
        self._decided_ps = np.unique(flight.end_ps[behind])

    def choose(self, number: int | None) -> list[StepTimes]:
        """The decode step of median length and such a prefill step; or the one that is asked for."""
        if number is not None:
            found = [each for each in self.steps if each.number == number]
            if not found:
                kept = _listed([each.number for each in self.steps]) if self.steps else "none"
                raise InputError(f"there is no step {number} among the operations that are kept: steps {kept} are")
            return found
        groups = ([s for s in self.steps if not s.prefill_tokens], [s for s in self.steps if s.prefill_tokens])
        return [sorted(group, key=lambda s: (s.end_ps - s.begin_ps, s.number))[(len(group) - 1) // 2]
                for group in groups if group]

    def layers(self, step: StepTimes) -> list[int]:
        """The layers of a step in which experts ran."""
        labels = self.flight.labels
        ran = (labels.step == step.number) & np.isin(labels.kind, _OF_EXPERTS) & (labels.layer >= 0)
        found: list[int] = np.unique(labels.layer[ran]).tolist()
        return found

    def layer(self, step: StepTimes, layer: int) -> LayerSpans:
        """One layer, with what else ran meanwhile."""
        flight, rows = self.flight, self.flight.rows
        own = (flight.labels.step == step.number) & (flight.labels.layer == layer)
        core = own & (self._what != _AHEAD)
        begin_ps, end_ps = int(flight.start_ps[core].min()), int(flight.end_ps[core].max())
        row = np.flatnonzero((rows.to_ps > rows.from_ps) & (rows.to_ps > begin_ps) & (rows.from_ps < end_ps))
        op = rows.op[row]
        path = self._path(step, begin_ps)
        table = np.stack([rows.lane[row], self._servers(row), rows.from_ps[row] - begin_ps, rows.to_ps[row] - begin_ps,
                          op, self._what[op], flight.labels.expert[op], flight.labels.bytes[op], own[op], path[op],
                          np.ones(len(op), np.int64)])
        spans = _fewer(table, end_ps - begin_ps)
        columns = dict(zip(Spans.model_fields, spans.tolist(), strict=True))
        decided = self._decided_ps[(self._decided_ps >= begin_ps) & (self._decided_ps <= end_ps)] - begin_ps
        return LayerSpans(
            phase="prefill" if step.prefill_tokens else "decode", step=step.number, layer=layer,
            tokens=step.prefill_tokens + step.decode_tokens, begin_ps=begin_ps, length_ps=end_ps - begin_ps,
            step_ps=step.end_ps - step.begin_ps,
            spans=Spans(**{name: tuple(map(bool, values) if name in ("is_own", "on_path") else values)
                           for name, values in columns.items()}),
            of_spans=len(op), decisions_ps=tuple(decided[:MOST_MARKS].tolist()),
            marks=tuple((at_ps - begin_ps, what) for at_ps, what in flight.marks
                        if begin_ps <= at_ps <= end_ps)[:MOST_MARKS])

    def _path(self, step: StepTimes, begin_ps: int) -> NDArray[np.bool_]:
        """The operations that the step's end waited for, one behind the other, back to an instant."""
        found = np.zeros(len(self._by), np.bool_)
        op = step.end_op
        while op >= 0 and not found[op] and self.flight.end_ps[op] >= begin_ps:
            found[op] = True
            op = int(self._by[op])
        return found

    def _servers(self, row: Ints) -> Ints:
        """The server of its lane that each row is shown on: the lowest that is free."""
        rows, out = self.flight.rows, np.zeros(len(row), np.int64)
        free: dict[tuple[int, int], int] = {}
        several = np.array([lane.servers > 1 for lane in self.flight.lanes], np.bool_)
        for i in np.flatnonzero(several[rows.lane[row]]).tolist():
            lane, server = int(rows.lane[row[i]]), 0
            while free.get((lane, server), 0) > rows.from_ps[row[i]]:
                server += 1
            free[lane, server], out[i] = int(rows.to_ps[row[i]]), server
        return out


def _fewer(table: Ints, length_ps: int) -> Ints:
    """Spans, of which neighbours of one kind are put together until there are MOST_SPANS at most; by lane and time."""
    for part in COARSER:
        if table.shape[1] <= MOST_SPANS:
            break
        lane, server, from_ps, to_ps, _, what, _, bytes_, own, path, count = table
        key = np.stack([from_ps * part // max(length_ps, 1), what, own, path, server, lane])
        order = np.lexsort((from_ps, *key))
        at = np.flatnonzero(np.concatenate([[True], (np.diff(key[:, order]) != 0).any(axis=0)]))
        table = table[:, order][:, at]
        table[3] = np.maximum.reduceat(to_ps[order], at)
        table[7], table[10] = (np.add.reduceat(column[order], at) for column in (bytes_, count))
    if table.shape[1] > MOST_SPANS:
        table = table[:, np.argsort(table[2] - table[3], kind="stable")[:MOST_SPANS]]
    kept: Ints = table[:, np.lexsort((table[4], table[2], table[1], table[0]))]
    return kept
