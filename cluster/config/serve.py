"""The schema of what `moelab serve` offers: what one request may ask, and how many may wait."""

from pydantic import Field

from cluster.config.quantities import Strict
from workloads.requests import MOST_TOKENS


class Serve(Strict):
    """Limits of a machine that answers clients, whose batching is said by workload.serving.

    name: of the model, as clients call it (its own by default). max_waiting: requests that wait to be taken up; more
    are turned away. max_prompt_tokens, max_output_tokens: of one request.
    """

    name: str | None = Field(default=None, min_length=1, max_length=200)
    max_waiting: int = Field(default=256, ge=1, le=65536)
    max_prompt_tokens: int = Field(default=2048, ge=1, le=MOST_TOKENS)
    max_output_tokens: int = Field(default=1024, ge=1, le=MOST_TOKENS)
