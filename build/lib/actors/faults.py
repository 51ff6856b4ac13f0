"""Faults of a run: when each takes effect, what the policy is told, and what it costs to go on.

A link that slows and a straggler take effect at the next decision of a layer: later operations are timed on the machine
as it is then. Where experts have to be placed anew (a unit died, memory shrank), that happens at the begin of the next
step: the policy starts again on what is left, and what its placement lacks is brought before the step goes on, from the
devices that have it, or else from storage.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.answers import as_pair
from emulation.errors import MoelabError, PlanError
from emulation.faults import Fault, UnitDies, setting_under
from emulation.ledger import Ledger
from emulation.lowering.copies import memory_pools
from emulation.ops import Edge
from emulation.relocation import missing
from emulation.units import per_second_ps, seconds
from emulation.view import Setting, Visits

if TYPE_CHECKING:
    from actors.scheduler import Scheduler


@dataclass
class Happened:
    """A fault and what became of it. took_ps, step: when it took effect, and in which step (None: not yet).

    over_ps: when it ended. sent_bytes, stored_bytes: brought over links, and read from storage. recovery_ps: until the
    step could go on.
    """

    fault: Fault
    took_ps: int | None = None
    step: int | None = None
    over_ps: int | None = None
    sent_bytes: int = 0
    stored_bytes: int = 0
    recovery_ps: int = 0


class Faults:
    """The faults of one scheduler, in the order in which they were told.

    storage_bytes_per_s: how fast experts are read that no device holds any more; None: from nowhere. relaid: whether
    experts were placed anew since somebody last looked.
    """

    def __init__(self, scheduler: "Scheduler") -> None:
        self._scheduler = scheduler
        self.happened: list[Happened] = []
        self.storage_bytes_per_s: int | None = None
        self.relaid = False
        self.acting: tuple[Fault, ...] = ()

    def add(self, fault: Fault) -> str:
        """Let a fault happen at its time, or now where that is over; refuses one with which the run could not go on.

        Returns a sentence that tells it.
        """
        scheduler = self._scheduler
        machine, now_ps = scheduler.setting.machine, scheduler.engine.now_ps
        if isinstance(fault, UnitDies):
            if fault.device in machine.homes:
                raise PlanError(f"{fault.of(machine)!r} cannot die in a run: it holds dense weights and tokens, and no "
                                "other device has its caches")
            if any(isinstance(h.fault, UnitDies) and h.fault.device == fault.device for h in self.happened):
                raise PlanError(f"{fault.of(machine)!r} is told to die twice")
        if fault.at_ps < now_ps:
            fault = replace(fault, at_ps=now_ps)
        if fault.moves:
            known = [h.fault for h in self.happened if h.fault.moves]
            self._start(sorted([*known, fault], key=lambda each: each.at_ps), fault)
        self.happened.append(Happened(fault))
        where = "the next step" if fault.moves else "the next layer"
        until = "" if fault.until_ps is None else f", until {seconds(fault.until_ps) * 1e3:g} ms"
        return f"{fault.told(machine)} at {where} from {seconds(fault.at_ps) * 1e3:g} ms on{until}"

    def _start(self, faults: "list[Fault]", fault: Fault) -> tuple[Setting, Ledger, Any]:
        """What the policy is told while these act, where it places experts then, and its state."""
        scheduler = self._scheduler
        base = scheduler.setting
        try:
            setting = setting_under(base, faults)
            if setting.future is not None and self.step is not None:
                ahead = setting.future.step >= self.step
                setting = replace(setting, future=Visits(*(column[ahead] for column in setting.future)))
            start, state = as_pair(scheduler.policy.start(setting), "start", "a Start")
            return setting, Ledger(setting.machine, setting.model, start, setting.budget_bytes), state
        except MoelabError as error:
            raise PlanError(f"{fault.told(base.machine)}, and the run cannot go on: {error}") from None

    @property
    def step(self) -> int | None:
        """The step that is under way, or began last."""
        number = self._scheduler.emit.step
        return number if number >= 0 else None

    def at_step(self) -> None:
        """A step has begun: place experts anew where that is due, then look at links and devices."""
        due = [h for h in self.happened if h.fault.moves and h.took_ps is None]
        for happened in sorted(due, key=lambda h: h.fault.at_ps):
            if happened.fault.at_ps <= self._scheduler.engine.now_ps:
                self._recover(happened)
        self.at_layer()

    def at_layer(self) -> None:
        """A layer is about to be decided: take account of what acts now."""
        now_ps = self._scheduler.engine.now_ps
        for happened in self.happened:
            fault = happened.fault
            if happened.took_ps is None and not fault.moves and fault.acts(now_ps):
                happened.took_ps, happened.step = now_ps, self.step
            if happened.took_ps is not None and happened.over_ps is None and (
                    fault.until_ps is not None and fault.until_ps <= now_ps):
                happened.over_ps = now_ps
        acting = self._acting(now_ps)
        if acting != self.acting:
            self.acting = acting
            self._scheduler.adapt(setting_under(self._scheduler.setting, acting))

    def _acting(self, now_ps: int) -> tuple[Fault, ...]:
        return tuple(h.fault for h in self.happened if h.took_ps is not None and (
            h.fault.moves or h.fault.acts(now_ps)))

    def _recover(self, happened: Happened) -> None:
        """Start the policy again on what is left, and bring what its placement lacks."""
        scheduler, engine, fault = self._scheduler, self._scheduler.engine, happened.fault
        began_ps = happened.took_ps = engine.now_ps
        happened.step = self.step
        self.acting = self._acting(began_ps)
        setting, ledger, state = self._start(list(self.acting), fault)
        alive = np.array([not any(each.kills(d) for each in self.acting) for d in range(len(setting.machine.devices))])
        lack = missing(scheduler.ledger, ledger, alive)
        if lack.stored_bytes and self.storage_bytes_per_s is None:
            raise PlanError(f"{fault.told(setting.machine)}: {lack.stored_bytes / 1e9:.3f} GB of experts are nowhere "
                            "else, and there is no storage to read them from")
        scheduler.stand_at(scheduler.emit.join(scheduler.copies.settled()))
        pools, pool_of = memory_pools(ledger, len(setting.machine.pools))
        engine.resize({pool_of[i]: pool.capacity for i, pool in enumerate(pools)})
        emit = scheduler.emit
        emit.machine = setting.machine
        brought = [Edge(emit.copy([pair], bytes_, "recovery", [])) for pair, bytes_ in lack.sent.items()]
        if lack.stored_bytes and self.storage_bytes_per_s is not None:
            read_ps = per_second_ps(lack.stored_bytes, self.storage_bytes_per_s)
            brought.append(Edge(emit.add("copy", cause="recovery", bytes_=lack.stored_bytes, length_ps=read_ps)))
        done = Edge(emit.join(brought))
        scheduler.copies.release_all([done])
        ledger.peak_bytes = np.maximum(scheduler.ledger.peak_bytes, ledger.peak_bytes)
        scheduler.go_on(setting, ledger, state)
        scheduler.copies.place_first([done])
        scheduler.stand_at(done.op)
        happened.sent_bytes, happened.stored_bytes = sum(lack.sent.values()), lack.stored_bytes
        happened.recovery_ps = engine.now_ps - began_ps
        self.relaid = True
