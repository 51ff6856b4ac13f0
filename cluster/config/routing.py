"""The schema of generated routing: a generator by name, with its parameters."""

from dataclasses import MISSING, fields
from pathlib import Path

from pydantic import Field, model_validator

from cluster.config.quantities import Strict, refuse
from emulation.errors import unknown
from workloads.routing.fitted import read_fitted
from workloads.routing.kinds import KINDS, LONGEST_MEMORY, Kind, kind


class Generator(Strict):
    """Routing drawn from the run's seed, without replacement.

    balanced: all experts alike. zipf: rank r has the weight r**-skew, ranks differ by layer (skew 1). The others draw
    from all experts by `skew` (0) and, with the chance `share` (0.5), from a set of so many `experts` in each layer.
    hot_set: one set. rotating_hot_set: another one after every `period_steps` (100) steps. bursts: of the windows of
    `length_steps` (20) steps each has a set of its own with the given `chance` (0.2), and none else. affinity: each
    sequence has one, and each place of a token keeps its predecessor's expert with the chance `repeat` (0).
    fitted: the file that `moelab trace fit` wrote.
    """

    name: str
    skew: float | None = Field(default=None, ge=0)
    experts: int | None = Field(default=None, ge=1)
    share: float | None = Field(default=None, ge=0, le=1)
    period_steps: int | None = Field(default=None, ge=1)
    length_steps: int | None = Field(default=None, ge=1)
    chance: float | None = Field(default=None, ge=0, le=1)
    repeat: float | None = Field(default=None, ge=0, le=LONGEST_MEMORY)
    fitted: str | None = None

    @classmethod
    def from_short(cls, data: object) -> object:
        if isinstance(data, str):
            return {"name": data}
        return {"name": "fitted", **data} if isinstance(data, dict) and "fitted" in data else data

    @model_validator(mode="after")
    def _fits(self) -> "Generator":
        if self.name not in KINDS:
            raise refuse(unknown("generator", self.name, KINDS))
        known, needed = parameters(self.name)
        given = [name for name in type(self).model_fields if name != "name" and getattr(self, name) is not None]
        if stray := [name for name in given if name not in known]:
            raise refuse(f"generator {self.name} takes no {stray[0]} (it takes: {', '.join(known) or 'nothing'})")
        if missing := [name for name in needed if name not in given]:
            raise refuse(f"generator {self.name} needs {missing[0]}")
        return self

    def file(self, folder: Path) -> Path | None:
        """The file of a fitted generator."""
        return folder / Path(self.fitted).expanduser() if self.fitted is not None else None

    def kind(self, folder: Path) -> Kind:
        """The generator; a path in it is relative to `folder`."""
        path = self.file(folder)
        if path is not None:
            return read_fitted(path)
        return kind(self.name, **self.model_dump(exclude={"name"}, exclude_none=True))


def parameters(name: str) -> tuple[list[str], list[str]]:
    """The parameters of a generator, and those of them that it cannot be without."""
    if name == "fitted":
        return ["fitted"], ["fitted"]
    of = [field for field in fields(KINDS[name]) if (name, field.name) != ("balanced", "skew")]
    return [field.name for field in of], [field.name for field in of if field.default is MISSING]
