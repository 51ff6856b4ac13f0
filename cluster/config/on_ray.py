"""The schema of how a run stands on a Ray cluster that it shares with others."""

from typing import Literal

from pydantic import Field, model_validator

from cluster.config.quantities import Strict, refuse
from emulation.errors import ConfigError
from emulation.units import parse

SHARED_CPUS, SHARED_MEMORY = 0.25, "300 MB"
"""What an actor reserves by default on a cluster that is not the run's own: actors wait for each other most of the
time, and one that has imported torch holds 280 MB."""


class OnRay(Strict):
    """How `transport: ray` stands on a cluster.

    cpus_per_actor, memory_per_actor: what the scheduler's actor and each device actor reserve; by default 0.25 CPUs
    and 300 MB on a cluster that is given, and nothing on the run's own. placement: on few nodes, on many, or one actor
    a node. wait_s: how long a run waits for room. namespace: of Ray, by default the run's own. checkpoint: each node
    finds it under the same path (shared), or it is sent to each node once (shipped). flush_metrics: at its end a run
    waits until Ray has taken its figures.
    """

    cpus_per_actor: float | None = Field(default=None, ge=0)
    memory_per_actor: str | None = None
    placement: Literal["pack", "spread", "strict_spread"] = "pack"
    wait_s: float = Field(default=0.0, ge=0)
    namespace: str | None = Field(default=None, min_length=1, max_length=200)
    checkpoint: Literal["shared", "shipped"] = "shared"
    flush_metrics: bool = True

    @model_validator(mode="after")
    def _readable(self) -> "OnRay":
        if self.memory_per_actor is not None:
            try:
                parse(self.memory_per_actor, "bytes")
            except ConfigError as error:
                raise refuse(f"memory_per_actor: {error}") from None
        return self

    def cpus(self, private: bool) -> float:
        """CPUs that each actor reserves. private: on a cluster of the run's own."""
        return self.cpus_per_actor if self.cpus_per_actor is not None else 0.0 if private else SHARED_CPUS

    def memory_bytes(self, private: bool) -> int:
        """Memory that each actor reserves."""
        asked = self.memory_per_actor or ("0 B" if private else SHARED_MEMORY)
        return int(parse(asked, "bytes"))
