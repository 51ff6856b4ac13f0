"""Quantities of config files: a value with its unit, where it comes from, and how far it may be off."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from emulation.errors import ConfigError, unknown
from emulation.units import parse

Kind = Literal["paper", "data_sheet", "measured", "assumed", "computed"]

SI_UNITS = {"time": "s", "bytes": "B", "bandwidth": "B/s", "compute": "FLOP/s", "count": "",
            "power": "W", "energy_per_byte": "J/B", "energy_per_flop": "J/FLOP", "money": "USD"}

QUOTED = 200
"""Characters of a value that is no quantity, as far as a sentence quotes it."""

ENERGY = ("idle_power", "busy_power", "energy_per_byte", "energy_per_flop")
"""Keys of a hardware file that say what a run draws, and nothing about how long it takes."""


def refuse(text: str) -> PydanticCustomError:
    """An error whose text is shown as it stands, after the place in the file."""
    return PydanticCustomError("refused", "{text}", {"text": text})


def _scalar(value: object) -> object:
    if not isinstance(value, str | int | float | bool | None):
        raise refuse(f"{value!r} is no single value: text, a number, true, false or null")
    return value


Value = Annotated[str | int | float | bool | None, BeforeValidator(_scalar)]
"""A parameter's value; what uses it checks its type."""


class Strict(BaseModel):
    """A part of a config file: typed, frozen, and an unknown key is refused with a suggestion."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def from_short(cls, data: object) -> object:
        """The long form of what may be written short; here nothing is."""
        return data

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: object) -> object:
        data = cls.from_short(data)
        if isinstance(data, Mapping):
            known = [field.alias or name for name, field in cls.model_fields.items()]
            for key, value in data.items():
                if key not in known:
                    raise refuse(unknown("key", str(key), known))
                if isinstance(value, str) and "\0" in value:
                    raise refuse(f"{key} holds a NUL character, which no name or path does")
        return data


class Quantity(Strict):
    """A constant with unit, source and kind; what is assumed carries a range, and the value lies within it."""

    dimension: ClassVar[str] = "count"

    value: str
    source: str = Field(min_length=1)
    kind: Kind
    range: tuple[str, str] | None = Field(default=None, strict=False)

    @classmethod
    def from_short(cls, data: object) -> object:
        if not isinstance(data, Mapping) and not isinstance(data, cls):
            shown = data if len(str(data)) <= QUOTED else f"{str(data)[:QUOTED]}..."
            raise refuse(f"{shown!r} has no source: write {{value: {str(shown)!r}, source: where it is from, "
                         f"kind: paper, data_sheet, measured, assumed or computed}}")
        return data

    @model_validator(mode="after")
    def _sound(self) -> "Quantity":
        try:
            value = parse(self.value, self.dimension)
            low, high = (parse(text, self.dimension) for text in self.range or (self.value, self.value))
        except ConfigError as error:
            raise refuse(str(error)) from None
        if self.kind == "assumed" and self.range is None:
            raise refuse(f"{self.value!r} is assumed, so it needs a range: range: [low, high]")
        if low > high:
            raise refuse(f"range {list(self.range or ())} has its high end first: write [low, high]")
        if not low <= value <= high:
            raise refuse(f"{self.value!r} lies outside its range {list(self.range or ())}")
        return self

    @property
    def si(self) -> Fraction:
        """The value in SI units, exactly."""
        return parse(self.value, self.dimension)


class Time(Quantity):
    """Seconds."""

    dimension: ClassVar[str] = "time"


class Bytes(Quantity):
    """Bytes."""

    dimension: ClassVar[str] = "bytes"


class Positive(Quantity):
    """A quantity that is never zero: something is divided by it."""

    @model_validator(mode="after")
    def _above_zero(self) -> "Positive":
        lowest = parse((self.range or (self.value,))[0], self.dimension)
        if lowest == 0:
            raise refuse(f"{self.value!r} (or the low end of its range) is zero: a rate is above zero")
        return self


class Bandwidth(Positive):
    """Bytes per second."""

    dimension: ClassVar[str] = "bandwidth"


class Compute(Positive):
    """Floating-point or integer operations per second; a multiply-accumulate is two."""

    dimension: ClassVar[str] = "compute"


class Power(Quantity):
    """Watts."""

    dimension: ClassVar[str] = "power"


class EnergyPerByte(Quantity):
    """Joules a byte."""

    dimension: ClassVar[str] = "energy_per_byte"


class EnergyPerFlop(Quantity):
    """Joules a floating-point or integer operation; a multiply-accumulate is two."""

    dimension: ClassVar[str] = "energy_per_flop"


class Count(Quantity):
    """A plain number: slots, bits, a count of operations."""


class Share(Positive):
    """A fraction in (0, 1]."""

    @model_validator(mode="after")
    def _at_most_one(self) -> "Share":
        if self.si > 1:
            raise refuse(f"{self.value!r} is above 1: a fraction is at most 1")
        return self


def constants(path: str, part: object) -> Iterator[tuple[str, Quantity]]:
    """Every quantity below a part of a config, with its dotted path, in file order."""
    if isinstance(part, Quantity):
        yield path, part
    elif isinstance(part, BaseModel):
        for name, field in type(part).model_fields.items():
            yield from constants(f"{path}.{field.alias or name}", getattr(part, name))
    elif isinstance(part, Mapping):
        for key, value in part.items():
            yield from constants(f"{path}.{key}", value)
    elif isinstance(part, Sequence) and not isinstance(part, str):
        for i, value in enumerate(part):
            yield from constants(f"{path}.{getattr(value, 'name', i)}", value)


def provenance(path: str, part: object) -> list[dict[str, Any]]:
    """The rows that result.json carries: path, value, si, unit, kind, source and range of every constant."""
    return [{"path": at, "value": q.value, "si": number(q.si), "unit": SI_UNITS[q.dimension], "kind": q.kind,
             "source": q.source, "range": list(q.range) if q.range else None} for at, q in constants(path, part)]


def number(value: Fraction) -> int | float:
    """A whole number where it is one, for JSON."""
    return value.numerator if value.denominator == 1 else float(value)


def confidence(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How far a machine's constants can be trusted: the share of each kind, and a label.

    "measured": at least half measured and at most a tenth assumed; "documented": at most a quarter assumed;
    otherwise "assumed". Constants of energy change no time and do not count.
    """
    rows = [row for row in rows if row.get("path", "").rpartition(".")[2] not in ENERGY]
    counts = Counter(row["kind"] for row in rows)
    total = sum(counts.values())
    shares = {kind: round(counts[kind] / total, 3) for kind in sorted(counts)} if total else {}
    if 2 * counts["measured"] >= total and 10 * counts["assumed"] <= total:
        label = "measured"
    else:
        label = "documented" if 4 * counts["assumed"] <= total else "assumed"
    return {"label": label, "constants": total, "shares": shares}
