"""What a policy is. Pure: it reads a view and returns a plan and its next state; the scheduler may refuse the plan."""

from typing import Any, ClassVar, Protocol, cast

from numpy.typing import NDArray

from emulation.ledger import Start
from emulation.plan import Plan, StepPlan
from emulation.view import Setting, StepView, View

State = Any
"""Plain arrays (or a tuple or dict of them); the scheduler checkpoints it. A policy returns a new one."""


def with_layer(column: NDArray[Any], moe: int, value: Any) -> NDArray[Any]:
    """The column with another value for one layer; the one that was given stays as it is."""
    new = column.copy()
    new[moe] = value
    return new


class Policy(Protocol):
    """A policy. Its parameters are the fields of its dataclass; a config sets them by name.

    exact: whether it serves exactly the routing that it is given.
    A policy that holds more on a device than at its start may have `staged(setting) -> {device: bytes}`, the most that
    it ever adds: where caches share a memory with experts, they get what that leaves.
    plain = False: its plans always say more than columns can (a gating, `wake`), so that need not be tried before each
    run.
    without_forecast: a sentence for check and result, where no forecast is asked for and the policy is less than its
    name says.
    One that is `clairvoyant` (a field or property) is told the routing of all steps before the run, and the result says
    so.
    """

    exact: ClassVar[bool]

    def start(self, setting: Setting) -> tuple[Start, State]:
        """Where experts rest and which copies are made before the run."""

    def plan(self, view: View, state: State) -> tuple[Plan, State]:
        """What runs where in this layer, what is fetched and what is evicted."""


class Stepwise(Policy, Protocol):
    """A policy that can answer for all layers of a step at once, for long replays: the same rows and the same state as
    `plan` gives layer by layer. It is asked where nobody guesses and nothing fails; None: layer by layer this time."""

    def plan_step(self, view: StepView, state: State) -> tuple[StepPlan, State] | None:
        """What runs where in every layer of this step."""


def whole_steps(policy: Policy) -> Stepwise | None:
    """The policy, if it answers for whole steps: a class that changes `plan` alone does not."""
    for kind in type(policy).__mro__:
        if "plan" in vars(kind):
            return cast(Stepwise, policy) if "plan_step" in vars(kind) else None
    return None


class Adapting(Policy, Protocol):
    """A policy that keeps estimates of times in its state, and makes them anew when links or devices change."""

    def adapt(self, setting: Setting, state: State) -> State:
        """The state, with estimates for the machine as it is from now on; experts lie where they lay."""


class Waking(Policy, Protocol):
    """A policy that marks rows with `wake` and goes on when they have ended: destinations chosen by what is free."""

    def wake(self, view: View, state: State) -> tuple[Plan, State]:
        """A fragment of this layer's plan, empty or marking more. view.ended: the marked rows that ended now."""
