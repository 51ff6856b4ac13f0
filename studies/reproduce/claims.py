"""What was published: a file for each system in configs/reproduce/, every figure and trend with an id of its own."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from cluster.config.load import read_yaml, shown, validate
from cluster.config.names import CONFIGS
from cluster.config.quantities import Strict, refuse
from emulation.errors import ConfigError, brief, unknown

FOLDER = CONFIGS / "reproduce"
LARGEST = 10**18
SYSTEMS = ("gpu_ndp", "fse_dp", "daop", "moe_deployment")


def _number_or_trend(value: object) -> object:
    if value is not None and not isinstance(value, bool | int | float):
        raise refuse(f"{value!r} is neither a number, nor true for a trend, nor null for a figure that is not public")
    if isinstance(value, int) and abs(value) > LARGEST:
        raise refuse(f"{brief(value)} is above {LARGEST}: no published figure is so large")
    return value if value is None or isinstance(value, bool) else float(value)


class Claim(Strict):
    """A published figure, or a trend (published: true), or one of which only its existence is public (null).

    tag: how it is known. found: a source states it. computed: follows from such figures. inferred: from neither.
    """

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    claim: str = Field(min_length=1)
    published: Annotated[float | bool | None, BeforeValidator(_number_or_trend)]
    unit: str = ""
    tag: Literal["found", "computed", "inferred"]

    @property
    def is_trend(self) -> bool:
        return isinstance(self.published, bool)


class Claims(Strict):
    """All that a paper's evaluation states, in its order."""

    title: str
    paper: str
    claims: tuple[Claim, ...] = Field(min_length=1, strict=False)

    @model_validator(mode="after")
    def _once_each(self) -> "Claims":
        ids = [claim.id for claim in self.claims]
        if twice := sorted(name for name in dict.fromkeys(ids) if ids.count(name) > 1):
            raise refuse(f"claim {twice[0]!r} is there twice")
        return self


def load_claims(system: str) -> Claims:
    """The claims of a system."""
    if system not in SYSTEMS:
        raise ConfigError(unknown("system", system, (*SYSTEMS, "all")))
    path = FOLDER / f"{system}.yaml"
    return validate(Claims, read_yaml(path), shown(path))
