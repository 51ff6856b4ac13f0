"""The checks on a plan's streams: they go where parts can be run, in slots that are there, on rings that never stop."""

import numpy as np

from emulation.errors import PlanError
from emulation.ledger import Ledger
from emulation.plan import Plan
from emulation.streams import EDGES, Ints, Streams, bound_tokens
from emulation.view import Pairs, View

TWO_SLOTS = 2
"""Free slots without which nothing may enter a ring: with one, all may fill, and each part waits for the next slot."""


def check_streams(view: View, plan: Plan, ledger: Ledger) -> None:
    """Refuse streams that cannot be; whether they serve what is routed is `covered`'s to say."""
    s, handing, where = plan.streams, plan.handing, f"the plan for layer {view.layer}"
    if s is None:
        return
    machine, model, parts = view.setting.machine, view.setting.model, ledger.start.parts
    for name, column, limit in (("expert", s.expert, model.experts), ("part", s.part, parts),
                                ("device", s.path, len(machine.devices))):
        bad = column[(column < 0) | (column >= limit)]
        if len(bad):
            raise PlanError(f"{where} streams {name} {int(bad[0])}, but there are {limit}")
    if (s.lengths < 1).any():
        raise PlanError(f"{where} streams expert {int(s.expert[np.argmax(s.lengths < 1)])} to no device")
    if handing.hop_after not in EDGES or handing.slot_free_at not in EDGES:
        raise PlanError(f"{where} hands on after {handing.hop_after!r} and frees slots at {handing.slot_free_at!r}: "
                        f"an edge is one of {', '.join(EDGES)}")
    if handing.needs < TWO_SLOTS:
        raise PlanError(f"{where} lets parts enter a ring with {handing.needs} free slot: with less than {TWO_SLOTS} "
                        "it may fill, and every part then waits for the one before it")
    size = int(ledger.part_bytes.max())
    for number in np.flatnonzero(np.bincount(s.path)).tolist():
        device = machine.devices[number]
        if "expert" not in device.kernels or device.issuer is not None or {"gather", "scatter"} & set(device.kernels):
            raise PlanError(f"{where} streams through {device.name!r}: parts stream through devices that run experts, "
                            "with no host thread and no cost of gathering rows")
        pool = machine.pool_number.get(f"{device.name}.{handing.pool}")
        if pool is None:
            raise PlanError(f"{where} streams through {device.name!r}, which has no pool {handing.pool!r}: give the "
                            "device `pools:` in its hardware file")
        slots, room = machine.pools[pool].capacity, ledger.free_bytes(number)
        if slots < handing.needs:
            raise PlanError(f"{where} asks for {handing.needs} free slots of {device.name!r}, which has {slots}")
        if slots * size > room:
            raise PlanError(f"{device.name!r} has {slots} slots for parts of {size} bytes and room for {room} bytes: "
                            "use more parts, fewer slots or more memory")
    _check_ways(view, s, ledger)


def _check_ways(view: View, s: Streams, ledger: Ledger) -> None:
    """Links lead along every path; all paths go around the same rings."""
    where, machine = f"the plan for layer {view.layer}", view.setting.machine
    inner = np.ones(len(s.path), np.bool_)
    inner[s.path_ptr[1:] - 1] = False
    devices = len(machine.devices)
    steps = _pairs(s.path[inner], np.append(s.path[1:], -1)[inner], devices)
    entered = _pairs(ledger.start.rest[view.moe, s.expert, s.part], s.entries, devices)
    for a, b in [*steps.tolist(), *entered.tolist()]:
        if (a, b) not in machine.routes:
            raise PlanError(f"{where} streams from {machine.devices[a].name!r} to {machine.devices[b].name!r}, but no "
                            "links lead there")
    for column, told in ((steps[:, 0], "from"), (steps[:, 1], "to")):
        times = np.bincount(column, minlength=devices)
        if (times > 1).any():
            name = machine.devices[int(np.argmax(times > 1))].name
            raise PlanError(f"{where} streams {told} {name!r} along two rings that share its slots: two free slots "
                            "keep one ring from standing still, so rings that share devices need pools of their own")
    if np.bincount(s.of_visit * devices + s.path).max(initial=0) > 1:
        raise PlanError(f"{where} streams a part through the same device twice")


def _pairs(a: Ints, b: Ints, devices: int) -> Ints:
    """Each different pair of devices once, [pairs, 2]."""
    there = np.flatnonzero(np.bincount(a * devices + b))
    return np.stack([there // devices, there % devices], axis=1)


def covered(view: View, plan: Plan, now: Pairs, parts: int) -> Ints:
    """How many parts of its expert run where its token lies, of each pair of this layer (of none where nothing
    streams); refuses a part that runs twice for the same tokens."""
    experts, devices = view.setting.model.experts, len(view.setting.machine.devices)
    s = plan.streams
    if s is None:
        return np.zeros(0, np.int64)
    expert, part = s.expert[s.of_visit], s.part[s.of_visit]
    visits = np.bincount((expert * parts + part) * devices + s.path, minlength=experts * parts * devices)
    visits = visits.reshape(experts, parts, devices)
    bound = bound_tokens(now.expert, view.step.home[now.token], experts, devices)
    twice = np.argwhere((visits > 1) & (bound > 0)[:, None, :])
    if len(twice):
        e, p, d = twice[0].tolist()
        raise PlanError(f"layer {view.layer}: part {p} of expert {e} is served twice on "
                        f"{view.setting.machine.devices[d].name!r}")
    reached: Ints = visits.sum(axis=1)[now.expert, view.step.home[now.token]]
    return reached
