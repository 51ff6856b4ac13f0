"""The schema of a policy file: which class decides, and the parameters that it is given unless a run sets others."""

from pydantic import Field

from cluster.config.quantities import Strict, Value


class PolicyFile(Strict):
    """A policy: `policy` names its class as module:Class; what parameters it takes, the class says."""

    title: str
    policy: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    parameters: dict[str, Value] = Field(default_factory=dict)
