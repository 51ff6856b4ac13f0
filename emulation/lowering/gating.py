"""Lowers a gating: rows put in order or masked, the all-to-alls of sizes and of rows (arXiv 2303.06182, section 4).

With S tokens on a home, d values in a row, k experts a token and R rows that the home sends (k S, or experts times
capacity where rows are filled up), costs and memory by closed form:

| what | mask | index |
|---|---|---|
| on the way out | masks written: 2 S R values; product S x R by S x d | k S ids sorted; R rows copied |
| sizes | none: all are known | 8 bytes an expert (uneven) or a device (the capacity) |
| where experts run | rows lie by expert | uneven: R' rows copied, to lie by expert, and back |
| on the way back | product R x S by R x d | k S rows copied; k S rows added |
| memory at home | masks 2 S R, rows out and back 2 R d | ids and index 16 k S bytes, rows out and back 2 R d |
| memory where experts run | rows in and out 2 R' d, the widest expert's inner rows | the same |
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from emulation.lowering.dense import Hidden
from emulation.lowering.emit import Emitter
from emulation.model import Model, ceil
from emulation.ops import Edge
from emulation.plan import UNEVEN, Gating
from emulation.view import Step

Ints = NDArray[np.int64]

ID_BYTES = 8
"""Of an expert's id, an index or a count: int64."""
SORT_PASSES = 8
"""A radix sort of int64 goes over its keys once a byte, and reads and writes id and index in each pass."""


@dataclass
class Gated:
    """What a layer's gating sends: tokens and (token, expert) pairs of each home; (home, device) -> rows.

    known: edges after which the devices know which of their experts are active, where they must be told.
    """

    gating: Gating
    tokens: dict[int, int]
    pairs: dict[int, int]
    rows: dict[tuple[int, int], int]
    known: list[Edge] = field(default_factory=list)

    @property
    def each(self) -> int:
        """Rows that every run computes; 0: those routed to it."""
        return self.gating.capacity * len(self.tokens)

    def sent(self, home: int) -> int:
        """Rows that a home sends, those to itself included."""
        return sum(rows for (source, _), rows in self.rows.items() if source == home)

    def received(self, device: int) -> int:
        """Rows that a device gets, those of its own included."""
        return sum(rows for (_, target), rows in self.rows.items() if target == device)


