"""Lowers streams: a part enters, is run where it is, and is handed on. Operation by operation: the specification of
`rings_columns`, which writes the same operations at once.

For a stream of a part along c0 .. ck, with n_j tokens of its expert on c_j:

    load    links c0    needs `needs` free slots of c0, takes one
    run_j   c_j         after the load or hop that brought it; left out where there are no tokens
    hop_j   links       after what brought it and an edge of run_j; takes a slot of c_(j+1)
    the slot of c_j is free after the end of run_j and an edge of hop_j; the last after its run
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from emulation.ledger import Ledger
from emulation.lowering.emit import Emitter
from emulation.machine import Transfer
from emulation.model import Model
from emulation.ops import Edge
from emulation.plan import LOAD, NOBODY, Plan, Row
from emulation.streams import EDGES, Handing, Ints, Streams


class Lowered(NamedTuple):
    """ends: home -> when its runs are over. loads [streams]: operations. runs [devices]: how many there ran."""

    ends: dict[int, Edge]
    loads: Ints
    runs: Ints

    def woken(self, plan: Plan) -> dict[int, Row]:
        """Operation -> the load at whose end the policy is to be woken."""
        s = plan.streams
        assert s is not None
        return {int(self.loads[i]): Row(LOAD, plan.layer, int(s.expert[i]), int(s.part[i]), int(s.entries[i]), NOBODY,
                                        0, -1, True) for i in np.flatnonzero(s.wake).tolist()}


class Costs:
    """What loads, hops and runs of parts take on a machine."""

    def __init__(self, emit: Emitter, model: Model, ledger: Ledger) -> None:
        self._emit, self._model, self.ledger = emit, model, ledger
        parts = ledger.start.parts
        self.columns = np.array([model.columns(part, parts) for part in range(parts)], np.int64)
        self.run, self.move, self.bytes_of = cache(self._run), cache(self._move), cache(self._bytes_of)
        actions = emit.machine.actions
        self.idle_runs = actions is not None and actions.idle_compute
        self.release_ps = 0 if actions is None else actions.release * actions.frame_ps

    def _run(self, device: int, columns: int, tokens: int) -> tuple[int, int, int]:
        """(picoseconds, bytes, flops) of so many columns of an expert over some tokens."""
        bytes_, flops = self._model.expert_work(columns).bytes_for(tokens), self._model.expert_flops(columns, tokens)
        ps = self._emit.acted_ps(device, columns, tokens)
        if ps is None:
            kernel = self._emit.machine.devices[device].kernels["expert"]
            ps = kernel.ps(bytes_, flops)
        return ps, bytes_, flops

    def _move(self, source: int, target: int, columns: int, cause: str) -> Transfer:
        return self._emit.move([(source, target)], self.bytes_of(columns), cause, columns)

    def _bytes_of(self, columns: int) -> int:
        """Bytes of so many columns."""
        return self._model.expert_work(columns).weight_bytes

    def pools(self, handing: Handing) -> Ints:
        """The pool of each device, -1 where it has none of that name."""
        machine = self._emit.machine
        return np.array([machine.pool_number.get(f"{device.name}.{handing.pool}", -1) for device in machine.devices])


class Rings:
    """Lowers a plan's streams one by one."""

    def __init__(self, emit: Emitter, model: Model, ledger: Ledger) -> None:
        self._emit, self._costs = emit, Costs(emit, model, ledger)

    def issue(self, moe: int, streams: Streams, handing: Handing, bound: Ints) -> Lowered:
        """Operations of streams; bound [experts, devices]: tokens of each expert by where they lie."""
        emit, costs, machine = self._emit, self._costs, self._emit.machine
        pools, rest = costs.pools(handing).tolist(), costs.ledger.start.rest
        ends: dict[int, list[Edge]] = {}
        loads = []
        for i, (expert, part) in enumerate(zip(streams.expert.tolist(), streams.part.tolist(), strict=True)):
            path = streams.path[streams.path_ptr[i]:streams.path_ptr[i + 1]].tolist()
            columns = int(costs.columns[part])
            at = (int(rest[moe, expert, part]), path[0])
            brought = emit.copy([at], costs.bytes_of(columns), "demand", [], expert=expert, columns=columns,
                                takes=[(pools[path[0]], handing.needs, 1)])
            loads.append(brought)
            for here, following in zip(path, [*path[1:], None], strict=True):
                handle, left = emit.ops.take_handle(brought), [Edge(brought)]
                tokens, started = int(bound[expert, here]), list[Edge]()
                if tokens or costs.idle_runs:
                    ps, bytes_, flops = costs.run(here, columns, tokens)
                    emit.worked[here] += bytes_, flops
                    run = emit.add("expert", dict.fromkeys(machine.devices[here].lanes, ps), after=[Edge(brought)],
                                   device=here, expert=expert, bytes_=bytes_)
                    ends.setdefault(here, []).append(Edge(run))
                    left, started = [Edge(run)], [Edge(run, EDGES[handing.hop_after])]
                if following is not None:
                    brought = emit.copy([(here, following)], costs.bytes_of(columns), "stream",
                                        [Edge(brought), *started], expert=expert, columns=columns,
                                        takes=[(pools[following], 1, 1)])
                    left = [*(left if started else []), Edge(brought, EDGES[handing.slot_free_at])]
                if costs.release_ps:
                    left = [Edge(emit.add("join", after=left, length_ps=costs.release_ps))]
                emit.ops.release(handle, after=left)
        runs = np.array([len(ends.get(d, ())) for d in range(len(machine.devices))], np.int64)
        return Lowered({home: Edge(emit.join(ends[home])) for home in sorted(ends)}, np.array(loads, np.int64), runs)
