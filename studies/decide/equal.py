"""What is held equal: memory, power or cost of each candidate's machine, by a choice of one of its options."""

from collections.abc import Mapping
from fractions import Fraction

from cluster.build import device_names, resolve_options
from cluster.config.hardware import Hardware
from cluster.config.quantities import SI_UNITS, Quantity
from cluster.observe.table import bytes_text
from emulation.errors import ConfigError, unknown
from emulation.units import parse
from studies.decide.decision import Amount, Equality
from studies.decide.space import Ground
from studies.decide.study import Decide, Equal

MOST_VALUES = 1024
"""Of an option that may be scaled."""


def amount(equal: Equal, name: str, hardware: Hardware, options: Mapping[str, int], where: str) -> Amount:
    """How much of it a machine has: the sum over its devices, with the ends of their ranges."""
    chosen = resolve_options(hardware, options, f"{where}: machine of {name}")
    counts = {group: len(names) for group, names in device_names(hardware, chosen).items()}
    given = equal.of(name)
    for group in given:
        if group not in counts:
            raise ConfigError(f"{where}: equal.each.{name}: {unknown('device group', group, counts)}")
    parts: dict[str, tuple[Fraction, Fraction, Fraction]] = {}
    sources: dict[str, str] = {}
    for group, count in counts.items():
        each = _each(equal, hardware, group, given, f"{where}: equal by {equal.by}: {name}")
        if each is None:
            continue
        low, high = (parse(text, each.dimension) for text in each.range or (each.value, each.value))
        parts[group] = (count * each.si, count * low, count * high)
        sources[group] = f"{count} x {each.value} ({each.kind}: {each.source})"
    sums = [float(sum((part[i] for part in parts.values()), Fraction(0))) for i in range(3)]
    return Amount(value=sums[0], low=sums[1], high=sums[2], sources=sources,
                  parts={group: float(part[0]) for group, part in parts.items()})


def _each(equal: Equal, hardware: Hardware, group: str, given: Mapping[str, Quantity], where: str) -> Quantity | None:
    """What one device of a group has of it; None: nothing. Refuses a device that nothing is said of."""
    spec = hardware.devices[group]
    if equal.by == "capacity":
        return spec.memory
    if group in given:
        return given[group]
    if equal.by == "power" and (power := spec.busy_power or (None if spec.computes else spec.idle_power)):
        return power
    what, file = ("costs", "") if equal.by == "cost" else ("draws", f", or its file devices.{group}.busy_power")
    unit = "USD" if equal.by == "cost" else "W"
    raise ConfigError(f"{where} cannot be made equal, since nothing says what a {group} {what}: give the study "
                      f'equal.each.{where.rpartition(" ")[2]}.{group}: {{value: "... {unit}", source: ..., kind: ..., '
                      f"range: [...]}}{file} (nothing: \"0 {unit}\", with the reason as its source)")


def made_equal(study: Decide, grounds: Mapping[str, Ground]) -> tuple[Equality, dict[str, dict[str, int]],
                                                                       dict[str, Amount]]:
    """What is held equal, the options that are chosen for it, and what each candidate has of it."""
    equal = study.equal
    assert equal is not None
    at = {name: amount(equal, name, ground.hardware, ground.machine.options, study.where)
          for name, ground in grounds.items()}
    target = at[equal.to].value if equal.to in grounds else float(parse(equal.to, equal.dimension))
    if not target:
        raise ConfigError(f"{study.where}: equal.to: {equal.to} has no {equal.by} at all")
    options: dict[str, dict[str, int]] = {}
    for name, option in equal.scale.items():
        ground = grounds[name]
        allowed = ground.hardware.parameters.get(option)
        if allowed is None:
            raise ConfigError(f"{study.where}: equal.scale.{name}: "
                              f"{unknown('option', option, ground.hardware.parameters)}")
        if allowed.max - allowed.min >= MOST_VALUES:
            raise ConfigError(f"{study.where}: equal.scale.{name}: option {option} goes from {allowed.min} to "
                              f"{allowed.max}, and at most {MOST_VALUES} values are tried")
        tried = {value: amount(equal, name, ground.hardware, {**ground.machine.options, option: value}, study.where)
                 for value in range(allowed.min, allowed.max + 1)}
        best = min(tried, key=lambda value: (_off(tried[value].value, target), value))
        options[name], at[name] = {option: best}, tried[best]
    for name, found in at.items():
        if _off(found.value, target) > 1 + equal.within:
            _refuse(study, equal, name, found, target, options)
    return (Equality(by=equal.by, target=target, unit=SI_UNITS[equal.dimension], within=equal.within), options, at)


def _off(value: float, target: float) -> float:
    """How many times too much or too little."""
    return max(value / target, target / value) if value else float("inf")


def _refuse(study: Decide, equal: Equal, name: str, found: Amount, target: float,
            options: Mapping[str, Mapping[str, int]]) -> None:
    unit = SI_UNITS[equal.dimension]
    near, wanted = (bytes_text(amount) if unit == "B" else f"{amount:,.6g} {unit}" for amount in (found.value, target))
    if name in options:
        (option, value), = options[name].items()
        how = f"comes nearest with {option}={value}, which is {near}"
    else:
        how = f"has {near} and no option in equal.scale that could change it"
    raise ConfigError(f"{study.where}: {equal.by} cannot be made equal: {name} {how}, and {wanted} is wanted within "
                      f"{equal.within:.0%}: choose another `to`, another option, or raise `within`")
