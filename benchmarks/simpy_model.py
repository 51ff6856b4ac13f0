"""The plan as a SimPy model: a process an operation, and a board that gives out lanes and pools by the same rule.

SimPy's own resources are asked for one at a time, and would hold one lane while they wait for the next; so the board
grants all lanes and pools of an operation at once, by priority, after all that ends at an instant has ended. It looks
only at queues of lanes and pools that changed.
"""

from bisect import insort
from collections.abc import Generator, Sequence

import numpy as np
import simpy

from emulation.engine.contract import Spans
from emulation.ops import Lane, Ops, Pool

AFTER_THE_REST = 2
"""Urgency of an event in SimPy's queue: after those of the same instant (0 and 1)."""


class Board:
    """Servers free in each lane and amounts free in each pool, and requests that wait for them."""

    def __init__(self, env: simpy.Environment, lanes: Sequence[Lane], pools: Sequence[Pool]) -> None:
        self.env = env
        self.free = [lane.servers for lane in lanes] + [pool.capacity for pool in pools]
        self.queues: list[list[tuple[int, int, int]]] = [[] for _ in self.free]
        self.changed: dict[int, None] = {}
        self.fresh: list[tuple[int, int, int]] = []
        self.wants: dict[int, list[tuple[int, int, int]]] = {}
        self.granted: dict[int, simpy.Event] = {}
        self.called = False

    def ask(self, order: tuple[int, int, int], wants: list[tuple[int, int, int]]) -> simpy.Event:
        """An event that succeeds when every (place, needs, amount) was there at once."""
        self.granted[order[2]] = self.env.event()
        self.wants[order[2]] = wants
        self.fresh.append(order)
        self._call()
        return self.granted[order[2]]

    def give(self, place: int, amount: int) -> None:
        self.free[place] += amount
        if self.queues[place]:
            self.changed[place] = None
            self._call()

    def _call(self) -> None:
        if not self.called:
            self.called = True
            grant = self.env.event()
            grant._ok, grant._value = True, None
            grant.callbacks.append(self._grant)
            self.env.schedule(grant, priority=AFTER_THE_REST)

    def _grant(self, _: simpy.Event) -> None:
        self.called = False
        candidates = {order: None for place in self.changed for order in self.queues[place]}
        candidates.update(dict.fromkeys(self.fresh))
        fresh = set(self.fresh)
        self.changed, self.fresh = {}, []
        for order in sorted(candidates):
            wants = self.wants[order[2]]
            if any(self.free[place] < needs for place, needs, _ in wants):
                if order in fresh:
                    for place, _, _ in wants:
                        insort(self.queues[place], order)
                continue
            for place, _, amount in wants:
                self.free[place] -= amount
                if order not in fresh:
                    self.queues[place].remove(order)
            self.granted.pop(order[2]).succeed()


def simulate(ops: Ops, lanes: Sequence[Lane], pools: Sequence[Pool]) -> Spans:
    """Spans of a plan without quanta and in-order lanes, of one hold's length an operation, by SimPy."""
    env = simpy.Environment()
    board = Board(env, lanes, pools)
    starts = [env.event() for _ in range(len(ops))]
    ends = [env.event() for _ in range(len(ops))]
    spans = Spans(np.full(len(ops), -1), np.full(len(ops), -1))

    def operation(i: int) -> Generator[simpy.Event, None, None]:
        yield env.all_of([ends[edge.op] if edge.edge else starts[edge.op] for edge in ops.waits_of(i)])
        wants = [(lane, 1, 1) for lane, _ in ops.holds_of(i)]
        taken = [(len(lanes) + pool, needs, amount) for _, pool, needs, amount in ops.takes_of(i)]
        yield board.ask((int(ops.priority[i]), int(env.now), i), wants + taken)
        spans.start_ps[i] = env.now
        starts[i].succeed()
        yield env.timeout(int(ops.length_ps[i]))
        spans.end_ps[i] = env.now
        ends[i].succeed()
        for place, _, amount in wants + taken:
            board.give(place, amount)

    for i in range(len(ops)):
        env.process(operation(i))
    env.run()
    return spans
