"""Which shard lies where, in the order of decisions; and what that costs of each device's memory.

An expert rests, part by part, on one device (its place at the start); devices may hold copies. A copy is absent,
coming or here; for a policy `held` is enough, since a shard whose load was issued before the decision is a hit.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emulation.errors import PlanError
from emulation.machine import Machine
from emulation.model import Model
from emulation.plan import ALL_PARTS

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
ABSENT = -1


@dataclass(frozen=True)
class Start:
    """What a policy decides before the run.

    parts: slices of each expert. rest [moe_layers, experts, parts]: device where each part rests.
    copies: device -> [moe_layers, experts] of whole experts copied there before the run begins.
    """

    rest: Ints
    copies: dict[int, Mask] = field(default_factory=dict)

    @property
    def parts(self) -> int:
        return int(self.rest.shape[2])


class Ledger:
    """Where shards rest and where copies of them are. Layers are numbers among MoE layers."""

    def __init__(self, machine: Machine, model: Model, start: Start, budget_bytes: Ints) -> None:
        start = _checked(machine, model, start)
        self.machine, self.model, self.start = machine, model, start
        self.budget_bytes = constant(budget_bytes.copy())
        self.part_bytes = np.array([model.expert_work(model.columns(p, start.parts)).weight_bytes
                                    for p in range(start.parts)], np.int64)
        self.used_bytes = np.zeros(len(machine.devices), np.int64)
        self.peak_bytes = self.used_bytes.copy()
        self._issued = 0
        self._since: dict[int, Ints] = {}
        for device in np.unique(start.rest):
            if not machine.devices[device].rests:
                able = ", ".join(machine.devices[d].name for d in machine.stores)
                raise PlanError(f"the policy rests experts on {machine.devices[device].name!r}, where none can rest; "
                                f"they can on: {able}")
            self._take(int(device), int(((start.rest == device) * self.part_bytes).sum()), "experts that rest there")
        for device, whole in sorted(start.copies.items()):
            if (twice := whole & (start.rest == device).any(axis=2)).any():
                moe, expert = (int(i[0]) for i in np.nonzero(twice))
                raise PlanError(f"the policy copies {self._name(moe, expert, ALL_PARTS)} to "
                                f"{machine.devices[device].name!r}, where it rests already")
            self._since[device] = np.full(start.rest.shape, ABSENT, np.int64)
            self._since[device][whole] = 0
            self._take(device, int(whole.sum() * self.part_bytes.sum()), "its first copies")

    def _take(self, device: int, bytes_: int, what: str) -> None:
        used, budget = int(self.used_bytes[device]) + bytes_, int(self.budget_bytes[device])
        if used > budget:
            raise PlanError(f"{self.machine.devices[device].name!r} has room for {_size(budget)} of experts, and with "
                            f"{what} it holds {_size(used)}: use fewer slots, a smaller precision or more memory")
        self.used_bytes[device] = used
        self.peak_bytes = np.maximum(self.peak_bytes, self.used_bytes)

    @property
    def resting_bytes(self) -> Ints:
        """Bytes of the experts that rest on each device, copies left out, [devices]."""
        rest, parts = self.start.rest, self.part_bytes
        return np.array([int(((rest == device) * parts).sum()) for device in range(len(self.used_bytes))], np.int64)

    def _copies(self, device: int) -> Ints:
        if device not in self._since:
            self._since[device] = np.full(self.start.rest.shape, ABSENT, np.int64)
        return self._since[device]

    def copies_on(self, device: int) -> Ints:
        """When each copy on a device was issued, ABSENT where there is none, [moe_layers, experts, parts]."""
        return self._copies(device)

    def parts_on(self, device: int) -> Mask:
        """Which parts of which experts a device holds, [moe_layers, experts, parts]."""
        held: Mask = (self.start.rest == device) | (self._copies(device) != ABSENT)
        return held

    def keep_copies(self, device: int, since: Ints) -> None:
        """Let another keep that array, and write it."""
        self._since[device] = since

    def _parts(self, part: int) -> slice:
        return slice(None) if part == ALL_PARTS else slice(part, part + 1)

    def rests(self, moe: int, device: int) -> Mask:
        """Which experts rest whole on a device, [experts]."""
        resting: Mask = (self.start.rest[moe] == device).all(axis=1)
        return resting

    def held(self, moe: int, device: int) -> Mask:
        """Which experts a device holds whole, coming ones included, [experts]."""
        here: Mask = (self.start.rest[moe] == device) | (self._copies(device)[moe] != ABSENT)
        if self.start.parts == 1:
            return here.reshape(-1)
        held: Mask = np.logical_and.reduce(here, axis=1)
        return held

    def since(self, moe: int, device: int) -> Ints:
        """When each expert's copy was issued: a number that grows, 0 for those of the start, ABSENT, [experts]."""
        issued: Ints = self._copies(device)[moe].max(axis=1)
        return issued

    def has(self, device: int, moe: int, expert: int, part: int) -> bool:
        """Whether a device holds a part of an expert (or all of it)."""
        where = self._parts(part)
        here = (self.start.rest[moe, expert, where] == device) | (self._copies(device)[moe, expert, where] != ABSENT)
        return bool(here.all())

    def load(self, device: int, moe: int, expert: int, part: int) -> None:
        """Note a copy; refuses what is there already and what does not fit."""
        where = self._parts(part)
        name = self._name(moe, expert, part)
        if self.has(device, moe, expert, part):
            raise PlanError(f"the plan loads {name} to {self.machine.devices[device].name!r}, which holds it already")
        self._take(device, int(self.part_bytes[where].sum()), f"the load of {name}")
        self._issued += 1
        self._copies(device)[moe, expert, where] = self._issued

    def evict(self, device: int, moe: int, expert: int, part: int) -> list[int]:
        """Note that the copies of an expert's parts go, and return which; what rests on a device stays."""
        since = self._copies(device)[moe, expert]
        gone = [p for p in range(self.start.parts)[self._parts(part)] if since[p] != ABSENT]
        if not gone:
            raise PlanError(f"the plan evicts {self._name(moe, expert, part)} from "
                            f"{self.machine.devices[device].name!r}, which holds no copy of it")
        since[gone] = ABSENT
        self.used_bytes[device] -= int(self.part_bytes[gone].sum())
        return gone

    def refuse_absent(self, device: int, moe: int, expert: int, part: int) -> None:
        """Tell that a plan runs what is not there."""
        name, where = self._name(moe, expert, part), self.machine.devices[device].name
        rest = sorted({self.machine.devices[d].name for d in self.start.rest[moe, expert].tolist()})
        raise PlanError(f"the plan runs {name} on {where!r}, which does not hold it: load it first, or run it where it "
                        f"rests ({', '.join(rest)})")

    def free_bytes(self, device: int) -> int:
        return int(self.budget_bytes[device] - self.used_bytes[device])

    def _name(self, moe: int, expert: int, part: int) -> str:
        which = "" if part == ALL_PARTS or self.start.parts == 1 else f" part {part}"
        return f"expert {expert}{which} of layer {self.model.moe_layers[moe]}"


