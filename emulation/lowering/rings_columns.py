"""Lowers a plan's streams at once, in columns: what `rings.Rings` writes, operation for operation."""

from collections.abc import Sequence

import numpy as np

from emulation.ledger import Ledger
from emulation.lowering.crossing import CrossingEmitter
from emulation.lowering.emit import CAUSES, KINDS, NO, Labels
from emulation.lowering.rings import Costs, Lowered
from emulation.machine import Transfer
from emulation.model import Model
from emulation.ops import DEMAND, END, Edge, Ops
from emulation.streams import EDGES, Handing, Ints, Streams

_COPY, _EXPERT, _JOIN = (KINDS.index(kind) for kind in ("copy", "expert", "join"))
_DEMAND, _STREAM = CAUSES.index("demand"), CAUSES.index("stream")


class RingColumns:
    """Lowers streams; the durations are those of `Costs`, one for each different run or move."""

    def __init__(self, emit: CrossingEmitter, model: Model, ledger: Ledger) -> None:
        self._emit, self._costs = emit, Costs(emit, model, ledger)
        self._device_lanes = _csr([list(device.lanes) for device in emit.machine.devices])

    def issue(self, moe: int, streams: Streams, handing: Handing, bound: Ints) -> Lowered:
        """Operations of streams, appended as one block; bound [experts, devices]."""
        costs, ops = self._costs, self._emit.ops
        s, here = streams.of_visit, streams.path
        if not len(here):
            return Lowered({}, here, np.zeros(bound.shape[1], np.int64))
        first = np.zeros(len(here), np.bool_)
        first[streams.path_ptr[:-1]] = True
        last = np.append(first[1:], True)
        tokens = bound[streams.expert[s], here]
        runs = (tokens > 0) | costs.idle_runs
        hops, delays = ~last, np.full(len(here), costs.release_ps > 0)
        # Serials, in the order load, run, hop, delay, run, hop, ...
        each = first.astype(np.int64) + runs + hops + delays
        at = ops.next_serial + np.cumsum(each) - each
        run_op = at + first
        hop_op = run_op + runs
        delay_op = hop_op + hops
        brought = np.where(first, at, np.append(-1, hop_op[:-1]))
        homes = np.flatnonzero(np.bincount(here[runs], minlength=bound.shape[1]))
        join_op = int(at[-1] + each[-1]) + np.arange(len(homes))
        n = int(each.sum()) + len(homes)
        expert, columns = streams.expert[s], costs.columns[streams.part[s]]
        rest = costs.ledger.start.rest[moe, streams.expert, streams.part]
        following = np.append(here[1:], -1)
        block = _Block(ops.next_serial, n)
        label = np.full((len(Labels._fields), n), NO, np.int64)
        label[0], label[1], label[6] = _JOIN, 0, 0
        label[3], label[4] = self._emit.step, self._emit.layer

        for op, source, target, wide, cause, code, whose in (
                (brought[first], rest, here[first], columns[first], "demand", _DEMAND, expert[first]),
                (hop_op[hops], here[hops], following[hops], columns[hops], "stream", _STREAM, expert[hops])):
            which, kinds = _distinct(source, target, wide)
            moves = [costs.move(a, b, c, cause) for a, b, c in kinds]
            block.hold(op, which, moves)
            bytes_ = np.array([costs.bytes_of(c) for *_, c in kinds], np.int64)
            rows = op - block.first
            label[:, rows] = np.stack([np.full(len(op), _COPY), np.full(len(op), code), target, label[3, rows],
                                       label[4, rows], whose, bytes_[which]])
            self._count(op, which, kinds, bytes_, code)
        which, kinds = _distinct(here[runs], columns[runs], tokens[runs])
        took = np.array([costs.run(*kind) for kind in kinds], np.int64).reshape(-1, 3)[which]
        rows = run_op[runs] - block.first
        block.length_ps[rows] = took[:, 0]
        ptr, lanes = self._device_lanes
        counted, places = _expand(ptr, here[runs])
        block.holds.append((np.repeat(run_op[runs], counted), lanes[places], np.repeat(took[:, 0], counted)))
        label[:, rows] = np.stack([np.full(len(rows), _EXPERT), np.zeros(len(rows), np.int64), here[runs],
                                   label[3, rows], label[4, rows], expert[runs], took[:, 1]])
        np.add.at(self._emit.worked, here[runs], took[:, 1:])
        # What each waits for.
        end = np.full(len(here), END)
        wait = [(run_op[runs], brought[runs], end[runs]), (hop_op[hops], brought[hops], end[hops])]
        started = hops & runs
        wait.append((hop_op[started], run_op[started], np.full(int(started.sum()), EDGES[handing.hop_after])))
        handle = ops.next_take + np.arange(len(here))
        left = [(handle[runs], run_op[runs], end[runs]),
                (handle[hops], hop_op[hops], np.full(int(hops.sum()), EDGES[handing.slot_free_at]))]
        still = ~runs & ~hops
        left.append((handle[still], brought[still], end[still]))
        if costs.release_ps:
            block.length_ps[delay_op - block.first] = costs.release_ps
            wait += [(delay_op[rows - ops.next_take], op, edge) for rows, op, edge in left]
            left = [(handle, delay_op, end)]
        order = np.argsort(here[runs], kind="stable")
        joins = np.searchsorted(homes, here[runs][order])
        wait.append((join_op[joins], run_op[runs][order], end[runs][order]))
        built = block.build(ops.next_take, wait, left, handle, brought, costs.pools(handing)[here],
                            np.where(first, handing.needs, 1))
        self._emit.append(built, Labels(*label))
        ran = np.bincount(here[runs], minlength=bound.shape[1])
        return Lowered({int(h): Edge(int(op)) for h, op in zip(homes, join_op, strict=True)}, brought[first], ran)

    def _count(self, op: Ints, which: Ints, kinds: Sequence[tuple[int, ...]], bytes_: Ints, cause: int) -> None:
        """Count moves by their kind: what both ends moved, and what crossed each link."""
        times = np.bincount(which, minlength=len(kinds))
        for (source, target, _), count, each in zip(kinds, times.tolist(), bytes_.tolist(), strict=True):
            self._emit.worked[[source, target], 0] += count * each
        ptr, links = _csr([self._emit.links_of((source, target)) for source, target, _ in kinds])
        counted, places = _expand(ptr, which)
        self._emit.cross(np.stack([np.repeat(op, counted), links[places], np.full(len(places), cause),
                                   np.repeat(bytes_[which], counted)], axis=1))


