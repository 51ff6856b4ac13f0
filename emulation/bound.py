"""A lower bound of the time of a whole run: no schedule that the lowering can express ends earlier.

LB = max(P, R), of a machine, a model, room for experts and the routing served (or the true one).

P, the path. Steps follow each other, and so do the layers of a step: the attention of a layer waits for the sums of
the one before, its plan for the router. So the run lasts at least, over its steps, the arrival or the end of the step
before, plus the dense work before the first router, plus for each MoE layer the least time from its router to the next
decision, wherever its experts lie and however they are cut (`bound_path`).

R, the relaxation (`bound_lp`): the same stretches, with one placement for all of them that fits the memories, the bytes
that placing leaves to be moved, and lanes and links that are each busy for no longer than there is time.

Both stay below every schedule because (1) an expert over n tokens, cut by columns and tokens into pieces, takes on one
device at least its fraction x of the uncut time: a piece of a columns and b tokens has x = a b <= a, b; it reads
a W + b n (...) >= x (W + n (...)) bytes, computes x of the flops, and its overhead is o >= x o: at least x T(1) in all,
with T(1) = o + max(.); (2) a maximum is at least any weighted mean; (3) what is left out (waiting, order, whole
experts, returns of memory) only adds time. Durations of the lowering are rounded up, all sums here are rounded down.

Early runs (experts fed by an earlier layer's hidden state) may hide behind dense work: they count in R, not in P.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from emulation.bound_costs import Costs
from emulation.bound_lp import relax
from emulation.bound_path import Least, Rows
from emulation.bound_uses import Totals, Uses
from emulation.ledger import Start
from emulation.lowering.dense import Share, shares
from emulation.machine import Machine
from emulation.model import Model
from emulation.view import DROPPED, Pairs, Step

Ints = NDArray[np.int64]

BATCH = 64
"""Steps that are worked off together: large enough for columns, small enough for memory."""


@dataclass(frozen=True)
class Bound:
    """No schedule ends before lb_ps = max(path_ps, relaxation_ps). binding: which of the two, and what is tight."""

    lb_ps: int
    path_ps: int
    relaxation_ps: int
    binding: str


class BoundInput:
    """The work of a run, collected step by step: `add_step`, then its MoE layers in order by `add_layer`, or at once by
    `add_routed` or `add_counts`."""

    def __init__(self, machine: Machine, model: Model, budget_bytes: Ints) -> None:
        self.costs = Costs(machine, model, budget_bytes)
        self._least = Least(self.costs)
        layers = len(model.moe_layers)
        self._layers, self._experts = layers, model.experts
        self._uses = Uses(layers, model.experts)
        self._totals = Totals.none(layers)
        self._now_ps, self._gated = 0, False
        self._steps: list[tuple[int, int]] = []
        self._dense: list[Ints] = []
        self._counts: list[Ints] = []
        self._early: list[tuple[int, int, Ints]] = []
        self._distinct: list[Ints] = []

    def gate(self) -> None:
        """Plans name gatings, whose runs pick and add no rows of their own: to be told before steps are worked off."""
        if not self._gated:
            machine = self.costs.machine
            devices = tuple(replace(device, kernels={family: kernel for family, kernel in device.kernels.items()
                                                     if family not in ("gather", "scatter")})
                            for device in machine.devices)
            self.costs = Costs(replace(machine, devices=devices), self.costs.model, self.costs.budget_bytes)
            self._least, self._gated = Least(self.costs), True

    def add_step(self, step: Step, not_before_ps: int = 0) -> None:
        """A step, and when its requests are there at the earliest."""
        self.add_share(shares(step), not_before_ps)

    def add_share(self, share: Mapping[int, Share], not_before_ps: int = 0) -> None:
        """The same, from what each home has to do."""
        if len(self._steps) == BATCH:
            self._work_off()
        chains = self.costs.chains(dict(share))
        figures = np.array([[min(c.kernels_ps for c in homes.values()),
                             max(c.issued_ps for c in homes.values()) if self.costs.one_home else 0,
                             max(max(c.kernels_ps + c.shared_ps, c.issued_ps) for c in homes.values()),
                             min(homes[h].shared_ps if h in homes else 0 for h in self.costs.machine.homes)]
                            for homes in chains], np.int64)
        self._begin(not_before_ps, figures)

    def _begin(self, not_before_ps: int, figures: Ints) -> None:
        self._figures, rows = figures, figures[self.costs.stretch]
        self._steps.append((not_before_ps, int(rows[0, 2])))
        self._dense.append(rows[1:])
        self._counts.append(np.zeros((self._layers, self._experts), np.int64))
        self._distinct.append(np.zeros((self._layers, 2), np.int64))

    def add_layer(self, moe: int, pairs: Pairs, early: NDArray[np.bool_] | None = None) -> None:
        """What is served in a MoE layer of the last step; early [pairs]: what ran before the layer came."""
        token, expert = pairs.token, pairs.expert
        if len(token):
            self._distinct[-1][moe, 1] = np.bincount(token).max()
        if early is not None and early.any():
            self._early.append((len(self._steps) - 1, moe, np.bincount(expert[early], minlength=self._experts)))
            token, expert = token[~early], expert[~early]
        self._counts[-1][moe] = np.bincount(expert, minlength=self._experts)
        self._distinct[-1][moe, 0] = len(np.unique(token))

    def add_whole(self, share: Mapping[int, Share], not_before_ps: int, counts: Ints, distinct: Ints) -> None:
        """A step and all its MoE layers, as they were tallied (`lowering.compiled_layers.tally`)."""
        self.add_share(share, not_before_ps)
        self.add_counts(counts, distinct[:, 0], distinct[:, 1])

    def add_served(self, share: Mapping[int, Share], not_before_ps: int, counts: Ints, distinct: Ints,
                   early: Ints) -> None:
        """The same of what is served; early [moe_layers, experts]: tokens of what ran before its layer came, which
        `counts` leaves out."""
        self.add_whole(share, not_before_ps, counts, distinct)
        self._early += [(len(self._steps) - 1, moe, early[moe]) for moe in np.flatnonzero(early.any(axis=1)).tolist()]

    def add_beside(self, other: "BoundInput", not_before_ps: int, counts: Ints, distinct: Ints) -> None:
        """As `add_whole`, with the dense work of the other's last step."""
        if len(self._steps) == BATCH:
            self._work_off()
        self._begin(not_before_ps, other._figures)
        self.add_counts(counts, distinct[:, 0], distinct[:, 1])

    def add_routed(self, experts: Ints) -> None:
        """All MoE layers of the last step: experts [tokens, moe_layers, top_k], DROPPED (or 65535) for none."""
        first = np.arange(self._layers, dtype=np.int32)[:, None] * self._experts
        if experts.size and experts.max() < self._experts and (experts.dtype.kind == "u" or experts.min() >= 0):
            key = np.add(experts, first, dtype=np.int32).ravel()
            tokens, most = np.full((2, self._layers), [[len(experts)], [experts.shape[2]]])
        else:
            ids = experts.astype(np.int32)
            there = (ids != DROPPED) & (ids < self._experts)
            visits = there.sum(axis=2)
            key, tokens, most = (ids + first)[there], (visits > 0).sum(axis=0), visits.max(axis=0, initial=0)
        counts = np.bincount(key, minlength=self._layers * self._experts).reshape(self._layers, -1)
        self.add_counts(counts, tokens, most)

    def add_counts(self, counts: Ints, tokens: Ints, most: Ints) -> None:
        """The same from sums: tokens of each expert [moe_layers, experts]; tokens that visit any, and the most experts
        that one token visits [moe_layers]."""
        self._counts[-1][:] = counts
        self._distinct[-1][:, 0], self._distinct[-1][:, 1] = tokens, most

    def _work_off(self) -> None:
        """Fold the collected steps into the sums."""
        if not self._steps:
            return
        steps, layers = len(self._steps), self._layers
        dense, distinct = np.array(self._dense), np.array(self._distinct)
        counts = np.array(self._counts)
        flat = dense.reshape(-1, 4)
        rows = Rows(counts.reshape(steps * layers, -1), distinct[..., 0].ravel(), distinct[..., 1].ravel(),
                    flat[:, 0], flat[:, 1], flat[:, 2], flat[:, 3])
        least = self._least.stretches_ps(rows).reshape(steps, layers)
        for (not_before_ps, first_ps), each_ps in zip(self._steps, least, strict=True):
            self._totals.step(not_before_ps, first_ps)
            self._now_ps = max(self._now_ps, not_before_ps) + first_ps + int(each_ps.sum())
        self._uses.add(counts, self._early)
        self._totals.add(self.costs, rows, least, dense)
        self._steps, self._dense, self._counts, self._distinct, self._early = [], [], [], [], []

    def bound(self, start: Start | None = None) -> Bound:
        """The bound of the work so far. start: where experts lie, if the policy may not choose it."""
        self._work_off()
        path_ps = self._now_ps
        found = relax(self.costs, self._uses, self._totals, start)
        if path_ps >= found.ps:
            return Bound(path_ps, path_ps, found.ps, "path: the chain of steps and layers")
        return Bound(found.ps, path_ps, found.ps, f"relaxation: {found.tight}")
