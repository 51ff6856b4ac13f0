"""What a policy decides for one layer: run these there, fetch those, evict that. In program order, in columns."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.errors import PlanError
from emulation.ops import DEMAND
from emulation.streams import BY_TWO_SLOTS, Handing, Mask, Streams, joined, streams_of

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

RUN = 0
LOAD = 1
EVICT = 2

NOBODY = -1
ALL_TOKENS = -1
ALL_PARTS = -1

UNICAST = "unicast"
BROADCAST = "broadcast"
ALL_TO_ALL = "all_to_all"
EXCHANGES = (UNICAST, BROADCAST, ALL_TO_ALL)
"""How activations travel: a message for each pair of devices; one message that all receive; one collective."""


UNEVEN = 0


class Gating(NamedTuple):
    """How rows get to the devices of their experts and back, by one all-to-all each way (arXiv 2303.06182, section 4).

    capacity: rows of each expert that every home sends, filled up with zeros; each expert that the plan runs computes
    all of them, those of experts to whom nobody is routed, too. UNEVEN: as many as are routed to it, and no more.
    mask: a dense mask picks the rows out and adds them up again, with a row of all capacities for each token. Else they
    are put in order by index; then an all-to-all of sizes goes first. overlap: it runs beside the ordering of rows.
    """

    capacity: int = UNEVEN
    mask: bool = False
    overlap: bool = True


class Served(NamedTuple):
    """The routing that a policy serves where it is not the routing that it was given: one row for each pair.

    token [n], expert [n], weight [n]; input_layer [n]: the model layer whose hidden state the expert is fed.
    routed [n]: the routed expert that the pair stands for, `expert` itself where nothing is substituted. A routed pair
    that no row stands for is dropped. Rows of one token and one expert are one run, with the sum of their weights.
    """

    token: Ints
    expert: Ints
    weight: Floats
    input_layer: Ints
    routed: Ints


class Row(NamedTuple):
    """One line of a plan."""

    verb: int
    layer: int
    expert: int
    part: int
    device: int
    victim: int
    priority: int
    tokens: int
    wake: bool = False


COLUMNS = ("verb", "layer", "expert", "part", "device", "victim", "priority")
"""Rows of a plan that are plain (for all tokens, waking nobody), as columns."""


@dataclass
class Plan:
    """Rows in program order. The readable way to write one is `run`, `load` and `evict`; `extend` writes many at once.

    layer is a model layer; part is ALL_PARTS or one slice of an expert; tokens is ALL_TOKENS (those routed to the
    expert) or an index into token_sets. served is None where the policy serves the routing that it was given. With
    `wake`, the policy's `wake` is asked for a further fragment of the plan when what the row does has ended.
    `stream` sends parts of this layer's experts through devices, by the rules of `handing`, behind all rows.
    gating: what is done for this layer's runs in place of `exchange`.
    """

    layer: int
    exchange: str = UNICAST
    gating: Gating | None = None
    token_sets: list[Ints] = field(default_factory=list)
    served: Served | None = None
    handing: Handing = BY_TWO_SLOTS
    _streams: list[Streams] = field(default_factory=list)
    _rows: list[Row] = field(default_factory=list)
    _blocks: list[Ints] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        """The rows, one by one."""
        if self._blocks:
            self._rows += [row for block in self._blocks for row in _rows_in(block)]
            self._blocks = []
        return self._rows

    @rows.setter
    def rows(self, rows: list[Row]) -> None:
        self._rows, self._blocks = rows, []

    def columns(self) -> Ints | None:
        """The rows as COLUMNS [7, rows]; None of a plan that is more than they can say. Runs of a later layer are for
        the `token_sets`, one each, in order; what is `served` is told beside."""
        if self.gating is not None or self._streams:
            return None
        if not self._rows and not self.token_sets:
            if len(self._blocks) == 1:
                return self._blocks[0]
            return np.concatenate(self._blocks, axis=1) if self._blocks else np.empty((len(COLUMNS), 0), np.int64)
        if not self.rows:
            return None
        *columns, tokens, wakes = zip(*self.rows, strict=True)
        named = [number for number in tokens if number != ALL_TOKENS]
        early = [number for verb, layer, number in zip(*columns[:2], tokens, strict=True)
                 if verb == RUN and layer != self.layer]
        if any(wakes) or named != early or named != list(range(len(self.token_sets))):
            return None
        found = np.array(columns)
        return found.astype(np.int64, copy=False) if found.dtype.kind == "i" else None

    def extend(self, verb: Ints | int, expert: Ints, device: Ints | int, *, part: Ints | int = ALL_PARTS,
               layer: int | None = None, victim: Ints | int = NOBODY, priority: int = DEMAND) -> None:
        """Many rows at once, [rows] each or one for all: RUN, LOAD (over a victim or NOBODY) and EVICT."""
        block = np.empty((len(COLUMNS), len(expert)), np.int64)
        for i, column in enumerate((verb, self.layer if layer is None else layer, expert, part, device, victim,
                                    priority)):
            if np.asarray(column).dtype.kind not in "iub":
                raise PlanError(f"a plan's {COLUMNS[i]} is {np.asarray(column).dtype}: it is whole numbers")
            block[i] = column
        self._append(block)

    def fetch_and_run(self, experts: Ints, on: int, over: Ints) -> None:
        """Many whole experts in turn, [experts]: each is copied over its victim and run."""
        block = np.empty((len(COLUMNS), len(experts), 2), np.int64)
        block[0] = LOAD, RUN
        block[1], block[3], block[4], block[6] = self.layer, ALL_PARTS, on, DEMAND
        block[2] = experts[:, None]
        block[5, :, 0], block[5, :, 1] = over, NOBODY
        self._append(block.reshape(len(COLUMNS), -1))

    def _append(self, block: Ints) -> None:
        if self._rows:
            self.rows.extend(_rows_in(block))
        else:
            self._blocks.append(block)

    def run(self, expert: int, on: int, *, part: int = ALL_PARTS, tokens: Ints | Sequence[int] | None = None,
            layer: int | None = None, wake: bool = False) -> None:
        """Run an expert (or one part) on a device, for the tokens routed to it or for those named.

        With a later `layer`, the run is early: it is fed this layer's hidden state and combined in that layer.
        """
        tokens_index = ALL_TOKENS
        if tokens is not None:
            self.token_sets.append(_rows_of(tokens, expert))
            tokens_index = len(self.token_sets) - 1
        self.rows.append(Row._make((RUN, self.layer if layer is None else layer, int(expert), int(part), int(on),
                                    NOBODY, DEMAND, tokens_index, wake)))

    def load(self, expert: int, to: int, *, part: int = ALL_PARTS, layer: int | None = None, over: int = NOBODY,
             priority: int = DEMAND, wake: bool = False) -> None:
        """Copy an expert (or one part) from where it rests; with `over`, into the place of that expert of the layer."""
        self.rows.append(Row(LOAD, self.layer if layer is None else layer, int(expert), int(part), int(to), int(over),
                             int(priority), ALL_TOKENS, wake))

    def evict(self, expert: int, of: int, *, part: int = ALL_PARTS, layer: int | None = None) -> None:
        """Drop a copy after its last use."""
        self.rows.append(Row(EVICT, self.layer if layer is None else layer, int(expert), int(part), int(of), NOBODY,
                             DEMAND, ALL_TOKENS))

    def stream(self, expert: int, part: int, along: Sequence[int], *, wake: bool = False) -> None:
        """A part comes from where it rests to the first device and is handed on; each runs it for its own tokens."""
        self._streams.append(streams_of(np.array([expert]), np.array([part]), [along], wake))

    def stream_all(self, expert: Ints, part: Ints, path_ptr: Ints, path: Ints, *, wake: Mask | bool = False) -> None:
        """Many at once, in order: expert, part [n]; path[path_ptr[i]:path_ptr[i + 1]]: devices of the i-th."""
        self._streams.append(streams_of(expert, part, (path_ptr, path), wake))

    @property
    def streams(self) -> Streams | None:
        """All streams, in order."""
        if len(self._streams) > 1:
            self._streams = [joined(self._streams)]
        return self._streams[0] if self._streams else None

    @property
    def wakes(self) -> bool:
        """Whether anything in it wakes the policy."""
        return any(row.wake for row in self.rows) or any(bool(each.wake.any()) for each in self._streams)

    def add(self, fragment: "Plan") -> None:
        """Put a fragment's rows behind these."""
        self._streams += fragment._streams
        shift = len(self.token_sets)
        self.token_sets += fragment.token_sets
        self.rows += [row if row.tokens == ALL_TOKENS else row._replace(tokens=row.tokens + shift)
                      for row in fragment.rows]