class _Block:
    """Collects the ragged columns of a block: rows (operation, ...) in any order of operations, in order within one."""

    def __init__(self, first: int, n: int) -> None:
        self.first, self._n = first, n
        self.length_ps = np.zeros(n, np.int64)
        self.holds: list[tuple[Ints, Ints, Ints]] = []

    def hold(self, op: Ints, which: Ints, moves: Sequence[Transfer]) -> None:
        """Operations that are moves, by their kind."""
        if not len(op):
            return
        ptr, lanes = _csr([list(move.holds) for move in moves])
        ps = np.array([each for move in moves for each in move.holds.values()], np.int64)
        counted, places = _expand(ptr, which)
        self.holds.append((np.repeat(op, counted), lanes[places], ps[places]))
        length = np.array([max([move.length_ps, *move.holds.values()]) for move in moves], np.int64)
        self.length_ps[op - self.first] = length[which]

    def build(self, first_take: int, wait: Sequence[tuple[Ints, Ints, Ints]], left: Sequence[tuple[Ints, Ints, Ints]],
              handle: Ints, taker: Ints, pool: Ints, needs: Ints) -> Ops:
        """left: (handle, operation, edge) of releases; taker, pool, needs [takes]: takes in order of operations."""
        n, zeros = self._n, np.zeros(self._n, np.int64)
        hold_ptr, hold_lane, hold_ps = _ragged(self.holds, self.first, n)
        wait_ptr, wait_op, wait_edge = _ragged(wait, self.first, n)
        release_ptr, release_op, release_edge = _ragged(left, first_take, len(handle))
        take_ptr = np.concatenate([[0], np.cumsum(np.bincount(taker - self.first, minlength=n))]).astype(np.int64)
        return Ops(self.first, first_take, zeros + DEMAND, zeros, self.length_ps, hold_ptr, hold_lane, hold_ps,
                   wait_ptr, wait_op, wait_edge, take_ptr, pool, needs, np.ones(len(handle), np.int64), handle,
                   release_ptr, release_op, release_edge)


def _ragged(rows: Sequence[tuple[Ints, Ints, Ints]], first: int, n: int) -> tuple[Ints, Ints, Ints]:
    """CSR of rows (number, a, b) from number `first` on."""
    of, a, b = (np.concatenate([np.empty(0, np.int64), *column]) for column in zip(*rows, strict=True))
    order = np.argsort(of, kind="stable")
    ptr = np.concatenate([[0], np.cumsum(np.bincount(of - first, minlength=n))]).astype(np.int64)
    return ptr, a[order], b[order]


def _csr(rows: Sequence[Sequence[int]]) -> tuple[Ints, Ints]:
    flat = np.array([value for row in rows for value in row], np.int64)
    return np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64), flat


def _expand(ptr: Ints, rows: Ints) -> tuple[Ints, Ints]:
    """How many entries each of these rows of a CSR has, and where they lie."""
    counted = np.diff(ptr)[rows]
    before = np.cumsum(counted) - counted
    return counted, np.arange(int(counted.sum())) - np.repeat(before - ptr[rows], counted)


def _distinct(a: Ints, b: Ints, c: Ints) -> tuple[Ints, list[tuple[int, int, int]]]:
    """The kind of each row (a, b, c), and the kinds."""
    wide, deep = int(b.max(initial=0)) + 1, int(c.max(initial=0)) + 1
    key = (a * wide + b) * deep + c
    keys = np.flatnonzero(np.bincount(key)) if key.max(initial=0) < 1 << 22 else np.unique(key)
    return np.searchsorted(keys, key), [(k // deep // wide, k // deep % wide, k % deep) for k in keys.tolist()]
