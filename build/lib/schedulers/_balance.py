"""How many experts to move to the home so that it and the units beside it are done soonest. Times in picoseconds."""

from collections.abc import Sequence

from emulation.machine import Machine


def overlapped(hits_ps: int, load_ps: list[int], run_ps: list[int], before_ps: int = 0) -> list[int]:
    """When the home is done if it takes the first m, m = 0..k: g = max(g, m T_w) + T_g(n_m), starting with its hits.

    Transfers are serial on the link and overlap runs (A2). before_ps: what the first finds on the link, and how much
    later than the link is free again a copy has arrived.
    """
    done, arrived = hits_ps, before_ps
    out = [done]
    for load, run in zip(load_ps, run_ps, strict=True):
        arrived += load
        done = max(done, arrived) + run
        out.append(done)
    return out


def left_beside(run_ps: list[int], owner: list[int], owners: int, exchange_ps: int = 0) -> list[int]:
    """When the units are done if the first m experts are moved away, m = 0..k: the fullest queue, and the exchange."""
    queue, fullest = [0] * owners, 0
    out = [0] * (len(run_ps) + 1)
    for i in range(len(run_ps) - 1, -1, -1):
        queue[owner[i]] += run_ps[i]
        fullest = max(fullest, queue[owner[i]])
        out[i] = fullest + exchange_ps
    return out


def fewest(home_ps: list[int], units_ps: list[int]) -> int:
    """The m with the earliest end of both sides; on a tie the smaller."""
    worst = list(map(max, home_ps, units_ps))
    return worst.index(min(worst))


def together_ps(machine: Machine, pairs: Sequence[tuple[int, int]], bytes_: Sequence[int]) -> tuple[int, int]:
    """Several messages at once, each as soon as its links are free: how long the busiest is held, the last arrival."""
    free: dict[int, int] = {}
    held: dict[int, int] = {}
    last_ps = 0
    for pair, size in zip(pairs, bytes_, strict=True):
        move = machine.transfer(*pair, size)
        start_ps = max((free.get(lane, 0) for lane in move.holds), default=0)
        for lane, ps in move.holds.items():
            free[lane], held[lane] = start_ps + ps, held.get(lane, 0) + ps
        last_ps = max(last_ps, start_ps + move.length_ps)
    return max(held.values(), default=0), last_ps
