"""Lowers a plan: activations out, shards in, experts run, results back and summed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.ledger import Ledger
from emulation.lowering.copies import Copies
from emulation.lowering.dense import Hidden
from emulation.lowering.emit import NO, Emitter
from emulation.lowering.gating import Gate, Gated
from emulation.model import Model
from emulation.ops import DEMAND, Edge
from emulation.plan import ALL_PARTS, ALL_TO_ALL, BROADCAST, EVICT, LOAD, NOBODY, RUN, UNICAST, Plan, Row
from emulation.validate import Assignment
from emulation.view import Step

Ints = NDArray[np.int64]


@dataclass
class Visit:
    """What one device does for one layer: the rows it is sent, when they arrive, and its runs.

    tokens: home -> the distinct token rows that come from there.
    """

    device: int
    tokens: dict[int, Ints]
    arrived: list[Edge] | None = None
    ends: list[Edge] = field(default_factory=list)

    @property
    def rows(self) -> dict[int, int]:
        """Home -> how many rows."""
        return {home: len(tokens) for home, tokens in self.tokens.items()}


class Load(NamedTuple):
    """A copy that was issued: where, what, which operation, and whether nothing waited for it yet."""

    device: int
    moe: int
    expert: int
    part: int
    op: int
    prefetch: bool


class Issued(NamedTuple):
    """A plan's visits to devices for its layer; operation -> the row at whose end the policy is to be woken."""

    visits: list[Visit]
    woken: dict[int, Row]
    gated: Gated | None = None


