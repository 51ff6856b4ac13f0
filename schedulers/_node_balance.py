"""HD-MoE's node balance (arXiv 2509.09420): a fractional placement of one layer's experts over nodes, by HiGHS.

The program: P [experts, nodes] in [0, 1], each row adding up to one; touch [groups, nodes] at least 1 where a node holds
anything of a group's experts. Least t_comp + 2 t_comm, with for every node t_comp >= 2 h I B sum_e P_ec f_e / comp and
t_comm >= 4 g B h sum_groups freq touch / BW; a node's load is at most (1/R + 1) k / D with R = BW I k / (2 D comp). All
of it is proportional to B, which is left out.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.errors import ConfigError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
G = 4


class Costs(NamedTuple):
    """Seconds a token: of one whole expert on one node, of one group's touch of one node; a node's largest load in
    experts a token; and the largest share of a layer's experts that its memory holds, in experts, [nodes]."""

    compute_s: float
    touch_s: float
    most_load: float
    room: tuple[float, ...]


def costs_of(h: int, inner: int, k: int, nodes: int, comp: float, bandwidth: float, room: tuple[float, ...]) -> Costs:
    """The stated coefficients: comp in flop/s of one node, bandwidth in B/s of one link."""
    ratio = bandwidth * inner * k / (2 * nodes * comp)
    return Costs(2 * h * inner / comp, 4 * G * h / bandwidth, (1 / ratio + 1) * k / nodes, room)


def groups_of(counts: Ints, k: int, most: int) -> tuple[tuple[tuple[int, ...], float], ...]:
    """Experts that tokens visit together, and how often a token does: of the steps of one token in a history, counts
    [steps, experts], the `most` most frequent (ties: as numbers); each expert by itself where there are none."""
    alone = counts[(counts.sum(axis=1) == k) & (counts.max(axis=1, initial=0) == 1)]
    if not len(alone):
        load = frequency(counts.sum(axis=0), k)
        return tuple(((e,), float(f)) for e, f in enumerate(load))
    sets, times = np.unique(alone > 0, axis=0, return_counts=True)
    first = np.argsort(-times, kind="stable")[:most]
    share = times[first] / times[first].sum()
    return tuple((tuple(np.flatnonzero(sets[i]).tolist()), float(s)) for i, s in zip(first, share, strict=True))


def frequency(counts: Ints, k: int) -> Floats:
    """How often a token visits each expert: adds up to k. Without counts, all alike."""
    whole = counts.astype(np.float64) if counts.sum() else np.ones(len(counts))
    return k * whole / whole.sum()


def objective(placed: Floats, load: Floats, groups: tuple[tuple[tuple[int, ...], float], ...], costs: Costs) -> float:
    """t_comp + 2 t_comm of a placement [experts, nodes], in seconds a token."""
    touched = sum(share * (placed[list(members)] > 0).any(axis=0) for members, share in groups)
    return float(costs.compute_s * (load @ placed).max() + 2 * costs.touch_s * np.max(touched))


@cache
def solve(given: bytes, loads: tuple[float, ...], groups: tuple[tuple[tuple[int, ...], float], ...], costs: Costs,
          solved: int, gap: float, nodes_limit: int) -> bytes:
    """The placement [experts, nodes] as bytes of float64. given: the one to begin with, which is the answer where the
    solver finds none of a lower objective within its gap and its limit of branch-and-bound nodes.

    Only the `solved` most visited experts are placed anew, the others stay: nodes are alike, and a program of all of
    128 experts on 16 of them does not end.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import lil_array

    load = np.array(loads)
    start = np.frombuffer(given, np.float64).reshape(len(load), -1)
    nodes, scale = start.shape[1], objective(start, load, groups, costs)
    free = np.sort(np.argsort(-load, kind="stable")[:solved]).tolist()
    fixed = np.setdiff1d(np.arange(len(load)), free)
    place = {e: i for i, e in enumerate(free)}
    mine = [(tuple(place[e] for e in members if e in place), share,
             (start[[e for e in members if e not in place]] > 0).any(axis=0)) for members, share in groups]
    mixed = [(members, share, there) for members, share, there in mine if members]
    n, shares = len(free) * nodes, len(mixed) * nodes
    width = 2 + 2 * n + shares  # t_comp, t_comm, P, whether P > 0, touch
    rows: list[tuple[dict[int, float], float, float]] = []
    base, base_touch = load[fixed] @ start[fixed], sum((share * there for members, share, there in mine if not members),
                                                      np.zeros(nodes))
    used = start[fixed].sum(axis=0)
    for c in range(nodes):
        loaded = {2 + i * nodes + c: float(load[e]) for i, e in enumerate(free)}
        rows.append(({0: scale / costs.compute_s, **{at: -f for at, f in loaded.items()}}, float(base[c]), np.inf))
        rows.append((loaded, -np.inf, max(costs.most_load - float(base[c]), 0.0)))
        rows.append(({2 + i * nodes + c: 1.0 for i in range(len(free))}, -np.inf, costs.room[c] - float(used[c])))
        touches = {2 + 2 * n + g * nodes + c: -share for g, (_, share, _) in enumerate(mixed)}
        rows.append(({1: scale / costs.touch_s, **touches}, float(base_touch[c]), np.inf))
    for i in range(len(free)):
        rows.append(({2 + i * nodes + c: 1.0 for c in range(nodes)}, 1.0, 1.0))
        rows += [({2 + n + i * nodes + c: 1.0, 2 + i * nodes + c: -1.0}, 0.0, np.inf) for c in range(nodes)]
    for g, (members, _, _) in enumerate(mixed):
        rows += [({2 + 2 * n + g * nodes + c: 1.0, 2 + n + i * nodes + c: -1.0}, 0.0, np.inf)
                 for i in members for c in range(nodes)]
    matrix = lil_array((len(rows), width))
    for at, (terms, _, _) in enumerate(rows):
        for column, value in terms.items():
            matrix[at, column] = value
    low, high = np.zeros(width), np.ones(width)
    high[:2] = np.inf
    low[2 + 2 * n:] = np.concatenate([there.astype(float) for _, _, there in mixed]) if mixed else 0.0
    whole = np.zeros(width)
    whole[2 + n:2 + 2 * n] = 1
    cost = np.zeros(width)
    cost[:2] = 1.0, 2.0
    found = milp(cost, integrality=whole, bounds=Bounds(low, high),
                 constraints=LinearConstraint(matrix.tocsr(), [r[1] for r in rows], [r[2] for r in rows]),
                 options={"mip_rel_gap": gap, "node_limit": nodes_limit})
    placed = start.copy()
    if found.x is not None:
        new = np.maximum(found.x[2:2 + n].reshape(len(free), nodes), 0.0)
        placed[free] = np.where(new < 1e-6, 0.0, new)
    fits = (start.sum(axis=0) <= np.array(costs.room) + 1e-9).all()
    if found.x is None and not fits:
        raise ConfigError("hd_moe finds no placement that fits the nodes' memories")
    return (placed if not fits or objective(placed, load, groups, costs) < scale * (1 - 1e-9) else start).tobytes()


def in_parts(placed: Floats, parts: int, room: Floats) -> Ints:
    """Whole parts of each expert on each node, [experts, nodes]: the largest remainders are rounded up (ties: the lower
    node), where the node's memory has room (in experts, [nodes]) for them."""
    exact = placed / placed.sum(axis=1, keepdims=True) * parts
    held = np.floor(exact + 1e-9).astype(np.int64)
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
