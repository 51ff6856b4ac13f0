"""Writes operations: kernels on devices, copies over links, what a host thread does to issue them."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.errors import PlanError
from emulation.machine import Machine, Transfer
from emulation.model import Model
from emulation.ops import DEMAND, Edge, OpBuilder, Ops
from emulation.units import per_second_ps

KINDS = ("attention", "router", "dense", "shared", "expert", "gather", "scatter", "reduce", "norm", "head",
         "copy", "issue", "sync", "join", "place", "sort", "mask", "einsum")
"""What an operation is for. A kernel's kind is its family in the hardware file."""

CAUSES = ("none", "demand", "prefetch", "dispatch", "return", "stream", "recovery")
"""Why bytes move: an expert that is waited for, one that is not yet, activations on their way out and back, a part that
one device hands on to the next, what a fault made necessary."""

WORK = ("bytes", "flops")
"""What a device did: bytes that its kernels moved, and copies read from or wrote to it; flops of its kernels."""

Ints = NDArray[np.int64]
Numbers = NDArray[Any]
_KIND = {name: i for i, name in enumerate(KINDS)}
_CAUSE = {name: i for i, name in enumerate(CAUSES)}
NO = -1


class Labels(NamedTuple):
    """What each operation of a batch is, in columns of the same length: codes of KINDS and CAUSES, and numbers."""

    kind: Numbers
    cause: Numbers
    device: Numbers
    step: Numbers
    layer: Numbers
    expert: Numbers
    bytes: Ints


