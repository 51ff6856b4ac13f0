"""Lowers plans in columns: keeps the compiled lowering's arrays, and cuts its output into what the engine takes."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from emulation.engine.compiled_addresses import Addressed
from emulation.engine.play import Program
from emulation.ledger import Ledger
from emulation.lowering import compiled_ops as c
from emulation.lowering.compiled_layers import lower_begin, lower_layer, lower_step, tally
from emulation.lowering.compiled_ops import Ints, Out, room
from emulation.lowering.compiled_served import IS_EARLY, PAIR_EXPERT, PAIR_TOKEN, serve
from emulation.lowering.compiled_state import USES, Scratch, State, make_scratch, make_state
from emulation.lowering.compiled_visits import NO_EXPERT, Layer
from emulation.lowering.copies import Copies
from emulation.lowering.dense import Share
from emulation.lowering.dense_columns import DenseColumns
from emulation.lowering.emit import CAUSES, Labels
from emulation.lowering.streams import in_columns
from emulation.lowering.tables import NONE, TableMaker
from emulation.machine import Machine
from emulation.model import Model
from emulation.ops import END, Ops
from emulation.plan import EXCHANGES, Served, StepPlan
from emulation.view import PREFILL, Pairs, Step

COUNTED = (c.OPS, c.HOLDS, c.WAITS, c.TAKES, c.RELEASES)
NOBODY = np.empty(0, np.int64)
Filled = TypeVar("Filled", Out, Scratch)


class NotPlain(Exception):
    """A plan, or a machine, that the compiled lowering leaves to the readable one."""


class ColumnLowering:
    """One run's lowering. `begin`, `layer` for each MoE layer, `take` whenever the engine is to have what there is."""

    def __init__(self, machine: Machine, model: Model, ledger: Ledger, copies: Copies, pool_of: dict[int, int],
                 first: int, first_take: int, *, exact: bool = True) -> None:
        """exact: no plan serves another routing than it was given, and none runs an expert early."""
        self._machine, self._model, self._ledger, self._exact = machine, model, ledger, exact
        if not in_columns(machine, model):
            raise NotPlain(f"{model.name} on {machine.name} is more than columns can say")
        self._maker, self._tokens = TableMaker(machine, model, ledger), 1
        self._tables = Addressed(self._maker.make(1))
        self._scratch, self._coming, self._due = (Addressed(self._scratch_for(1)) for _ in range(3))
        homes = np.array(machine.homes, np.int64)
        slot = np.full(len(machine.devices), NONE, np.int64)
        holders = sorted({*machine.homes, *ledger.start.copies})
        slot[holders] = np.arange(len(holders))
        state = make_state(slot, homes, ledger.start.rest.copy(), ledger.part_bytes,
                                ledger.used_bytes, ledger.peak_bytes, ledger.budget_bytes.copy(),
                                np.array([pool_of[d] for d in range(len(machine.devices))], np.int64),
                                len(machine.links), len(CAUSES))
        for number, device in enumerate(holders):
            state.since[number] = ledger.copies_on(device)
            ledger.keep_copies(device, state.since[number])
        for (device, moe, expert, part), copy in copies.items():
            state.handle[slot[device], moe, expert, part] = copy.handle
        self._state = Addressed(state)
        self._dense_columns = DenseColumns(machine, model)
        self._moe_of = np.full(len(model.layers), NONE, np.int64)
        self._moe_of[list(model.moe_layers)] = np.arange(len(model.moe_layers))
        self._moe_layers = np.array(model.moe_layers, np.int64)
        self._rows = 1
        self._widest = self._widest_op()
        self._narrow = max(8, *(len(device.lanes) for device in machine.devices))
        self._more = self._room_for(self._rows)
        self._begin_out(room(0, 0, 0, 0, 0), first, first_take)
        self._all_ends = np.empty(0, np.int64)
        self._bounds, self._decisions = [(0, 0)], list[int]()
        self._home_of = np.full(len(machine.devices), NONE, np.int64)
        self._home_of[homes] = np.arange(len(homes))

    def _scratch_for(self, rows: int) -> Scratch:
        machine = self._machine
        return make_scratch(len(machine.devices), len(machine.homes), self._model.experts, len(machine.links), rows)

    def _widest_op(self) -> int:
        """The most lanes that one operation holds: a kernel's, or a broadcast's over all links."""
        machine = self._machine
        return max(1, *(len(device.lanes) for device in machine.devices),
                   len(machine.links) + sum(len(device.copy_lanes) for device in machine.devices))

    @property
    def state(self) -> State:
        """What is where, and what was counted."""
        state: State = self._state.table
        return state

    @property
    def _out(self) -> Out:
        out: Out = self._written.table
        return out

    def _begin_out(self, out: Out, first: int, first_take: int) -> None:
        """Write into these columns, from this serial and this handle on."""
        out.n[[c.FIRST, c.FIRST_TAKE]] = first, first_take
        self._written = Addressed(out)

    # a step

    def begin(self, step: Step, share: dict[int, Share], experts: NDArray[np.uint16]) -> int:
        """Begin a step whose routing is known, [tokens, layers, top_k]; its first decision."""
        if len(step) > self._tokens:
            self._tokens = max(len(step), min(2 * self._tokens, 1 << 14))
            self._tables = Addressed(self._maker.make(self._tokens))
        layers = len(self._model.moe_layers)
        self.counts = np.zeros((layers, self._model.experts), np.int64)
        self.order = np.zeros_like(self.counts)
        self.active = np.zeros(layers, np.int64)
        self.distinct = np.zeros((layers, 2), np.int64)
        layered = np.ascontiguousarray(experts.transpose(1, 0, 2))
        if not layered.flags.writeable:  # what a recorded trace holds; kernels are compiled for what may be written
            layered = layered.copy()
        if tally(layered, self.counts, self.order, self.active, self.distinct):
            raise NotPlain("the routing names an expert that the model does not have")
        self._coming.table.visits[0] = self._due.table.visits[0] = 0
        self.layer_of_step = self._layer_of(layered, self._home_of[step.home])
        self._layer = Addressed(self.layer_of_step)
        self._dense = Addressed(self._dense_columns.of(share))
        self._number, self._phase = step.number, 0 if (step.phase == PREFILL).any() else 1
        self._reserve(0)
        decision = lower_begin(self._tables.at, self._state.at, self._written.at, self._scratch.at, self._dense.at, 0)
        return self._decided(decision)

    def _layer_of(self, asked: NDArray[np.uint16], home: Ints) -> Layer:
        """A step in which everything is served as it is routed, so far."""
        if self._exact:
            nobody = np.empty((len(asked), 0, 0), np.uint16)
            return Layer(asked, asked, home, self.counts, self.counts, nobody, *(np.empty((0, 0), np.int64),) * 2,
                         self.distinct)
        self._places, self._changed = np.empty((2, *asked.shape[1:]), np.int64), np.empty(self._model.experts, np.int64)
        return Layer(asked, asked.copy(), home, self.counts, self.counts.copy(), np.full_like(asked, NO_EXPERT),
                     np.zeros_like(self.counts), np.zeros_like(self.counts), self.distinct.copy())

    def serve(self, moe: int, served: Served) -> tuple[Pairs, NDArray[np.bool_]]:
        """Serve a layer otherwise than it is routed, before it is lowered: its pairs, and which of them ran early."""
        ids, weight = (served.token, served.expert, served.input_layer, served.routed), served.weight
        if self._exact or {*map(type, served)} != {np.ndarray} or len({column.shape for column in served}) != 1:
            raise NotPlain("the served routing is not plain and right")
        rows, layers = np.array(ids), self._model.moe_layers
        if rows.ndim != 2 or rows.dtype != np.int64 or weight.dtype != np.float64:
            raise NotPlain("the served routing is not plain and right")
        pairs, weights = np.empty((3, len(weight)), np.int64), np.empty(len(weight))
        n = serve(self._state.at, self._layer.at, rows, np.array(weight), pairs, weights, self._places[0],
                  self._places[1], self._changed, moe, layers[moe], layers[moe - 1] if moe else NONE, self._phase)
        if n == NONE:
            raise NotPlain("the served routing is not plain and right")
        return Pairs(pairs[PAIR_TOKEN, :n], pairs[PAIR_EXPERT, :n], weights[:n]), pairs[IS_EARLY, :n] > 0

    def route(self, moe: int, experts: Ints) -> None:
        """Say where a layer of the step routes, [tokens, top_k], that `begin` was told nothing of; before its plan."""
        layered, layer = self._layer.table.experts, slice(moe, moe + 1)
        layered[moe] = experts
        if tally(layered[layer], self.counts[layer], self.order[layer], self.active[layer], self.distinct[layer]):
            raise NotPlain("the routing names an expert that the model does not have")

    def step(self, plan: StepPlan) -> int:
        """Lower the plans of all layers; the decision behind the last."""
        rows, ptr, exchange = plan
        layers, n = len(self._model.moe_layers), rows.shape[1]
        if exchange not in EXCHANGES or len(ptr) != layers + 1 or ptr[0] != 0 or ptr[-1] != n or (
                (each := np.diff(ptr)) < 0).any():
            raise NotPlain("no such exchange, or not the rows of every layer")
        self._reserve(int(each.max(initial=0)))
        self._reserve_uses(n)
        columns = np.empty(8 * n, np.int64)
        columns[:rows.size] = rows.ravel()
        if layers < len(self._model.layers) and n:
            columns[n:2 * n] = self._among_moe(rows[1])
        moe, made, more = 0, np.empty((layers, 3), np.int64), np.array(self._more, np.int64)
        while moe < layers:
            moe = lower_step(
                self._tables.at, self._state.at, self._written.at, self._scratch.at, self._coming.at, self._due.at,
                self._layer.at, self._dense.at, columns, ptr, self._moe_layers, more, made, moe,
                EXCHANGES.index(exchange), self._number, self._phase)
            if moe == NONE:
                raise NotPlain("a plan is not plain and right")
            if moe < layers:
                self._reserve(self._rows)
        self._bounds += [(ops, releases) for ops, releases, _ in made.tolist()]
        self._decisions += made[:, 2].tolist()
        return self._decisions[-1]

    def _among_moe(self, layer: Ints) -> Ints:
        """Model layers as the kernel counts them, among those with experts."""
        if not 0 <= layer.min() <= layer.max() < len(self._moe_of):
            raise NotPlain("no such layer")
        found: Ints = self._moe_of[layer]
        return found

    def layer(self, moe: int, plan: Ints, exchange: str, tokens: Ints = NOBODY, ends: Ints = NOBODY) -> int:
        """Lower a layer's plan, COLUMNS [7, rows]; the next decision. tokens, ends: those of its early runs, one run
        after another, and where those of each end."""
        if exchange not in EXCHANGES:
            raise NotPlain("no such exchange")
        rows = plan.shape[1]
        self._reserve(rows)
        self._reserve_uses(rows)
        if len(self._model.moe_layers) < len(self._model.layers) and rows:
            plan = np.stack([plan[0], self._among_moe(plan[1]), *plan[2:]])
        decision = lower_layer(
            self._tables.at, self._state.at, self._written.at, self._scratch.at, self._coming.at, self._due.at,
            self._layer.at, self._dense.at, plan, rows, tokens, ends, moe, self._model.moe_layers[moe],
            EXCHANGES.index(exchange), self._number, self._phase)
        self._coming, self._due = self._due, self._coming
        if decision == NONE:
            raise NotPlain("the plan is not plain and right")
        return self._decided(decision)

    def _decided(self, decision: int) -> int:
        self._bounds.append((int(self._out.n[c.OPS]), int(self._out.n[c.RELEASES])))
        self._decisions.append(decision)
        return decision

    def _reserve_uses(self, rows: int) -> None:
        """Room to note that so many more rows use what was copied ahead."""
        uses = int(self.state.phase[0, USES]) + rows * self._ledger.start.parts
        if uses <= len(self.state.used_op):
            return
        more = {name: np.concatenate([getattr(self.state, name), np.zeros(2 * uses, np.int64)])
                for name in ("used_op", "used_at")}
        self._state = Addressed(self.state._replace(**more))

    # room

    def _widen(self, rows: int) -> None:
        """From now on plans may have so many rows."""
        self._rows = rows
        for name in ("_scratch", "_coming", "_due"):
            setattr(self, name, Addressed(_filled(self._scratch_for(rows), getattr(self, name).table)))
        self._more = self._room_for(rows)

    def _room_for(self, rows: int) -> tuple[int, ...]:
        """COUNTED rows that a plan of so many may take, with the layers behind it: 9 operations for each part of a row,
        8 for what goes from a home to a device and comes back, 12 for a home in each layer. Where runs may be early,
        as much again comes back from the layer before."""
        parts, homes, devices = self._ledger.start.parts, len(self._machine.homes), len(self._machine.devices)
        visits, due = min(rows, devices), 0
        if not self._exact:
            visits, due = min(rows, 2 * devices) + min(self._rows, devices), self._rows
        ops = 9 * rows * parts + 8 * visits * homes + 12 * homes * (1 + len(self._model.layers))
        return (ops, self._narrow * ops + homes * self._widest, ops * (homes + parts + 3) + (rows + due) * (2 + homes),
                rows * parts, rows * parts)

    def _reserve(self, rows: int) -> None:
        """Room for a plan of so many rows and the layers behind it."""
        if rows > self._rows:
            self._widen(max(rows, 2 * self._rows, 64))
        o, n, more = self._out, self._out.n.tolist(), self._more
        if (n[c.OPS] + more[0] > len(o.priority) or n[c.HOLDS] + more[1] > len(o.hold_lane)
                or n[c.WAITS] + more[2] > len(o.wait_op) or n[c.TAKES] + more[3] > len(o.take_pool)
                or n[c.RELEASES] + more[4] > len(o.release_take)):
            self._written = Addressed(_grown(o, [2 * (n[i] + wanted) for i, wanted in zip(COUNTED, more, strict=True)]))

    def take(self) -> tuple[Program, Labels]:
        """What was lowered since the last call."""
        o = self._out
        n = o.n
        if any(n[i] > there for i, there in zip(COUNTED, _rooms(o), strict=True)):
            raise AssertionError("the compiled lowering wrote past the room that it was given: please report it")
        ops, holds, waits, takes, releases, edges = (int(n[i]) for i in range(6))
        made = Ops(int(n[c.FIRST]), int(n[c.FIRST_TAKE]), o.priority[:ops], o.quantum_ps[:ops], o.length_ps[:ops],
                   o.hold_ptr[:ops + 1], o.hold_lane[:holds], o.hold_ps[:holds], o.wait_ptr[:ops + 1],
                   o.wait_op[:waits], self._ends(waits), o.take_ptr[:ops + 1], o.take_pool[:takes],
                   o.take_amount[:takes], o.take_amount[:takes], o.release_take[:releases],
                   o.release_ptr[:releases + 1], o.release_op[:edges], self._ends(edges))
        labels = Labels(o.kind[:ops], o.cause[:ops], o.device[:ops], np.full(ops, self._number, np.int32),
                        o.layer[:ops], o.expert[:ops], o.bytes[:ops])
        bounds = np.array(self._bounds, np.int64)
        program = Program(made, bounds[:, 0].copy(), bounds[:, 1].copy(), np.array(self._decisions, np.int64))
        self._begin_out(room(*_rooms(o)), made.first + ops, made.first_take + takes)
        self._bounds, self._decisions = [(0, 0)], []
        return program, labels

    def _ends(self, edges: int) -> Ints:
        """So many times END."""
        if edges > len(self._all_ends):
            self._all_ends = np.full(2 * edges, END, np.int64)
        return self._all_ends[:edges]


def _rooms(o: Out) -> tuple[int, int, int, int, int]:
    """For how many of the COUNTED rows there is room."""
    return len(o.priority), len(o.hold_lane), len(o.wait_op), len(o.take_pool), len(o.release_take)


def _grown(o: Out, least: list[int]) -> Out:
    return _filled(room(*map(max, least, _rooms(o))), o)


def _filled(new: Filled, old: Filled) -> Filled:
    """Longer columns that begin with what these held."""
    for mine, column in zip(new, old, strict=True):
        mine[:len(column)] = column
    return new