def _size(bytes_: int) -> str:
    """Bytes in the unit that leaves one to three digits before the point."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if bytes_ >= scale:
            return f"{bytes_ / scale:.3f} {unit}"
    return f"{bytes_} B"


def _checked(machine: Machine, model: Model, start: Any) -> Start:
    """A policy's start, if its arrays are what they must be; copies of them that cannot be changed any more."""
    shape = (len(model.moe_layers), model.experts)
    if not isinstance(start, Start):
        raise PlanError(f"the policy's start() returned {type(start).__name__}: it returns a Start and its state")
    rest: Any = start.rest
    if not isinstance(rest, np.ndarray) or rest.dtype.kind not in "ui" or rest.ndim != 3:
        told = f"{rest.dtype} {list(rest.shape)}" if isinstance(rest, np.ndarray) else type(rest).__name__
        raise PlanError(f"the policy's rest is {told}: it is device numbers [moe_layers, experts, parts]")
    if rest.shape[:2] != shape:
        raise PlanError(f"the policy places {rest.shape[:2]} (layers, experts), the model has {shape}")
    if not 1 <= rest.shape[2] <= model.d_ff:
        raise PlanError(f"the policy cuts each expert into {rest.shape[2]} parts; it has {model.d_ff} columns to share")
    for device in (*np.unique(rest).tolist(), *start.copies):
        if not 0 <= device < len(machine.devices):
            raise PlanError(f"the policy places experts on device {device}, but the machine has {len(machine.devices)}")
    copies: dict[int, Any] = start.copies
    for device, whole in copies.items():
        if not isinstance(whole, np.ndarray) or whole.dtype != np.bool_ or whole.shape != shape:
            told = f"{whole.dtype} {list(whole.shape)}" if isinstance(whole, np.ndarray) else type(whole).__name__
            raise PlanError(f"the policy's copies on {machine.devices[device].name!r} are {told}: they are a mask of "
                            f"experts, bool {list(shape)}")
    return Start(constant(rest.astype(np.int64)), {d: constant(mask.copy()) for d, mask in copies.items()})


def constant(array: Any) -> Any:
    """The array, now without leave to write: what a policy sees is not its to change."""
    array.flags.writeable = False
    return array
