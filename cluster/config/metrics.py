"""How a run is watched: where its metrics are shown while it runs, and whether they are written at its end."""

from pydantic import Field

from cluster.config.quantities import Strict


class MetricsChoice(Strict):
    """port: `/metrics` on loopback while the run lasts (0: any free one; none: not shown). linger_s: real seconds that
    the last values stay there behind the run. openmetrics: write them over emulated time beside the result."""

    port: int | None = Field(default=None, ge=0, le=65535)
    linger_s: float = Field(default=0.0, ge=0, le=86400)
    openmetrics: bool = False