class Gate:
    """Writes what gating adds around the runs of a layer. peak_bytes [devices]: the most activations that it holds."""

    def __init__(self, emit: Emitter, model: Model) -> None:
        self._emit, self._model = emit, model
        self.peak_bytes = np.zeros(len(emit.machine.devices), np.int64)

    def out(self, gating: Gating, runs: Sequence[tuple[int, Ints]], step: Step,
            hidden: Hidden) -> tuple[Gated, dict[int, list[Edge]]]:
        """Rows on their way to their experts; (what is sent, device -> edges after which its rows are there).

        runs: device and tokens of each run, in the plan's order.
        """
        gated = self._gated(gating, runs, step, hidden)
        self._hold(gated, runs)
        devices = list(dict.fromkeys(device for device, _ in runs))
        ordered = {home: self._order(gated, home, edges) for home, edges in hidden.items()}
        if not gating.mask:
            gated.known = [edge for edges in ordered.values() for edge in edges]
            share = ID_BYTES if gating.capacity else None
            sizes = {(home, device): share or ID_BYTES * sum(on == device for on, _ in runs)
                     for home in hidden for device in devices if home != device}
            if sizes:
                gated.known = [Edge(self._emit.collective(sizes, "dispatch", gated.known))]
        waits = gated.known if gating.capacity or not gating.overlap else []
        ready = {home: self._pick(gated, home, [*edges, *waits]) for home, edges in ordered.items()}
        return gated, self._arrivals(gated, devices, ready)

    def back(self, gated: Gated, ended: dict[int, list[Edge]], sums: Hidden) -> None:
        """Results on their way home, where they are added up. ended: device -> the ends of its runs."""
        amounts = {(device, home): self._model.token_row_bytes(rows)
                   for (home, device), rows in gated.rows.items() if home != device and rows}
        ended = {device: self._by_expert(gated, device, edges) for device, edges in ended.items()}
        after = [edge for device, edges in ended.items() for edge in self._synced(device, edges)]
        back = [Edge(self._emit.collective(amounts, "return", after))] if amounts else []
        for home, tokens in gated.tokens.items():
            edges = [*back, *ended.get(home, ())]
            if gated.gating.mask:
                sums[home] += self._product(home, tokens, gated.sent(home), edges)
            elif gated.pairs[home]:
                row_bytes = self._model.token_row_bytes(gated.pairs[home])
                edges = self._emit.kernel(home, "gather", 2 * row_bytes, 0, edges)
                sums[home] += self._emit.kernel(home, "reduce", 3 * row_bytes,
                                                gated.pairs[home] * self._model.d_model, edges)
            else:
                sums[home] += edges

    def _gated(self, gating: Gating, runs: Sequence[tuple[int, Ints]], step: Step, hidden: Hidden) -> Gated:
        homes = list(hidden)
        count = {home: int((step.home == home).sum()) for home in homes}
        pairs = dict.fromkeys(homes, 0)
        rows: dict[tuple[int, int], int] = {}
        for device, tokens in runs:
            found = np.bincount(step.home[tokens], minlength=max(homes) + 1)
            for home in homes:
                pairs[home] += int(found[home])
                rows[home, device] = rows.get((home, device), 0) + (gating.capacity or int(found[home]))
        return Gated(gating, count, pairs, rows)

    def _order(self, gated: Gated, home: int, edges: list[Edge]) -> list[Edge]:
        """Which rows go where: dense masks, or a sorted index."""
        if gated.gating.mask:
            return self._emit.kernel(home, "mask", self._mask_bytes(gated, home), 0, edges)
        bytes_ = 2 * 2 * ID_BYTES * SORT_PASSES * gated.pairs[home]
        return self._emit.kernel(home, "sort", bytes_, 0, edges)

    def _pick(self, gated: Gated, home: int, edges: list[Edge]) -> list[Edge]:
        """The rows of a home as they are sent."""
        sent = gated.sent(home)
        if gated.gating.mask:
            return self._product(home, gated.tokens[home], sent, edges)
        return self._emit.kernel(home, "gather", 2 * self._model.token_row_bytes(sent), 0, edges) if sent else edges

    def _product(self, home: int, tokens: int, rows: int, edges: list[Edge]) -> list[Edge]:
        """A dense mask times rows; where the hardware file has no cost for that, what adding the rows up costs."""
        d = self._model.d_model
        kernels = self._emit.machine.devices[home].kernels
        if "einsum" not in kernels:
            return self._emit.kernel(home, "reduce", 3 * self._model.token_row_bytes(rows), rows * d, edges)
        values = tokens * rows + (tokens + rows) * d
        return self._emit.kernel(home, "einsum", ceil(values * self._model.activation_bytes), 2 * tokens * rows * d,
                                 edges)

    def _mask_bytes(self, gated: Gated, home: int) -> int:
        """Of both masks: which rows are sent, and with which weights they are added up."""
        return ceil(2 * gated.tokens[home] * gated.sent(home) * self._model.activation_bytes)

    def _arrivals(self, gated: Gated, devices: list[int], ready: dict[int, list[Edge]]) -> dict[int, list[Edge]]:
        amounts = {(home, device): self._model.token_row_bytes(rows)
                   for (home, device), rows in gated.rows.items() if home != device and rows}
        sent: list[Edge] = []
        if amounts:
            waits = list(dict.fromkeys([*(edge for edges in ready.values() for edge in edges), *gated.known]))
            sent = [Edge(self._emit.collective(amounts, "dispatch", waits))]
        there = {device: [*ready.get(device, ()), *self._synced(device, sent)] for device in devices}
        return {device: self._by_expert(gated, device, edges) for device, edges in there.items()}

    def _by_expert(self, gated: Gated, device: int, edges: list[Edge]) -> list[Edge]:
        """Uneven rows lie by home as they come and go, and by expert where they are computed."""
        rows = gated.received(device) if gated.gating.capacity == UNEVEN else 0
        return self._emit.kernel(device, "gather", 2 * self._model.token_row_bytes(rows), 0, edges) if rows else edges

    def _synced(self, device: int, edges: list[Edge]) -> list[Edge]:
        """A host waits for what a device without one gets and gives; elsewhere nobody does."""
        machine = self._emit.machine
        hosts = [home for home in machine.homes if machine.devices[home].issuer is not None and home != device]
        if machine.devices[device].issuer is not None or not hosts:
            return edges
        return [edge for home in hosts for edge in self._emit.sync(home, edges)]

    def _hold(self, gated: Gated, runs: Sequence[tuple[int, Ints]]) -> None:
        """Note the activations of this layer; the table of the module says what they are."""
        model = self._model
        held = np.zeros_like(self.peak_bytes)
        for home in gated.tokens:
            index = 2 * ID_BYTES * gated.pairs[home]
            held[home] += self._mask_bytes(gated, home) if gated.gating.mask else index
            held[home] += 2 * model.token_row_bytes(gated.sent(home))
        inner = ceil((model.matrices - 1) * model.d_ff * model.activation_bytes)
        for device in dict.fromkeys(device for device, _ in runs):
            widest = max(gated.each or len(tokens) for on, tokens in runs if on == device)
            held[device] += 2 * model.token_row_bytes(gated.received(device)) + widest * inner
        self.peak_bytes = np.maximum(self.peak_bytes, held)