class Experts:
    """Lowers plans, layer by layer; keeps early visits until their layer comes."""

    def __init__(self, emit: Emitter, model: Model, ledger: Ledger, copies: Copies, gate: Gate) -> None:
        self._emit, self._model, self._ledger, self._copies, self.gate = emit, model, ledger, copies, gate
        self._early: dict[int, list[Visit]] = {}
        self._loads: list[Load] = []
        self._moe_of = {layer: moe for moe, layer in enumerate(model.moe_layers)}
        self._columns = [model.columns(part, ledger.start.parts) for part in range(ledger.start.parts)]
        self._work, self._row_bytes = cache(model.expert_work), cache(model.token_row_bytes)

    def issue(self, plan: Plan, assignments: Sequence[Assignment], step: Step, hidden: Hidden) -> Issued:
        """Operations of a plan, or of a fragment, in its program order; what it computes is not collected yet."""
        visits = self._visits(plan, assignments, step)
        late = [visit for (layer, _), visit in visits.items() if layer == plan.layer]
        gated = self._gated(plan, assignments, late, step, hidden)
        runs = iter(assignments)
        woken: dict[int, Row] = {}
        for row in plan.rows:
            last = NO
            if row.verb == LOAD:
                last = self._load(row, gated.known if gated is not None and row.layer == plan.layer else ())
            elif row.verb == EVICT:
                self._evict(row)
            else:
                visit = visits[row.layer, row.device]
                group = late if row.layer == plan.layer else [visit]
                self._dispatch(visit, group, plan.exchange if row.layer == plan.layer else UNICAST, hidden)
                ends = self._run(row, next(runs), visit, gated if row.layer == plan.layer else None)
                visit.ends += ends
                last = ends[-1].op
            if row.wake:
                woken[last] = row
        for (layer, _), visit in visits.items():
            if layer != plan.layer:
                self._early.setdefault(layer, []).append(visit)
        return Issued(late, woken, gated)

    def _gated(self, plan: Plan, assignments: Sequence[Assignment], late: list[Visit], step: Step,
               hidden: Hidden) -> Gated | None:
        """Send the rows of all visits of the layer by the plan's gating, if it names one."""
        if plan.gating is None or not late:
            return None
        runs = [(run.device, run.tokens) for run in assignments if run.layer == plan.layer]
        gated, arrivals = self.gate.out(plan.gating, runs, step, hidden)
        for visit in late:
            visit.arrived = arrivals[visit.device]
        return gated

    def collect_early(self, layer: int, sums: Hidden) -> None:
        """Bring home what ran early for a layer."""
        self.collect(self._early.pop(layer, []), UNICAST, sums)

    def take_loads(self) -> list[Load]:
        """The loads issued since the last call."""
        loads, self._loads = self._loads, []
        return loads

    def _visits(self, plan: Plan, assignments: Sequence[Assignment], step: Step) -> dict[tuple[int, int], Visit]:
        """(layer, device) -> its visit, in the order in which the plan first names them."""
        tokens: dict[tuple[int, int], list[Ints]] = {}
        for row, run in zip((row for row in plan.rows if row.verb == RUN), assignments, strict=True):
            tokens.setdefault((row.layer, row.device), []).append(run.tokens)
        visits = {}
        for (layer, device), lists in tokens.items():
            distinct = np.unique(np.concatenate(lists))
            homes = step.home[distinct]
            visits[layer, device] = Visit(device, {home: distinct[homes == home] for home in np.unique(homes).tolist()})
        return visits

    # shards

    def _parts(self, row: Row) -> range:
        return range(self._ledger.start.parts) if row.part == ALL_PARTS else range(row.part, row.part + 1)

    def _load(self, row: Row, known: Sequence[Edge] = ()) -> int:
        """Issue a load; returns its last operation. known: edges before which nobody knows that it is needed."""
        moe, over = self._moe_of[row.layer], row.victim
        gone = [] if over == NOBODY else self._ledger.evict(row.device, moe, over, row.part)
        missing = [part for part in self._parts(row) if not self._ledger.has(row.device, moe, row.expert, part)]
        if not missing:
            self._ledger.load(row.device, moe, row.expert, row.part)  # refuses it
        cause = "demand" if row.priority == DEMAND else "prefetch"
        last = NO
        for part in self._parts(row):
            if part in missing:
                self._ledger.load(row.device, moe, row.expert, part)
                edge = self._copies.load((row.device, moe, row.expert, part), cause, row.priority,
                                         over if part in gone else None, known)
                self._loads.append(Load(row.device, moe, row.expert, part, edge.op, row.priority > DEMAND))
                last = edge.op
            elif part in gone:
                self._copies.evict((row.device, moe, over, part))
        return last

    def _evict(self, row: Row) -> None:
        moe = self._moe_of[row.layer]
        for part in self._ledger.evict(row.device, moe, row.expert, row.part):
            self._copies.evict((row.device, moe, row.expert, part))

    # activations and runs

    def _dispatch(self, visit: Visit, group: list[Visit], exchange: str, hidden: Hidden) -> None:
        """Send the rows that a visit needs, the first time one of its runs is reached."""
        if visit.arrived is not None:
            return
        if exchange == UNICAST:
            group = [visit]
        amounts = {(home, v.device): self._row_bytes(rows)
                   for v in group for home, rows in v.rows.items() if home != v.device}
        arrivals: dict[tuple[int, int], list[Edge]] = {}
        if exchange == ALL_TO_ALL and amounts:
            edge = Edge(self._emit.collective(amounts, "dispatch", [e for edges in hidden.values() for e in edges]))
            arrivals = {pair: [edge] for pair in amounts}
        elif exchange == BROADCAST:
            for home in dict.fromkeys(home for home, _ in amounts):
                pairs = [pair for pair in amounts if pair[0] == home]
                sent = np.unique(np.concatenate([v.tokens[home] for v in group if (home, v.device) in amounts]))
                bytes_ = self._row_bytes(len(sent))
                edge = Edge(self._emit.copy(pairs, bytes_, "dispatch", hidden[home]))
                arrivals.update({pair: [edge] for pair in pairs})
        else:
            for pair, bytes_ in amounts.items():
                arrivals[pair] = [Edge(self._emit.copy([pair], bytes_, "dispatch", hidden[pair[0]]))]
        for v in group:
            v.arrived = list(hidden.get(v.device, ()))
            for home in v.rows:
                if home != v.device:
                    arrived = arrivals[home, v.device]
                    v.arrived += arrived if self._has_issuer(v.device) else self._emit.sync(home, arrived)

    def _has_issuer(self, device: int) -> bool:
        return self._emit.machine.devices[device].issuer is not None

    def _run(self, row: Row, run: Assignment, visit: Visit, gated: Gated | None) -> list[Edge]:
        """One expert (or part) over its tokens. A gating brings rows in order, and as many as its capacity is."""
        moe, device, parts = self._moe_of[row.layer], row.device, self._parts(row)
        if not all(self._ledger.has(device, moe, row.expert, part) for part in parts):
            self._ledger.refuse_absent(device, moe, row.expert, row.part)
        columns = sum(self._columns[part] for part in parts)
        tokens = len(run.tokens) if gated is None else gated.each or len(run.tokens)
        work = self._work(columns)
        ready = self._copies.ready(device, moe, row.expert, parts)
        if ready:
            self._emit.host(device, "wait")
        after = [*(visit.arrived or ()), *ready]
        rows_bytes = self._row_bytes(tokens)
        if gated is None and tokens < sum(visit.rows.values()):
            after = self._emit.kernel(device, "gather", 2 * rows_bytes, 0, after, expert=row.expert)
        after = self._emit.kernel(device, "expert", work.bytes_for(tokens), self._model.expert_flops(columns, tokens),
                                  after, expert=row.expert, ps=self._emit.acted_ps(device, columns, tokens))
        if gated is None:
            after = self._emit.kernel(device, "scatter", 3 * rows_bytes, 0, after, expert=row.expert)
        self._emit.host(device, "record")
        self._copies.used(device, moe, row.expert, parts, after)
        return after

    def collect(self, visits: list[Visit], exchange: str, sums: Hidden, gated: Gated | None = None) -> None:
        """Bring results back to the homes of their tokens and add them."""
        if gated is not None:
            self.gate.back(gated, {v.device: v.ends for v in visits}, sums)
            return
        amounts = {(v.device, home): self._row_bytes(rows)
                   for v in visits for home, rows in v.rows.items() if home != v.device}
        together = None
        if exchange == ALL_TO_ALL and amounts:
            together = Edge(self._emit.collective(amounts, "return", [e for v in visits for e in v.ends]))
        for v in visits:
            for home, rows in v.rows.items():
                if home == v.device:
                    sums[home] += v.ends
                    continue
                back = together
                if back is None:
                    ended = v.ends if self._has_issuer(v.device) else self._emit.sync(home, v.ends)
                    back = Edge(self._emit.copy([(v.device, home)], amounts[v.device, home], "return", ended))
                rows_bytes = self._row_bytes(rows)
                sums[home] += self._emit.kernel(home, "reduce", 3 * rows_bytes, rows * self._model.d_model, [back])
