"""The schema of a policy file: which class decides, and the parameters that it takes."""

from pydantic import Field

from cluster.config.quantities import Strict
from cluster.config.workload import Value


class PolicyParameter(Strict):
    """One parameter of a policy; without a default the run must give it."""

    meaning: str
    default: Value = None
    required: bool = False


class PolicyFile(Strict):
    """A policy: `policy` names its class as module:Class."""

    title: str
    policy: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    parameters: dict[str, PolicyParameter] = Field(default_factory=dict)
