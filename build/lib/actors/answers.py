"""What a policy is shown and what it answers: what it may not change, and whether it answers in pairs."""

from typing import Any

from emulation.errors import PlanError
from emulation.ledger import constant
from emulation.view import Routing, Step


def as_pair(answer: Any, method: str, what: str) -> tuple[Any, Any]:
    """What a policy's method returned; refuses what is no pair, such as a plan whose state was forgotten."""
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise PlanError(f"the policy's {method}() returned {type(answer).__name__}: it returns two things, {what} and "
                        "the policy's next state")
    return answer


def seal_step(step: Step) -> None:
    """What a policy sees of a step is not its to change."""
    for column in (step.sequence, step.position, step.phase, step.home, step.ends, step.source):
        if column is not None:
            constant(column)


def sealed(routing: Routing) -> Routing:
    """A routing that a policy may see: it is not its to change."""
    constant(routing.experts)
    constant(routing.weights)
    if routing.probabilities is not None:
        constant(routing.probabilities)
    return routing
