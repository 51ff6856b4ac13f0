"""The mixed-integer program of HD-MoE's node balance (arXiv 2509.09420), for HiGHS by way of SciPy."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Groups = tuple[tuple[tuple[int, ...], float], ...]
"""Experts that a token visits together, and how often a token does."""

GAP = 0.05
"""The paper's; its limit of 60 s a layer would make a plan depend on the host: NODES_LIMIT stops the search instead."""

NODES_LIMIT = 1


class Costs(NamedTuple):
    """Seconds a token: of one whole expert on one node, of one group's touch of one node; a node's largest load in
    experts a token; and the largest share of a layer's experts that its memory holds, in experts, [nodes]."""

    compute_s: float
    touch_s: float
    most_load: float
    room: tuple[float, ...]


def program(start: Floats, load: Floats, groups: Groups, costs: Costs, free: Ints, scale: float) -> Floats | None:
    """P of the free experts [free, nodes], if the solver finds any. Columns: t_comp and t_comm in units of `scale`, P,
    whether P > 0, touch."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    nodes, place = start.shape[1], {e: i for i, e in enumerate(free.tolist())}
    fixed = np.setdiff1d(np.arange(len(load)), free)
    held_touch, mixed = np.zeros(nodes), []
    for members, share in groups:
        there = (start[[e for e in members if e not in place]] > 0).any(axis=0)
        mine = [place[e] for e in members if e in place]
        if mine:
            mixed.append((mine, share, there))
        else:
            held_touch = held_touch + share * there
    held, used = load[fixed] @ start[fixed], start[fixed].sum(axis=0)
    n, first_z = len(free), 2 + len(free) * nodes
    first_t = first_z + n * nodes
    rows: list[tuple[dict[int, float], float, float]] = []
    for c in range(nodes):
        mine_c = [2 + i * nodes + c for i in range(n)]
        loaded = dict(zip(mine_c, load[free].tolist(), strict=True))
        rows.append(({0: scale / costs.compute_s, **{at: -f for at, f in loaded.items()}}, float(held[c]), np.inf))
        rows.append((loaded, -np.inf, max(costs.most_load - float(held[c]), 0.0)))
        rows.append((dict.fromkeys(mine_c, 1.0), -np.inf, costs.room[c] - float(used[c])))
        touches = {first_t + g * nodes + c: -share for g, (_, share, _) in enumerate(mixed)}
        rows.append(({1: scale / costs.touch_s, **touches}, float(held_touch[c]), np.inf))
    rows += [(dict.fromkeys(range(2 + i * nodes, 2 + (i + 1) * nodes), 1.0), 1.0, 1.0) for i in range(n)]
    rows += [({first_z + at: 1.0, 2 + at: -1.0}, 0.0, np.inf) for at in range(n * nodes)]
    for g, (mine, _, _) in enumerate(mixed):
        rows += [({first_t + g * nodes + c: 1.0, first_z + i * nodes + c: -1.0}, 0.0, np.inf)
                 for i in mine for c in range(nodes)]
    width = first_t + len(mixed) * nodes
    low, high, whole, cost = np.zeros(width), np.ones(width), np.zeros(width), np.zeros(width)
    high[:2], whole[first_z:first_t], cost[:2] = np.inf, 1, (1.0, 2.0)
    low[first_t:] = np.array([there for _, _, there in mixed], np.float64).ravel()
    entries = [(value, at, column) for at, (terms, _, _) in enumerate(rows) for column, value in terms.items()]
    value, at, column = (np.array(part) for part in zip(*entries, strict=True))
    found = milp(cost, integrality=whole, bounds=Bounds(low, high),
                 options={"mip_rel_gap": GAP, "node_limit": NODES_LIMIT, "presolve": False},
                 constraints=LinearConstraint(csr_array((value, (at, column)), shape=(len(rows), width)),
                                              [row[1] for row in rows], [row[2] for row in rows]))
    return None if found.x is None else np.maximum(found.x[2:first_z].reshape(n, nodes), 0.0)
