"""What if a part of the machine were twice as good: each answer is a run of its own, on the same workload."""

from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from cluster.build import resolve_options
from cluster.config.hardware import Hardware
from cluster.config.load import load_hardware, validate
from cluster.config.quantities import SI_UNITS, Bandwidth, Bytes, Compute, Quantity, Time, constants
from cluster.config.reading import with_constants
from cluster.config.run import RunConfig
from cluster.observe.result import Result
from cluster.session import Progress, Silent
from emulation.errors import ConfigError, MoelabError
from studies.sweep import carry_out_all
from studies.sweep_crew import Crew
from studies.sweep_rows import FAILED
from studies.sweep_study import Point, fingerprint

FACTOR = 2
BETTER: dict[str, tuple[type[Quantity], Fraction]] = {
    "memory bandwidth": (Bandwidth, Fraction(FACTOR)), "bandwidth": (Bandwidth, Fraction(FACTOR)),
    "compute": (Compute, Fraction(FACTOR)), "memory": (Bytes, Fraction(FACTOR)),
    "overheads": (Time, Fraction(1, FACTOR)), "latency": (Time, Fraction(1, FACTOR))}
"""What can be better about a device or a link -> the constants that say it, and the factor on them."""

OF_DEVICES, OF_LINKS = ("memory bandwidth", "compute", "memory", "overheads"), ("bandwidth", "latency")


class Part(NamedTuple):
    """A part of the machine that may be better: of which device or link, in what; the constants as they would be."""

    of: str
    what: str
    changed: dict[str, str]

    @property
    def name(self) -> str:
        factor = BETTER[self.what][1]
        return f"{self.of}: {'twice the' if factor > 1 else 'half the'} {self.what}"


class Gain(NamedTuple):
    """What a better part gives. ttft, tpot, time: this run's over the changed one's (above 1: faster); None: not told.
    failed: why that run did not end."""

    part: str
    ttft: float | None
    tpot: float | None
    time: float | None
    failed: str | None = None


def config_of(result: Result, folder: Path) -> RunConfig:
    """The run that a result is of, with relative paths in it taken from a folder."""
    data: dict[str, Any] = {key: value for key, value in result.config.items() if key != "machine_options"}
    data |= {"transport": "local", "timeline": {"max_ops": 0}}
    return validate(RunConfig, data, f"the config in the result of {result.policy}").placed("explain", folder)


def parts_of(hardware: Hardware) -> Iterator[Part]:
    """Every device and link, in everything that its file has constants of. Constants that are zero stay out."""
    found = [(path.removeprefix("hardware."), quantity) for path, quantity in constants("hardware", hardware)]
    for group, names, whats in (("devices", list(hardware.devices), OF_DEVICES),
                                ("links", [link.name for link in hardware.links], OF_LINKS)):
        for name in names:
            for what in whats:
                kind, factor = BETTER[what]
                changed = {path: scaled(quantity, factor) for path, quantity in found
                           if path.startswith(f"{group}.{name}.") and isinstance(quantity, kind) and quantity.si}
                if changed:
                    yield Part(name, what, changed)


def scaled(quantity: Quantity, factor: Fraction) -> str:
    """A quantity times a factor of two or a half, exactly, in SI units: 3.35 TB/s twice is "6700000000000 B/s"."""
    value = quantity.si * factor
    return f"{Decimal(value.numerator) / Decimal(value.denominator):f} {SI_UNITS[quantity.dimension]}"


def gains(result: Result, folder: Path, crew: Crew, progress: Progress | None = None) -> tuple[bool, list[Gain]]:
    """Whether the run gives the same digest again, and what each better part gives, best first by time.

    Compared is with the run as it goes now: where its files have changed since, that is not the result's.
    """
    config = config_of(result, folder)
    machine = with_constants(load_hardware(config.machine.name, folder), config.machine.constants, "the machine")
    resolve_options(machine, config.machine.options, "the machine")
    parts = list(parts_of(machine))
    if not parts:
        raise ConfigError(f"{config.machine.name} has no rate, time or size that could be better")
    points = {"": Point(fingerprint(config), {}, config)}
    for part in parts:
        better = config.machine.model_copy(update={"constants": {**config.machine.constants, **part.changed}})
        other = config.model_copy(update={"machine": better}).placed(config.name, folder)
        points[part.name] = Point(fingerprint(other), {}, other)
    answers = {answer.row["point"]: answer for answer in carry_out_all(
        {point.key: point for point in points.values()}.values(), crew, progress or Silent(), keep=True)}

    def told(name: str) -> Result | str:
        answer = answers[points[name].key]
        if answer.row["status"] == FAILED or answer.result is None:
            return str(answer.row.get("error"))
        return Result.from_json(answer.result)

    before = told("")
    if isinstance(before, str):
        raise MoelabError(f"the run of this result does not go through any more: {before} (relative paths in its "
                          f"config start from {folder}: --from says from where else)")
    found = [_gain(part, before, told(part.name)) for part in parts]
    found.sort(key=lambda gain: (-(gain.time or 0), gain.part))
    return before.digest == result.digest, found


def _gain(part: Part, before: Result, after: Result | str) -> Gain:
    if isinstance(after, str):
        return Gain(part.name, None, None, None, after)
    quantiles = [(getattr(before, name), getattr(after, name)) for name in ("ttft", "tpot")]
    ttft, tpot = (one.mean_s / other.mean_s if one is not None and other is not None and other.mean_s else None
                  for one, other in quantiles)
    return Gain(part.name, ttft, tpot, before.makespan_ps / after.makespan_ps if after.makespan_ps else None)
