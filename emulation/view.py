"""What a policy sees when it decides: values only. No clock, no device object, no future of the trace."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.costs import Costs
from emulation.machine import Machine
from emulation.model import Model
from emulation.plan import Row

if TYPE_CHECKING:
    from emulation.faults import Fault
    from emulation.ledger import Ledger

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

PREFILL = 0
DECODE = 1
DROPPED = -1
FROM_START = -1


@dataclass(frozen=True)
class Step:
    """The tokens of one forward pass. Rows are tokens.

    sequence, position, phase [tokens]; home [tokens]: the device on which the token lies.
    ends [tokens]: whether the token's logits are wanted. joins [tokens]: the MoE layer, counted among MoE layers, at
    whose experts a token that was parked there goes on (FROM_START: it was not). None: all go from the start.
    encoder: the tokens pass the encoder of a model that has one, and attend to all of their sequence; else the decoder,
    or all of a model without an encoder. source [tokens]: tokens of its sequence that pass, or passed, the encoder.
    """

    number: int
    sequence: Ints
    position: Ints
    phase: Ints
    home: Ints
    ends: NDArray[np.bool_]
    joins: Ints | None = None
    encoder: bool = False
    source: Ints | None = None

    def __len__(self) -> int:
        return len(self.sequence)


@dataclass(frozen=True)
class Pairs:
    """(token, expert) pairs in the order in which they were listed, with their weights; all [pairs]."""

    token: Ints
    expert: Ints
    weight: Floats

    @cached_property
    def _by_expert(self) -> tuple[Ints, Ints]:
        order = np.argsort(self.expert, kind="stable")
        return order, self.expert[order]

    @cached_property
    def active(self) -> Ints:
        """Experts with at least one token, first come first listed."""
        unique, first = np.unique(self.expert, return_index=True)
        in_order: Ints = unique[np.argsort(first, kind="stable")]
        in_order.flags.writeable = False
        return in_order

    def of(self, expert: int) -> Ints:
        """Indices of the pairs of one expert."""
        order, ids = self._by_expert
        lo, hi = np.searchsorted(ids, [expert, expert + 1])
        return order[lo:hi]

    def tokens_of(self, expert: int) -> Ints:
        """The tokens of one expert, in listed order."""
        return self.token[self.of(expert)]

    def counts(self, experts: int) -> Ints:
        """Tokens of each expert, [experts]."""
        return np.bincount(self.expert, minlength=experts).astype(np.int64)


class Early(NamedTuple):
    """(token, expert) pairs that ran whole before their layer came, and the layer whose hidden state they were fed."""

    token: Ints
    expert: Ints
    input_layer: Ints


@dataclass(frozen=True)
class Routing:
    """Which experts each token of a layer visits: experts, weights [tokens, top_k]; DROPPED where a place is empty.

    probabilities [tokens, experts]: what the gate gave every expert, where a forecast knows that; they add to one.
    """

    experts: Ints
    weights: Floats
    probabilities: Floats | None = None

    @cached_property
    def pairs(self) -> Pairs:
        """The pairs in routing order: over the tokens, first come first listed."""
        token, place = np.nonzero(self.experts != DROPPED)
        return Pairs(token.astype(np.int64), self.experts[token, place].astype(np.int64), self.weights[token, place])

    @property
    def active(self) -> Ints:
        """Experts with at least one token, in routing order."""
        return self.pairs.active

    def counts(self, experts: int) -> Ints:
        """Tokens of each expert, [experts]."""
        return self.pairs.counts(experts)


class Tallied(Routing):
    """Routing of one layer of a step whose tokens were counted: what a policy asks of it most is there, the rest is
    made when it is asked for. order [active]: experts in routing order. counted [experts]: their tokens."""

    @staticmethod
    def of(layer: Callable[[], Routing], order: Ints, counted: Ints) -> "Tallied":
        """layer: makes the routing itself, whose arrays are the caller's to keep from being written."""
        made = object.__new__(Tallied)
        made.__dict__.update(_layer=layer, _order=order, _counted=counted)
        return made

    @cached_property
    def _whole(self) -> Routing:
        made: Routing = self.__dict__["_layer"]()
        return made

    @cached_property
    def experts(self) -> Ints:
        return self._whole.experts

    @cached_property
    def weights(self) -> Floats:
        return self._whole.weights

    @property
    def active(self) -> Ints:
        order: Ints | None = self.__dict__.get("_order")
        return super().active if order is None else order

    def counts(self, experts: int) -> Ints:
        counted: Ints | None = self.__dict__.get("_counted")
        return super().counts(experts) if counted is None or experts != len(counted) else counted.copy()


