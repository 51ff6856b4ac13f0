"""What a machine and a model cost, as arrays for the compiled lowering: made by the functions that the readable one
calls, so that both write the same durations."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.ledger import Ledger
from emulation.lowering.emit import KINDS
from emulation.machine import Machine
from emulation.model import Model
from emulation.units import per_second_ps

Ints = NDArray[Any]
Grid = NDArray[Any]

FAMILIES = (*KINDS, "wait", "record")
FAMILY = {name: i for i, name in enumerate(FAMILIES)}
NONE = -1


class Tables(NamedTuple):
    """Constants of one run. Devices, lanes, links and layers by number; ABSENT where there is none.

    issuer [devices]: the lane of the thread that issues. sync_ps [devices]. kernel [devices, families]: 1 where the
    device has such kernels. issue_ps [devices, families]. lane_ptr, lanes: what a kernel holds (CSR over devices).
    expert, gather, scatter, reduce: rows of `tokens_ps`, [devices, parts + 1] (the last: the whole expert), [devices].
    tokens_ps [rows, tokens + 1]: a kernel's or link's time by how many tokens. rows_bytes [tokens + 1]: of activations.
    expert_bytes [parts + 1, 2]: weights, and what each token adds; expert_flops: alike. row_flops [1]: of adding a row.
    pair [devices, devices]: the number of a route. Of each route, CSR: its links, their lanes, rows of `tokens_ps` for
    activations, and the copy lanes of its ends; latency_ps, quantum_ps [routes]. part_ps [links of routes, parts]: the
    time of a part's weights.
    """

    issuer: Ints
    sync_ps: Ints
    kernel: Grid
    issue_ps: Grid
    lane_ptr: Ints
    lanes: Ints
    expert: Grid
    gather: Ints
    scatter: Ints
    reduce: Ints
    tokens_ps: Grid
    rows_bytes: Ints
    expert_bytes: Grid
    expert_flops: Grid
    row_flops: Ints
    pair: Grid
    route_ptr: Ints
    route_link: Ints
    route_lane: Ints
    route_row: Ints
    part_ps: Grid
    end_ptr: Ints
    end_lane: Ints
    latency_ps: Ints
    quantum_ps: Ints


GRIDS = ("kernel", "issue_ps", "expert", "tokens_ps", "expert_bytes", "expert_flops", "pair", "part_ps")
"""Tables of two dimensions."""


def _csr(rows: list[list[int]]) -> tuple[Ints, Ints]:
    flat = np.array([value for row in rows for value in row], np.int64)
    return np.cumsum([0, *(len(row) for row in rows)]).astype(np.int64), flat


class TableMaker:
    """Makes `Tables`, and makes them again when a step has more tokens than any before."""

    def __init__(self, machine: Machine, model: Model, ledger: Ledger) -> None:
        self._machine, self._model, self._ledger = machine, model, ledger
        self._parts = ledger.start.parts
        self._columns = [*(model.columns(part, self._parts) for part in range(self._parts)), model.d_ff]
        self._rows: dict[tuple[object, ...], int] = {}
        self._durations: list[list[int]] = []
        self._pairs: dict[tuple[int, int], int] = {}

    def make(self, tokens: int) -> Tables:
        """Tables for steps of up to so many tokens."""
        machine, model = self._machine, self._model
        devices = machine.devices
        self._tokens = range(tokens + 1)
        self._rows, self._durations = {}, []
        self._row_bytes = [model.token_row_bytes(n) for n in self._tokens]
        kernel = np.zeros((len(devices), len(FAMILIES)), np.int64)
        issue_ps = np.zeros_like(kernel)
        expert = np.full((len(devices), self._parts + 1), NONE, np.int64)
        other = {name: np.full(len(devices), NONE, np.int64) for name in ("gather", "scatter", "reduce")}
        for d, device in enumerate(devices):
            for name, cost in device.kernels.items():
                if name in FAMILY:
                    kernel[d, FAMILY[name]], issue_ps[d, FAMILY[name]] = 1, cost.issue_ps
            if "expert" in device.kernels:
                expert[d] = [self._expert(d, columns) for columns in self._columns]
            for name, moved, flops in (("gather", 2, 0), ("scatter", 3, 0), ("reduce", 3, model.d_model)):
                if name in device.kernels:
                    other[name][d] = self._kernel(d, name, moved, flops)
        lane_ptr, lanes = _csr([list(device.lanes) for device in devices])
        routes = self._routes()
        issuers = [device.issuer for device in devices]
        work = [model.expert_work(columns) for columns in self._columns]
        return Tables(
            issuer=np.array([i.lane if i else NONE for i in issuers], np.int64),
            sync_ps=np.array([i.sync_ps if i else 0 for i in issuers], np.int64),
            kernel=kernel, issue_ps=issue_ps, lane_ptr=lane_ptr, lanes=lanes, expert=expert, **other, **routes,
            tokens_ps=np.array(self._durations, np.int64).reshape(-1, tokens + 1),
            rows_bytes=np.array(self._row_bytes, np.int64),
            expert_bytes=np.array([(w.weight_bytes, w.token_bytes) for w in work], np.int64),
            expert_flops=np.array([(model.expert_flops(columns, 0), w.token_flops)
                                   for columns, w in zip(self._columns, work, strict=True)], np.int64),
            row_flops=np.array([model.d_model], np.int64))

    def _row(self, key: tuple[object, ...], values: list[int]) -> int:
        self._durations.append(values)
        self._rows[key] = len(self._durations) - 1
        return self._rows[key]

    def _expert(self, device: int, columns: int) -> int:
        cost = self._machine.devices[device].kernels["expert"]
        key = ("expert", cost.overhead_ps, cost.bytes_per_s, cost.flops_per_s, columns)
        if key not in self._rows:
            work, flops = self._model.expert_work(columns), self._model.expert_flops
            return self._row(key, [cost.ps(work.bytes_for(n), flops(columns, n)) for n in self._tokens])
        return self._rows[key]

    def _kernel(self, device: int, family: str, moved: int, token_flops: int) -> int:
        cost = self._machine.devices[device].kernels[family]
        key = (moved, token_flops, cost.overhead_ps, cost.bytes_per_s, cost.flops_per_s)
        if key not in self._rows:
            return self._row(key, [cost.ps(moved * self._row_bytes[n], n * token_flops) for n in self._tokens])
        return self._rows[key]

    def _link(self, bytes_per_s: int) -> int:
        if ("link", bytes_per_s) not in self._rows:
            return self._row(("link", bytes_per_s), [per_second_ps(b, bytes_per_s) for b in self._row_bytes])
        return self._rows["link", bytes_per_s]

    def _wanted(self) -> list[tuple[int, int]]:
        """Between homes and what computes, and from where experts rest to where a copy can be used."""
        machine = self._machine
        computing = [d for d, device in enumerate(machine.devices) if device.computes]
        rests = np.unique(self._ledger.start.rest).tolist()
        pairs = [(home, d) for home in machine.homes for d in computing]
        pairs += [(d, home) for home in machine.homes for d in computing]
        pairs += [(rest, home) for rest in rests for home in machine.homes]
        return list(dict.fromkeys(p for p in pairs if p[0] != p[1] and p in machine.routes))

    def _routes(self) -> dict[str, NDArray[np.int64]]:
        machine, parts = self._machine, range(self._parts)
        wanted = self._wanted()
        pair = np.full((len(machine.devices),) * 2, NONE, np.int64)
        links, ends, latency_ps, quantum_ps = [], [], [], []
        for number, ends_of in enumerate(wanted):
            pair[ends_of] = number
            route = machine.routes[ends_of]
            links.append([machine.link_number[link.name] for link in route])
            ends.append([lane for end in ends_of for lane in machine.devices[end].copy_lanes])
            latency_ps.append(sum(link.latency_ps for link in route))
            quantum_ps.append(machine.quantum_ps(*ends_of) if machine.quantum_bytes else 0)
        route_ptr, route_link = _csr(links)
        end_ptr, end_lane = _csr(ends)
        crossed = [machine.links[link] for link in route_link.tolist()]
        bytes_ = [int(self._ledger.part_bytes[part]) for part in parts]
        times: dict[int, list[int]] = {}
        for link in crossed:
            if link.bytes_per_s not in times:
                times[link.bytes_per_s] = [per_second_ps(b, link.bytes_per_s) for b in bytes_]
        return {
            "pair": pair, "route_ptr": route_ptr, "route_link": route_link,
            "route_lane": np.array([link.lane for link in crossed], np.int64),
            "route_row": np.array([self._link(link.bytes_per_s) for link in crossed], np.int64),
            "part_ps": np.array([times[link.bytes_per_s] for link in crossed], np.int64).reshape(-1, self._parts),
            "end_ptr": end_ptr, "end_lane": end_lane, "latency_ps": np.array(latency_ps, np.int64),
            "quantum_ps": np.array(quantum_ps, np.int64)}
