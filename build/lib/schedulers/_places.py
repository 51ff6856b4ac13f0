"""Where experts may lie and run on a machine: what several policies ask. Pure functions."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.errors import ConfigError
from emulation.machine import Machine
from emulation.plan import EVICT, LOAD, NOBODY, RUN, Plan
from emulation.view import Setting

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


def only_home(setting: Setting, policy: str) -> int:
    """The device of all tokens; refuses a machine whose tokens are spread over several."""
    homes = setting.machine.homes
    if len(homes) != 1:
        raise ConfigError(f"{policy} keeps experts on one home, and machine {setting.machine.name!r} has {len(homes)}: "
                          "use expert_parallel or tensor_parallel")
    return homes[0]


def rest_beside(setting: Setting, policy: str, *, computing: bool = False) -> Ints:
    """Where whole experts rest beside the home, in contiguous blocks: [moe_layers, experts, 1]; refuses if nowhere.

    computing: on devices that can run them, too.
    """
    machine = setting.machine
    where = [d for d in machine.stores if d not in machine.homes and (runs_experts(machine, d) or not computing)]
    if not where:
        asked = " and run" if computing else ""
        raise ConfigError(f"{policy} needs a device beside the home on which experts rest{asked}, "
                          f"and machine {machine.name!r} has none")
    return spread(setting, owners(setting.model.experts, len(where), "contiguous"), where)


def spread(setting: Setting, owner: Ints, devices: list[int] | tuple[int, ...]) -> Ints:
    """Every layer alike: expert e rests on devices[owner[e]]; [moe_layers, experts, 1]."""
    rest = np.asarray(devices, np.int64)[owner]
    return np.tile(rest[:, None], (len(setting.model.moe_layers), 1, 1))


def owners(experts: int, units: int, placement: str) -> Ints:
    """The unit of each expert [experts]: contiguous floor(e U / E), or round_robin e mod U."""
    e = np.arange(experts)
    return e * units // experts if placement == "contiguous" else e % units


def at_least(least: int, value: int, what: str) -> None:
    """Refuse a parameter that is too small."""
    if value < least:
        raise ConfigError(f"{what} is {value}; it is at least {least}")


def runs_experts(machine: Machine, device: int) -> bool:
    return machine.devices[device].computes and "expert" in machine.devices[device].kernels


class Places(NamedTuple):
    """The devices that share the experts of every layer, and for each the devices where its share may rest.

    A device on which experts rest is its own only store. One that must load its share has the nearest stores.
    """

    devices: tuple[int, ...]
    stores: tuple[tuple[int, ...], ...]


def places(machine: Machine, policy: str) -> Places:
    """Who shares the experts: several homes where they rest; else units where they rest; else homes that load them."""
    resting = [d for d in machine.stores if runs_experts(machine, d)]
    at_home = [d for d in resting if d in machine.homes]
    beside = [d for d in resting if d not in machine.homes]
    chosen = at_home if len(at_home) > 1 or not beside else beside
    if chosen:
        return Places(tuple(chosen), tuple((d,) for d in chosen))
    able = tuple(d for d in machine.homes if runs_experts(machine, d))
    if not able or not machine.stores:
        raise ConfigError(f"{policy} needs devices that run experts; machine {machine.name!r} has "
                          f"{'no place where experts rest' if able else 'none that can reach them'}")
    return Places(able, tuple(nearest(machine, d) for d in able))


def nearest(machine: Machine, device: int, stores: tuple[int, ...] = ()) -> tuple[int, ...]:
    """The stores (or those named) with the fewest links on the way to a device; several where they are equally near."""
    hops = {s: len(machine.routes[s, device]) for s in stores or machine.stores if (s, device) in machine.routes}
    if not hops:
        raise ConfigError(f"no links lead from where experts rest to {machine.devices[device].name!r}")
    return tuple(s for s, n in hops.items() if n == min(hops.values()))


def staged(setting: Setting, shared: Places, parts: int, slots: int) -> dict[int, int]:
    """What the slots of those devices take that must load their shares, in bytes; the largest part fills each."""
    part = setting.model.expert_work(setting.model.columns(0, parts)).weight_bytes
    return {d: slots * part for d, stores in zip(shared.devices, shared.stores, strict=True) if stores != (d,)}


def through_slots(plan: Plan, experts: Ints, devices: Ints, parts: Ints, loads: Mask, slots: int) -> None:
    """Run experts on devices, [runs]; those to be loaded pass through `slots` slots there, used in turn and emptied."""
    if not loads.any():
        plan.extend(RUN, experts, devices, part=parts)
        return
    copied = np.flatnonzero(loads)
    copied = copied[np.argsort(devices[copied], kind="stable")]
    rank = np.arange(len(copied)) - np.searchsorted(devices[copied], devices[copied])
    held = np.bincount(devices[copied])[devices[copied]]
    victim = np.full(len(experts), NOBODY)
    over = rank >= slots
    victim[copied[over]] = experts[copied[np.flatnonzero(over) - slots]]
    # A load goes before its run; a row that needs none has only its run.
    row = np.repeat(np.arange(len(experts)), 1 + loads)
    run = np.r_[row[1:] != row[:-1], True]
    plan.extend(np.where(run, RUN, LOAD), experts[row], devices[row], part=parts[row],
                victim=np.where(run, NOBODY, victim[row]))
    last = copied[rank >= held - slots]
    first_use = {device: i for i, device in reversed(list(enumerate(devices[loads].tolist())))}
    last = last[np.argsort([first_use[device] for device in devices[last].tolist()], kind="stable")]
    plan.extend(EVICT, experts[last], devices[last], part=parts[last])
