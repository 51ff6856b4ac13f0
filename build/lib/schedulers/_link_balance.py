"""HD-MoE's link balance (arXiv 2509.09420): which node's experts lie where on the mesh."""

import numpy as np
from numpy.typing import NDArray

from emulation.machine import Machine
from emulation.units import per_second_ps

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
RANDOM, CALLS = 10, 50
"""Random tries, and tries in all, as the paper's search has them."""

STEP = 0.5
_UNIT = 1 << 30


def link_times(machine: Machine, devices: tuple[int, ...]) -> Ints:
    """How long each link is held by a gibibyte from every home to each device and back, [links, devices], in ps."""
    times = np.zeros((len(machine.links), len(devices)), np.int64)
    for column, device in enumerate(devices):
        for home in machine.homes:
            for pair in ((home, device), (device, home)):
                for link in machine.routes[pair] if home != device else ():
                    times[machine.link_number[link.name], column] += per_second_ps(_UNIT, link.bytes_per_s)
    return times


def busiest(times: Ints, touched: Floats, order: Ints) -> float:
    """The longest that a link is held, where node i's tokens go to device order[i]: links carry one message at a time,
    so what crosses one adds up. touched [nodes]: share of the tokens that visit each node."""
    return float((times[:, order] @ touched).max(initial=0.0))


def arranged(times: Ints, touched: Floats, seed: int) -> Ints:
    """The device of each node [nodes]: the best of CALLS orders by `busiest`, the one as numbered to begin with.

    A try is a matrix of scores [nodes, devices], rounded to an order by the Hungarian method: RANDOM of them drawn
    afresh, then the best one's with noise of STEP added. The paper fits a Gaussian process where this adds noise.
    """
    from scipy.optimize import linear_sum_assignment

    rng = np.random.default_rng(seed)
    nodes = len(touched)
    best, score = np.arange(nodes), STEP * np.eye(nodes)
    least = busiest(times, touched, best)
    for call in range(CALLS):
        drawn = rng.random((nodes, nodes))
        trial = drawn if call < RANDOM else score + STEP * (2 * drawn - 1)
        order = linear_sum_assignment(trial, maximize=True)[1].astype(np.int64)
        cost = busiest(times, touched, order)
        if cost < least:
            best, score, least = order, trial, cost
    return best
