"""HD-MoE's node balance (arXiv 2509.09420): a fractional placement of one layer's experts over nodes, by HiGHS.

The program: P [experts, nodes] in [0, 1], each row adding up to one; touch [groups, nodes] is 1 where a node holds any
of a group's experts. Least t_comp + 2 t_comm, with for every node t_comp >= 2 h I B sum_e P_ec f_e / comp and
t_comm >= 4 g B h sum_groups freq touch / BW; a node's load is at most (1/R + 1) k / D with R = BW I k / (2 D comp). All
of it is proportional to B, which is left out.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from emulation.errors import ConfigError
from schedulers._node_program import Costs, Groups, program

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
G = 4
SOLVED = 4
"""Experts that a program places anew, the most visited. Nodes are alike, so that a program of many experts on 16 of
them is slow: with 4 experts it took 0.02 to 3 s a layer, with 16 up to 20 s."""

GROUPS = 32


def costs_of(h: int, inner: int, k: int, nodes: int, comp: float, bandwidth: float, room: tuple[float, ...]) -> Costs:
    """The stated coefficients: comp in flop/s of one node, bandwidth in B/s of one link."""
    ratio = bandwidth * inner * k / (2 * nodes * comp)
    return Costs(2 * h * inner / comp, 4 * G * h / bandwidth, (1 / ratio + 1) * k / nodes, room)


def groups_of(counts: Ints, k: int) -> Groups:
    """Experts that tokens visit together, and how often a token does: of the steps of one token in a history, counts
    [steps, experts], the GROUPS most frequent (ties: as numbers); each expert by itself where there are none."""
    alone = counts[(counts.sum(axis=1) == k) & (counts.max(axis=1, initial=0) == 1)]
    if not len(alone):
        load = frequency(counts.sum(axis=0), k)
        return tuple(((e,), float(f)) for e, f in enumerate(load))
    sets, times = np.unique(alone > 0, axis=0, return_counts=True)
    first = np.argsort(-times, kind="stable")[:GROUPS]
    share = times[first] / times[first].sum()
    chosen = [np.flatnonzero(sets[i]).tolist() for i in first.tolist()]
    return tuple((tuple(members), float(s)) for members, s in zip(chosen, share, strict=True))


def frequency(counts: Ints, k: int) -> Floats:
    """How often a token visits each expert: adds up to k. Without counts, all alike."""
    whole = counts.astype(np.float64) if counts.sum() else np.ones(len(counts))
    found: Floats = k * whole / whole.sum()
    return found


def objective(placed: Floats, load: Floats, groups: Groups, costs: Costs) -> float:
    """t_comp + 2 t_comm of a placement [experts, nodes], in seconds a token."""
    return float(costs.compute_s * (load @ placed).max() + 2 * costs.touch_s * touched(placed, groups).max())


def touched(placed: Floats, groups: Groups) -> Floats:
    """How many groups a token brings to each node of a placement [experts, nodes], on average: [nodes]."""
    found: Floats = np.sum([share * (placed[list(members)] > 0).any(axis=0) for members, share in groups], axis=0)
    return found


@cache
def solve(given: bytes, loads: tuple[float, ...], groups: Groups, costs: Costs) -> bytes:
    """The placement [experts, nodes] as bytes of float64. given: the one to begin with (whole experts as numbered).

    SciPy's interface takes no warm start: `given` stays where the solver finds nothing of a lower objective within GAP
    and NODES_LIMIT. Only the SOLVED most visited experts are placed anew (see there).
    """
    load = np.array(loads)
    start = np.frombuffer(given, np.float64).reshape(len(load), -1)
    scale = objective(start, load, groups, costs)
    free = np.sort(np.argsort(-load, kind="stable")[:SOLVED])
    placed, fits = start.copy(), bool((start.sum(axis=0) <= np.array(costs.room) + 1e-9).all())
    found = program(start, load, groups, costs, free, scale)
    if found is None:
        if not fits:
            raise ConfigError("hd_moe finds no placement that fits the nodes' memories")
        return given
    placed[free] = np.where(found < 1e-6, 0.0, found)
    better = not fits or objective(placed, load, groups, costs) < scale * (1 - 1e-9)
    return placed.tobytes() if better else given


def in_parts(placed: Floats, parts: int, room: Floats) -> Ints:
    """Whole parts of each expert on each node, [experts, nodes]: the largest remainders are rounded up (ties: the lower
    node), where the node's memory has room (in experts, [nodes]) for them."""
    exact = placed / placed.sum(axis=1, keepdims=True) * parts
    held: Ints = np.floor(exact + 1e-9).astype(np.int64)
    for e in range(len(held)):
        order = np.argsort(-(exact[e] - held[e]), kind="stable").tolist()
        while held[e].sum() < parts:
            fits = [c for c in order if held[:, c].sum() + 1 <= room[c] * parts + 1e-9]
            if not fits:
                raise ConfigError("hd_moe finds no placement in whole parts that fits the nodes' memories")
            held[e, fits[0]] += 1
            order.remove(fits[0])
            order.append(fits[0])
    return held