class StepPlan(NamedTuple):
    """Plans of all MoE layers of a step that are plain: rows, COLUMNS [7, rows], those of MoE layer l at
    ptr[l]:ptr[l + 1], [moe_layers + 1]; one exchange for all."""

    rows: Ints
    ptr: Ints
    exchange: str = UNICAST


def plain_rows(verb: Ints | int, layer: Ints, expert: Ints, device: Ints | int, *, part: Ints | int = ALL_PARTS,
               victim: Ints | int = NOBODY) -> Ints:
    """Rows as COLUMNS [7, rows] of demand: [rows] each, or one for all."""
    block = np.empty((len(COLUMNS), len(expert)), np.int64)
    block[0], block[1], block[2], block[3], block[4], block[5], block[6] = (
        verb, layer, expert, part, device, victim, DEMAND)
    return block


def _rows_in(block: Ints) -> list[Row]:
    return [Row._make([*row, ALL_TOKENS, False]) for row in block.T.tolist()]


def _rows_of(tokens: Ints | Sequence[int], expert: int) -> Ints:
    rows = np.array(tokens)
    if rows.ndim != 1 or (rows.dtype.kind not in "ui" and rows.size):
        raise PlanError(f"a run of expert {expert} names tokens {rows.dtype} {list(rows.shape)}: they are whole row "
                        "numbers in one dimension")
    return rows.astype(np.int64, copy=False)
