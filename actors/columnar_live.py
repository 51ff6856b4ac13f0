"""The scheduler in columns for routing that comes layer by layer: of a model that answers.

It stands where a `Scheduler` does. Each layer is decided and lowered as it comes, since its plan tells the devices what
to compute; a step is timed at its end. What is not plain raises `NotPlain`, as in `ColumnScheduler`.
"""

import numpy as np
from numpy.typing import NDArray

from actors.answers import seal_step, sealed
from actors.columnar import SAYS_MORE, ColumnScheduler, Lowered, Serving
from actors.counts import phase_of
from actors.scheduler import StepTimes
from emulation.ledger import constant
from emulation.lowering.columns import NotPlain
from emulation.lowering.dense import shares
from emulation.plan import RUN
from emulation.trace import NO_EXPERT
from emulation.validate import Assignment, Decision
from emulation.view import Pairs, Routing, Step, Tallied

Ints = NDArray[np.int64]


class LiveColumnScheduler(ColumnScheduler):
    """For each step: `begin`, `decide` for each MoE layer in order, `end`."""

    def begin(self, step: Step, not_before_ps: int = 0) -> None:
        """Lower everything up to the first router."""
        setting = self.setting
        self._step, self._not_before_ps, self._before, self._moe = step, not_before_ps, self._decision, 0
        nobody = np.full((len(step), len(self._layers), setting.model.top_k), NO_EXPERT, np.uint16)
        self._decision = self.lowering.begin(step, shares(step), nobody)
        seal_step(step)

    def decide(self, routing: Routing, forecast: Routing | None = None,
               parked: NDArray[np.bool_] | None = None) -> Decision:
        """Ask the policy about the next MoE layer and lower its plan. The lowering's checks are all that it meets."""
        lowering, moe, layer = self.lowering, self._moe, self._layers[self._moe]
        for shown in (routing, forecast):
            if shown is not None:
                sealed(shown)
        lowering.route(moe, routing.experts)
        seen = Tallied.of(lambda: routing, constant(lowering.order[moe, :lowering.active[moe]].copy()),
                          constant(lowering.counts[moe].copy()))
        plan, columns = self._plan(self._step, moe, seen, forecast, self._no_early)
        if parked is not None or plan.served is not None or plan.token_sets:
            raise NotPlain(SAYS_MORE)
        self._decision = lowering.layer(moe, columns, plan.exchange)
        self._moe += 1
        pairs = routing.pairs
        return Decision(plan, _runs(columns, layer, pairs, self.setting.model.experts), pairs,
                        np.zeros(len(pairs.token), np.bool_), 0, 0, 0)

    def end(self) -> StepTimes:
        """Time the step."""
        lowering = self.lowering
        self.counts.load[phase_of(self._step)] += lowering.counts
        program, labels = lowering.take()
        of = lowering.layer_of_step
        self.time(Lowered(self._step, self._not_before_ps, self._before, lowering.counts, lowering.distinct, program,
                          labels, self._since(), Serving(of.counts, of.distinct, of.early, ())))
        return self.steps[-1]


def _runs(columns: Ints, layer: int, pairs: Pairs, experts: int) -> list[Assignment]:
    """A plan's runs, in order, each for all tokens of its expert."""
    order = np.argsort(pairs.expert, kind="stable")
    token, weight = pairs.token[order], pairs.weight[order]
    ends = np.cumsum(np.bincount(pairs.expert, minlength=experts)).tolist()
    runs = []
    for expert, part, device in columns[2:5, columns[0] == RUN].T.tolist():
        of = slice(ends[expert - 1] if expert else 0, ends[expert])
        runs.append(Assignment(layer, expert, part, device, token[of], weight[of]))
    return runs
