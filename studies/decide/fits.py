"""What does not fit, told before anything runs: weights and caches against the memory where they must lie."""

from dataclasses import dataclass

from cluster.resolve import Setup, cache_bytes, check_capacity, dense_bytes, resolve
from emulation.errors import ConfigError, MoelabError
from studies.decide.decision import Need
from studies.sweep_study import Point


@dataclass(frozen=True)
class Fit:
    """Whether a candidate fits at a place, what it needs where, and the sentence where it does not, or is no run."""

    status: str
    needs: tuple[Need, ...] = ()
    why: str | None = None
    error: MoelabError | None = None


def fit(point: Point) -> Fit:
    """Whether a run's weights and caches have room, whatever its policy."""
    try:
        setup = resolve(point.config, checked=False)
    except MoelabError as error:
        return Fit("failed", (), str(error), error)
    needs = needed(setup)
    try:
        check_capacity(setup)
    except ConfigError as error:
        return Fit("unfit", needs, str(error), error)
    return Fit("ran", needs)


def needed(setup: Setup) -> tuple[Need, ...]:
    """Bytes that must lie on each home, and those of the experts where experts rest."""
    machine, model, dense = setup.machine, setup.model, dense_bytes(setup)
    caches = dict(zip(machine.homes, cache_bytes(setup), strict=True))
    out = []
    for home, total in dense.items():
        device = machine.devices[home]
        out += [Need(device=device.name, what="weights outside the experts", bytes=total - caches[home],
                     capacity_bytes=device.memory_bytes),
                Need(device=device.name, what="caches of keys and values", bytes=caches[home],
                     capacity_bytes=device.memory_bytes)]
    room = sum(machine.devices[store].memory_bytes - dense.get(store, 0) for store in machine.stores)
    experts = len(model.moe_layers) * model.experts * model.expert_bytes
    stores = ", ".join(machine.devices[store].name for store in machine.stores)
    return (*out, Need(device=stores, what="experts", bytes=experts, capacity_bytes=max(room, 0)))