class Emitter:
    """An `OpBuilder` that knows the machine. One batch of operations between two submits."""

    def __init__(self, machine: Machine, model: Model | None = None) -> None:
        """model: what a machine of action times counts by; others need none."""
        self.machine, self._model = machine, model
        self.step = NO
        self.layer = NO
        self.moved_bytes = np.zeros((len(machine.links), len(CAUSES)), np.int64)
        self.worked = np.zeros((len(machine.devices), len(WORK)), np.int64)
        self._labels: list[tuple[int, ...]] = []
        self._blocks: list[Ints] = []
        self._begin(0, 0)

    def _begin(self, first: int, first_take: int) -> None:
        self.ops = OpBuilder(first, first_take)
        self._labels, self._blocks = [], []

    def finish(self) -> tuple[Ops, Labels]:
        """The batch, and a fresh one begun behind it."""
        ops = self.ops.build()
        columns = self._rows() if not self._blocks else np.concatenate([*self._blocks, self._rows()])
        self._begin(ops.first + len(ops), ops.first_take + ops.takes)
        return ops, Labels(*columns.T)

    def _rows(self) -> Ints:
        return np.array(self._labels, np.int64).reshape(-1, len(Labels._fields))

    def append(self, block: Ops, labels: Labels) -> None:
        """Many operations at once, with their labels."""
        self.ops.append(block)
        self._blocks += [self._rows(), np.stack([np.asarray(column, np.int64) for column in labels], axis=1)]
        self._labels = []

    def add(self, kind: str, holds: dict[int, int] | None = None, *, after: Iterable[Edge] = (), device: int = NO,
            expert: int = NO, cause: str = "none", bytes_: int = 0, length_ps: int = 0, priority: int = DEMAND,
            quantum_ps: int = 0, takes: Iterable[tuple[int, int, int]] = ()) -> int:
        """One operation with its label; returns its serial."""
        self._labels.append((_KIND[kind], _CAUSE[cause], device, self.step, self.layer, expert, bytes_))
        return self.ops.op(holds, after=after, length_ps=length_ps, priority=priority, quantum_ps=quantum_ps,
                           takes=takes)

    def issued(self, device: int, family: str, after: list[Edge]) -> list[Edge]:
        """What a device's work of that family must also wait for: the host thread that issues it, if there is one."""
        unit = self.machine.devices[device]
        kernel = unit.kernels.get(family)
        if unit.issuer is None or kernel is None:
            return after
        return [*after, Edge(self.add("issue", {unit.issuer.lane: kernel.issue_ps}, device=device))]

    def host(self, device: int, family: str) -> None:
        """What the host does for a device that is no work of the device: record an event, wait for one."""
        self.issued(device, family, [])

    def kernel(self, device: int, family: str, bytes_: int, flops: int, after: Sequence[Edge], *,
               expert: int = NO, ps: int | None = None) -> list[Edge]:
        """A kernel on a device, and the edges that later work waits for: its end, or `after` where it costs nothing.
        ps: how long it takes, where its roofline does not say."""
        unit = self.machine.devices[device]
        kernel = unit.kernels.get(family)
        if kernel is None:
            return list(after)
        waits = self.issued(device, family, list(after))
        ps = kernel.ps(bytes_, flops) if ps is None else ps
        self.worked[device] += bytes_, flops
        return [Edge(self.add(family, dict.fromkeys(unit.lanes, ps), after=waits, device=device, expert=expert,
                              bytes_=bytes_))]

    def acted_ps(self, device: int, columns: int, tokens: int) -> int | None:
        """What the expert kernel takes where action times say it."""
        actions = self.machine.actions
        if actions is None or self._model is None:
            return None
        return actions.compute_ps(self._model, self.machine.devices[device].kernels["expert"], columns, tokens)

    def move(self, pairs: list[tuple[int, int]], bytes_: int, cause: str, columns: int = 0) -> Transfer:
        """What moving bytes takes: bytes over bandwidth, or the action of a simulator. columns: of an expert."""
        actions, model = self.machine.actions, self._model
        if actions is None or model is None or cause == "recovery":
            return self.machine.transfers(pairs, bytes_)
        if cause == "return":
            return Transfer({}, 0)
        if cause == "dispatch":
            return self.machine.held(pairs, lambda link: actions.message_ps(model, link.bytes_per_s, bytes_))
        action = actions.hop if cause == "stream" else actions.load
        move = self.machine.held(pairs, lambda link: actions.moved_ps(action, model, link.bytes_per_s, columns))
        return move._replace(length_ps=move.length_ps + actions.allocate * actions.frame_ps)

    def copy(self, pairs: list[tuple[int, int]], bytes_: int, cause: str, after: Sequence[Edge], *,
             priority: int = DEMAND, expert: int = NO, takes: Iterable[tuple[int, int, int]] = (),
             columns: int = 0) -> int:
        """The same bytes from sources to targets as one operation; work less urgent than DEMAND has a quantum."""
        for pair in pairs:
            if pair not in self.machine.routes:
                ends = [self.machine.devices[end].name for end in pair]
                raise PlanError(f"the plan moves bytes from {ends[0]!r} to {ends[1]!r}, but no links lead there")
        move = self.move(pairs, bytes_, cause, columns)
        self._count({link: bytes_ for pair in pairs for link in self.links_of(pair)}, cause)
        for devices in zip(*pairs, strict=True):  # sources, then targets
            self.worked[list(set(devices)), 0] += bytes_
        target = pairs[0][1]
        waits = list(after)
        host = next((d for d in (target, pairs[0][0]) if self.machine.devices[d].issuer is not None), NO)
        if host != NO:
            waits = self.issued(host, "copy", waits)
        quantum_ps = 0
        if priority > DEMAND and self.machine.quantum_bytes:
            quantum_ps = max(self.machine.quantum_ps(*pair) for pair in pairs)
        return self.add("copy", move.holds, after=waits, device=target, expert=expert, cause=cause, bytes_=bytes_,
                        length_ps=move.length_ps, priority=priority, quantum_ps=quantum_ps, takes=takes)

    def collective(self, amounts: dict[tuple[int, int], int], cause: str, after: Sequence[Edge]) -> int:
        """An all-to-all as one operation: each link is held for all that crosses it."""
        carried: dict[int, int] = {}
        for pair, bytes_ in amounts.items():
            self.worked[list(pair), 0] += bytes_
            for link in self.links_of(pair):
                carried[link] = carried.get(link, 0) + bytes_
        self._count(carried, cause)
        length_ps = 0
        holds: dict[int, int] = {}
        for number, bytes_ in carried.items():
            crossed = self.machine.links[number]
            holds[crossed.lane] = holds.get(crossed.lane, 0) + per_second_ps(bytes_, crossed.bytes_per_s)
        for pair in amounts:
            length_ps = max(length_ps, sum(link.latency_ps for link in self.machine.routes[pair]))
        return self.add("copy", holds, after=after, cause=cause, bytes_=sum(amounts.values()),
                        length_ps=max(holds.values(), default=0) + length_ps)

    def join(self, after: Sequence[Edge]) -> int:
        """An operation without work that ends when all of `after` have happened."""
        return self.add("join", after=after)

    def sync(self, device: int, after: Sequence[Edge]) -> list[Edge]:
        """The host waits for `after` before it issues anything more to the device; without a host, `after`."""
        issuer = self.machine.devices[device].issuer
        if issuer is None:
            return list(after)
        return [Edge(self.add("sync", {issuer.lane: issuer.sync_ps}, after=after, device=device))]

    def links_of(self, pair: tuple[int, int]) -> list[int]:
        """Numbers of the links of a route."""
        return [self.machine.link_number[link.name] for link in self.machine.routes[pair]]

    def _count(self, carried: dict[int, int], cause: str) -> None:
        for link, bytes_ in carried.items():
            self.moved_bytes[link, _CAUSE[cause]] += bytes_


def device_name(machine: Machine, number: int) -> str:
    return machine.devices[number].name if number != NO else ""


def describe(machine: Machine, labels: Sequence[Labels], op: int) -> str:
    """An operation in words, for messages."""
    row = op
    for batch in labels:
        if row < len(batch.kind):
            kind, _, device, step, layer, expert, _ = (int(column[row]) for column in batch)
            words = [KINDS[kind]]
            words += [f"of expert {expert}"] if expert != NO else []
            words += [f"on {device_name(machine, device)}"] if device != NO else []
            words += [f"in layer {layer}"] if layer != NO else []
            words += [f"of step {step}"] if step != NO else []
            return " ".join(words)
        row -= len(batch.kind)
    return f"op {op}"

