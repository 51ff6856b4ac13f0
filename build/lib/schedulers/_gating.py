"""What gated expert parallelism shares: owners, capacities, who is dropped. Pure functions (arXiv 2303.06182)."""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from emulation.errors import ConfigError
from emulation.ledger import Start
from emulation.plan import RUN, Plan, Served
from emulation.view import Setting, View
from schedulers._placement import Placement, placed
from schedulers._places import places

Ints = NDArray[np.int64]


def at_rest(setting: Setting, policy: str, placement: Placement = "contiguous") -> tuple[Start, Ints]:
    """Experts rest and run on the devices that hold them, placed; (start, device [moe_layers, experts]).

    Refuses a machine whose devices must load the experts that they run.
    """
    shared = places(setting.machine, policy)
    if any(stores != (device,) for device, stores in zip(shared.devices, shared.stores, strict=True)):
        raise ConfigError(f"{policy} runs experts where they rest, and on machine {setting.machine.name!r} they rest "
                          "on devices that compute nothing: use expert_parallel")
    device = np.asarray(shared.devices)[placed(setting, len(shared.devices), placement)]
    return Start(device[:, :, None]), device


def tokens_at_home(view: View) -> int:
    """The most tokens of this step that lie on one home: S of the paper."""
    return int(np.unique(view.step.home, return_counts=True)[1].max())


def largest_count(view: View) -> int:
    """The most rows that one home has for one expert."""
    pairs = view.routing.pairs
    if not len(pairs.token):
        return 1
    key = view.step.home[pairs.token] * view.setting.model.experts + pairs.expert
    return int(np.unique(key, return_counts=True)[1].max())


def capacity(factor: str, tokens: int) -> int:
    """Rows of an expert from a home of so many tokens: S C, rounded up and at least one."""
    rows = Fraction(factor) * tokens
    return max(1, -(-rows.numerator // rows.denominator))


def within(view: View, most: int) -> Served:
    """Who is served where no home sends an expert more than so many rows; the others are dropped.

    Rows are given out in the order of tokens, to all first choices before any second one (GShard, arXiv 2006.16668,
    algorithm 1). Weights stay as they are.
    """
    routing, experts = view.routing, view.setting.model.experts
    pairs = routing.pairs
    place = np.nonzero(routing.experts >= 0)[1]
    home = view.step.home[pairs.token]
    order = np.lexsort((pairs.token, place, pairs.expert, home))
    key = (home * experts + pairs.expert)[order]
    first = np.r_[True, key[1:] != key[:-1]] if len(key) else np.zeros(0, np.bool_)
    row = np.arange(len(key)) - np.maximum.accumulate(np.where(first, np.arange(len(key)), 0))
    kept = np.sort(order[row < most])
    return Served(pairs.token[kept], pairs.expert[kept], pairs.weight[kept], np.full(len(kept), view.layer),
                  pairs.expert[kept])


def run_all(plan: Plan, device: Ints) -> None:
    """Every expert runs where it rests, those to whom nobody is routed, too."""
    plan.extend(RUN, np.arange(len(device)), device)