class Visits(NamedTuple):
    """How many tokens visit each expert, step by step: step numbers [steps], counts [steps, moe_layers, experts]."""

    step: Ints
    counts: Ints


@dataclass(frozen=True)
class Setting:
    """What a policy is told before the run.

    budget_bytes [devices]: room for expert weights. popularity [moe_layers, experts]: counts of a recorded history,
    where the workload names one. history: the same step by step, where a part of the workload is set aside for it.
    future: the steps to come; only a policy that calls itself `clairvoyant` is told.
    """

    machine: Machine
    model: Model
    budget_bytes: Ints
    popularity: Ints | None = None
    history: Visits | None = None
    future: Visits | None = None


def _no_engine(_: int) -> int:
    raise LookupError("this view has no engine that would tell what is free")


@dataclass(frozen=True)
class View:
    """The state of the machine at a decision. Layers are model layers; `moe` is the layer's number among MoE layers.

    forecast: guessed routing of the next MoE layer for this step's tokens. early: what of this layer already ran, fed
    an earlier layer's hidden state. ended: rows of this layer's plan that the policy marked and that ended now.
    faults: those that act now; the setting's machine, and so all costs, are as they leave it.
    """

    setting: Setting
    step: Step
    layer: int
    moe: int
    routing: Routing
    forecast: Routing | None
    ledger: "Ledger"
    early: Early
    clock: Callable[[], int]
    backlog_ps: Callable[[int], int]
    ended: tuple[Row, ...] = ()
    pool_free: Callable[[int], int] = _no_engine
    faults: "tuple[Fault, ...]" = ()

    @property
    def now_ps(self) -> int:
        """The emulated time of the decision."""
        return self.clock()

    def free_slots(self, device: int, pool: str) -> int:
        """Slots of a device's pool that are free now; those in use are held until work that was submitted leaves."""
        machine = self.setting.machine
        return self.pool_free(machine.pool_number[f"{machine.devices[device].name}.{pool}"])

    @cached_property
    def costs(self) -> Costs:
        """What a run, a load or a message would take on an idle machine."""
        return Costs(self.setting.machine, self.setting.model, self.ledger.start.parts)

    def dead(self, device: int) -> bool:
        """Whether a device has died."""
        return any(fault.kills(device) for fault in self.faults)

    def free_bytes(self, device: int) -> int:
        """Room for experts that is left on a device."""
        return self.ledger.free_bytes(device)

    @property
    def next_layer(self) -> int | None:
        """The next MoE layer that the step passes, if there is one."""
        model = self.setting.model
        return model.moe_layers[self.moe + 1] if self.moe + 1 in model.moe_stack(self.step.encoder) else None

    def held(self, device: int) -> NDArray[np.bool_]:
        """Experts of this layer that a device holds, coming ones included, [experts]."""
        return self.ledger.held(self.moe, device)

    def held_next(self, device: int) -> NDArray[np.bool_]:
        """The same for the next MoE layer."""
        return self.ledger.held(self.moe + 1, device)


class Listed(NamedTuple):
    """The active experts of all MoE layers, layer by layer in routing order: moe, expert [n]; those of layer l at
    ptr[l]:ptr[l + 1]."""

    moe: Ints
    expert: Ints
    ptr: Ints


@dataclass(frozen=True)
class StepView:
    """What a policy that answers for a whole step is shown of it: its routing and where experts lie; nobody guesses.

    order [moe_layers, experts]: experts in routing order, of which the first `active` [moe_layers] are active;
    counts [moe_layers, experts]: tokens of each. layers [moe_layers]: model layers.
    """

    setting: Setting
    step: Step
    layers: Ints
    order: Ints
    active: Ints
    counts: Ints
    ledger: "Ledger"

    def listed(self) -> Listed:
        """The active experts in one row."""
        moe = np.repeat(np.arange(len(self.active)), self.active)
        ptr = np.concatenate([[0], np.cumsum(self.active)])
        return Listed(moe, self.order[np.arange(self.order.shape[1]) < self.active[:, None]], ptr)
