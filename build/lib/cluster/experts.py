"""Where a model's experts were: each layer is decided, its experts are computed by the devices, and summed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from actors.scheduler import Scheduler
from cluster.session import messages, narrow
from cluster.transports.contract import Transport
from emulation.validate import Assignment, Decision
from emulation.view import Routing, Step
from moe.hook import ExpertHook
from moe.predictors import next_guess
from workloads.forecasts import Forecaster

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Floats = NDArray[np.float32]


class Decides(Protocol):
    """What decides each layer of a step, and carries its work to the devices: a run's session, or a served machine."""

    scheduler: Scheduler
    forecaster: Forecaster
    transport: Transport | None
    moe_of: dict[int, int]

    def decide(self, step: Step, moe: int, routing: Routing, forecast: Routing | None) -> Decision:
        """The decision of a MoE layer of a step that has begun."""


@dataclass
class Share:
    """What one run contributed: fp32 rows for its tokens. Early shares are unscaled until their layer comes."""

    run: Assignment
    rows: Floats


class ExpertWork:
    """Stands where the model's experts were: asks the scheduler, sends the devices their work, sums what returns.

    step: the one under way, to be set before each forward pass. layers: its routing so far, by MoE layer: experts,
    weights, and the guess for the next layer.
    """

    def __init__(self, session: Decides, model: "PreTrainedModel", forecast: str) -> None:
        self.session, self.forecast = session, forecast
        self.hook = ExpertHook(model, self)
        self._early: dict[int, list[Share]] = {}
        self.step: Step | None = None
        self.layers: list[tuple[NDArray[np.uint16], Floats, NDArray[np.uint16] | None]] = []

    def __call__(self, layer: int, hidden: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        assert self.step is not None
        moe = self.session.moe_of[layer]
        routing = Routing(experts.to(torch.int64).numpy(), weights.to(torch.float64).numpy())
        guess = self._guess(layer, moe, hidden)
        decision = self.session.decide(self.step, moe, routing, guess)
        self.note(routing, guess)
        rows = hidden.to(torch.float32).contiguous().numpy()
        shares = self._compute(decision, rows)
        for share in shares:
            if share.run.layer != layer:
                self._early.setdefault(share.run.layer, []).append(share)
        now = [share for share in shares if share.run.layer == layer]
        return torch.from_numpy(combine(decision, now, self._early.pop(layer, []), rows.shape))

    def note(self, routing: Routing, guess: Routing | None) -> None:
        """Add a layer to the routing of the step under way."""
        top_k = routing.experts.shape[1]
        self.layers.append((narrow(routing.experts, top_k), routing.weights.astype(np.float32),
                            None if guess is None else narrow(guess.experts, top_k)))

    def _guess(self, layer: int, moe: int, hidden: torch.Tensor) -> Routing | None:
        assert self.step is not None
        if self.forecast != "next_gate":
            passed = self.session.scheduler.setting.model.moe_stack(self.step.encoder)
            return self.session.forecaster.guess(self.step, moe + 1, None) if moe + 1 in passed else None
        guess = next_guess(self.hook, layer, hidden)
        if guess is None:
            return None
        chances = guess.probabilities
        return Routing(guess.experts.to(torch.int64).numpy(), guess.weights.to(torch.float64).numpy(),
                       None if chances is None else chances.numpy())

    def _compute(self, decision: Decision, hidden: Floats) -> list[Share]:
        """Send each device its work; the replies in the order of the plan, whoever answered first."""
        transport = self.session.transport
        assert transport is not None
        work, carried = messages(decision, self.session.moe_of, self.session.scheduler.ledger.start.parts, hidden)
        replies = transport.exchange(work)
        rows: dict[int, Floats] = {}
        runs = [*decision.assignments, *decision.streamed()]
        for device, indices in carried.items():
            out, at = replies[device].out, 0
            assert out is not None
            for i in indices:
                tokens = len(runs[i].tokens)
                rows[i] = out[at:at + tokens]
                at += tokens
        return [Share(run, rows[i]) for i, run in enumerate(runs) if len(run.tokens)]


def combine(decision: Decision, now: list[Share], early: list[Share], shape: tuple[int, ...]) -> Floats:
    """The sum of all shares for each token, fp32: by expert, then by part, never in order of arrival.

    With whole experts this is the order in which transformers adds them, wherever they ran.
    """
    out = np.zeros(shape, np.float32)
    shares = [*now, *_scaled(decision, early)] if early else now
    for share in sorted(shares, key=lambda share: (share.run.expert, share.run.part)):
        out[share.run.tokens] += share.rows
    return out


def _scaled(decision: Decision, early: list[Share]) -> list[Share]:
    """Shares that ran before their layer came: the tokens that it serves by them, times the weights it gives them."""
    wanted = {(int(e), int(t)): float(w) for e, t, w in
              zip(decision.served.expert[decision.early], decision.served.token[decision.early],
                  decision.served.weight[decision.early], strict=True)}
    shares = []
    for share in early:
        keep = [i for i, token in enumerate(share.run.tokens.tolist()) if (share.run.expert, token) in wanted]
        scale = np.array([wanted[share.run.expert, int(share.run.tokens[i])] for i in keep], np.float32)
        shares.append(Share(share.run._replace(tokens=share.run.tokens[keep]), share.rows[keep] * scale[:, None]))
    return shares
