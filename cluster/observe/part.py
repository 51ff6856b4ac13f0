"""What every part of a result is."""

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A part of a result: typed, frozen, nothing unknown, no NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
