"""Energy for a terminal."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from cluster.observe.result import Result


def joules_text(value: float | None) -> str:
    """Joules in the unit in which they read best."""
    if value is None:
        return "-"
    for unit, scale in (("MJ", 1e6), ("kJ", 1e3), ("J", 1.0), ("mJ", 1e-3), ("µJ", 1e-6)):
        if abs(value) >= scale:
            return f"{value / scale:.4g} {unit}"
    return f"{value / 1e-9:.4g} nJ"


def missing_text(result: "Result") -> str:
    """Of what nothing is known, in words."""
    if result.energy is None:
        return "no energy data"
    return f"no energy data for {', '.join(result.no_energy_data)}" if result.no_energy_data else "-"


def energy_lines(result: "Result") -> list[tuple[str, str]]:
    """Name and value of what is known: all in all, an emitted token, tokens a kilojoule; and of what nothing is."""
    energy = result.energy
    if energy is None:
        return [("energy", missing_text(result))]
    each = energy.tokens_per_kilojoule
    total = joules_text(energy.joules) + (f" ({missing_text(result)})" if result.no_energy_data else "")
    return [("energy", total), ("J/token", joules_text(energy.joules_per_token)),
            ("tok/kJ", "-" if each is None else f"{each:,.4g}")]


def compare_energy(results: Mapping[str, "Result"]) -> list[Table]:
    """Joules an emitted token by device, and of all links together, a column a run; nothing where nothing is known."""
    table = Table(title="J/token by device", title_justify="left")
    for i, column in enumerate(("device", *results)):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=i == 0)
    found = {name: result.energy for name, result in results.items()}
    names = dict.fromkeys(name for energy in found.values() if energy is not None
                          for name in (*energy.by_device, *(["links"] if energy.by_link else [])))
    for name in names:
        cells = []
        for title, energy in found.items():
            tokens = results[title].emitted_tokens
            joules = None if energy is None else energy.by_part.get("links") if name == "links" else (
                energy.by_device.get(name))
            cells.append(joules_text(joules / tokens if joules is not None and tokens else None))
        table.add_row(name, *cells)
    return [table] if names else []


def energy_table(result: "Result") -> list[Table]:
    """Joules a device by what they are spent on; nothing where nothing is known."""
    energy, tokens = result.energy, result.emitted_tokens
    if energy is None:
        return []
    parts = [part for part in energy.by_part if part != "links"]
    table = Table(title="energy", title_justify="left")
    for i, column in enumerate(("device", *parts, "sum", "J/token")):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=i == 0)
    rows = [(name, energy.device_parts[name], joules) for name, joules in energy.by_device.items()]
    rows += [("links", {}, energy.by_part["links"])] if "links" in energy.by_part else []
    for name, spent, joules in rows:
        table.add_row(name, *(joules_text(spent.get(part)) for part in parts), joules_text(joules),
                      joules_text(joules / tokens if tokens else None))
    for name in result.no_energy_data:
        table.add_row(name, *["-"] * len(parts), "no data", "-")
    return [table]
