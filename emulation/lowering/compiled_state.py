"""What the compiled lowering keeps between layers: shards and their marks, room, counts; and its scratch."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.lowering.emit import WORK

Ints = NDArray[Any]
Grid = NDArray[Any]
Solid = NDArray[Any]
Block = NDArray[Any]
"""Arrays of two, three and four dimensions."""
NONE = -1

(HITS, MISSES, LOADS, LOADED_BYTES, PREFETCHED, ISSUED, USES, AT_HOME, SUBSTITUTED, DROPPED,
 SUBSTITUTED_EXPERTS) = range(11)
NUMBERS = 11


class State(NamedTuple):
    """slot [devices]: the row of a device in what follows, of those that may hold copies.

    since, handle, ready, use, use_step, prefetch [slots, moe_layers, experts, parts]: when a copy was issued (NONE:
    absent), its hold on the memory, the operation that brings it, its last use and the step of that; the prefetch that
    brought it and is not used yet. rest [moe_layers, experts, parts]. left_*: evicted copies whose room no load has
    waited for, a ring a slot. worked [devices, WORK], phase [2, NUMBERS], runs [2, devices], load
    [moe_layers, experts]: counts.
    used_op, used_at: prefetches that were used, and the decision that did so.
    """

    slot: Ints
    rest: Solid
    since: Block
    handle: Block
    ready: Block
    use: Block
    use_step: Block
    prefetch: Block
    part_bytes: Ints
    used_bytes: Ints
    peak_bytes: Ints
    budget_bytes: Ints
    pool: Ints
    left_bytes: Grid
    left_ready: Grid
    left_use: Grid
    left_first: Ints
    left_n: Ints
    left_total: Ints
    moved: Grid
    worked: Grid
    phase: Grid
    runs: Grid
    load: Grid
    used_op: Ints
    used_at: Ints
    homes: Ints


class Scratch(NamedTuple):
    """Of one layer. visits [1]: how many there are, where runs are a layer early. visit_of [devices]; visit_device
    [visits]; rows, back [visits, homes]; arrived [visits, homes + 1], arrived_n [visits]; first_run, last_run [visits],
    next_run, run_end [rows]; tokens, ran [experts]; first_on, next_on: the devices of each expert; stamp [devices];
    crossed [links]; sent, here, shared, hidden [homes]."""

    visits: Ints
    visit_of: Ints
    visit_device: Ints
    rows: Grid
    back: Grid
    arrived: Grid
    arrived_n: Ints
    first_run: Ints
    last_run: Ints
    next_run: Ints
    run_end: Ints
    ran: Ints
    first_on: Ints
    next_on: Ints
    on: Ints
    stamp: Ints
    crossed: Ints
    sent: Ints
    here: Ints
    shared: Ints
    hidden: Ints


def make_state(slot: Ints, homes: Ints, rest: Ints, part_bytes: Ints, used_bytes: Ints, peak_bytes: Ints,
               budget_bytes: Ints, pool: Ints, links: int, causes: int) -> State:
    """A state in which nothing is copied; the ledger's columns of bytes are shared with it."""
    slots, (moe, experts, parts) = int(slot.max(initial=NONE)) + 1, rest.shape
    absent = [np.full((slots, moe, experts, parts), NONE, np.int64) for _ in range(6)]
    ring = max(1, moe * experts * parts + 1)
    left = [np.zeros((slots, ring), np.int64) for _ in range(3)]
    of_slot = [np.zeros(slots, np.int64) for _ in range(3)]
    return State._make([slot, rest, *absent, part_bytes, used_bytes, peak_bytes, budget_bytes, pool, *left, *of_slot,
                        np.zeros((links, causes), np.int64), np.zeros((len(slot), len(WORK)), np.int64),
                        np.zeros((2, NUMBERS), np.int64),
                        np.zeros((2, len(slot)), np.int64), np.zeros((moe, experts), np.int64), np.zeros(1, np.int64),
                        np.zeros(1, np.int64), homes])


def make_scratch(devices: int, homes: int, experts: int, links: int, rows: int) -> Scratch:
    """Scratch for plans of so many rows."""
    def ints(*shape: int) -> Ints:
        return np.zeros(shape, np.int64)

    return Scratch(
        visits=ints(1), visit_of=np.full(devices, NONE, np.int64), visit_device=ints(devices),
        rows=ints(devices, homes), back=ints(devices, homes), arrived=ints(devices, homes + 1),
        arrived_n=ints(devices), first_run=ints(devices), last_run=ints(devices), next_run=ints(rows),
        run_end=ints(rows), ran=ints(experts), first_on=ints(experts), next_on=ints(rows), on=ints(rows),
        stamp=ints(devices), crossed=np.full(links, NONE, np.int64), sent=ints(homes), here=ints(homes),
        shared=ints(homes), hidden=ints(homes))
