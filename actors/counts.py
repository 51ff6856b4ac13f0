"""What a run counts: hits and misses, where experts ran, what prefetch was good for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulation.ledger import Ledger
from emulation.lowering.experts import Load
from emulation.plan import ALL_PARTS
from emulation.streams import Streams
from emulation.validate import Assignment, Decision
from emulation.view import PREFILL, Setting, Step, View

Ints = NDArray[np.int64]


@dataclass
class Tally:
    """Counts of one phase (prefill or decode; a step with any prefill token counts as prefill).

    hits, misses: routed experts of a layer that a home held at the decision, or not. runs [devices]: expert runs.
    substituted, dropped: routed pairs served by another expert, or not at all. substituted_experts: routed experts of
    a layer that another stood in for.
    """

    runs: Ints
    hits: int = 0
    misses: int = 0
    loads: int = 0
    loaded_bytes: int = 0
    substituted: int = 0
    dropped: int = 0
    substituted_experts: int = 0


@dataclass
class Prefetched:
    """A prefetch in flight or there: its operation, and whether it was used."""

    op: int
    used: bool = False


def phase_of(step: Step) -> int:
    """Of PHASES the one that a step counts in."""
    return 0 if (step.phase == PREFILL).any() else 1


class Since(NamedTuple):
    """What a step counted: hits and misses as in `Tally`, and prefetches that were issued."""

    hits: int
    misses: int
    prefetches: int


PHASES = ("prefill", "decode")
NOTHING = Since(0, 0, 0)


class Counts:
    """Counts of a run, by phase; and the fate of every prefetch. at_home: whether a home ever held an expert.

    load [PHASES, moe_layers, experts]: tokens by the expert that they were routed to, whatever served them. resting:
    from when on which bytes of experts rested on each device.
    """

    def __init__(self, setting: Setting, ledger: Ledger) -> None:
        self._setting, self._ledger = setting, ledger
        devices = len(setting.machine.devices)
        self.at_home = self._is_at_home(ledger)
        self.phases = {name: Tally(runs=np.zeros(devices, np.int64)) for name in PHASES}
        self.load = np.zeros((len(PHASES), len(setting.model.moe_layers), setting.model.experts), np.int64)
        self.resting = [(0, ledger.resting_bytes)]
        self._told = NOTHING
        self.prefetch_issued = 0
        self.first_uses: list[tuple[int, int]] = []
        self._prefetched: dict[tuple[int, int, int, int], Prefetched] = {}

    def go_on(self, ledger: Ledger, now_ps: int) -> None:
        """Experts were placed anew: what was fetched ahead and not used is wasted."""
        self._ledger, self._prefetched = ledger, {}
        self.resting.append((now_ps, ledger.resting_bytes))
        self.at_home |= self._is_at_home(ledger)

    def _is_at_home(self, ledger: Ledger) -> bool:
        """Whether a home holds an expert at a start."""
        homes = self._setting.machine.homes
        copied = [home for home in homes if home in ledger.start.copies and ledger.start.copies[home].any()]
        return bool(copied) or bool(np.isin(ledger.start.rest, homes).any())

    def since(self) -> Since:
        """What was counted since the last call."""
        now = Since(*(sum(getattr(tally, key) for tally in self.phases.values()) for key in ("hits", "misses")),
                    self.prefetch_issued)
        more, self._told = Since(*(new - old for new, old in zip(now, self._told, strict=True))), now
        return more

    def _tally(self, view: View) -> Tally:
        return self.phases[PHASES[phase_of(view.step)]]

    def found(self, view: View) -> None:
        """Count what a decision found, before its plan changes it."""
        tally = self._tally(view)
        self.load[phase_of(view.step), view.moe] += view.routing.counts(view.setting.model.experts)
        held = np.zeros(view.setting.model.experts, np.bool_)
        for home in self._setting.machine.homes:
            held |= view.held(home)
        hits = int(held[view.routing.active].sum())
        tally.hits += hits
        tally.misses += len(view.routing.active) - hits

    def ran(self, view: View, assignments: Sequence[Assignment]) -> None:
        """Count the runs of a plan or fragment, before its loads are noted in the ledger."""
        tally = self._tally(view)
        moe_of = {layer: moe for moe, layer in enumerate(view.setting.model.moe_layers)}
        for run in assignments:
            tally.runs[run.device] += 1
            for part in range(self._ledger.start.parts) if run.part == ALL_PARTS else (run.part,):
                key = (run.device, moe_of[run.layer], run.expert, part)
                entry = self._prefetched.get(key)
                # One that was evicted since is not what runs, even if this plan loads it again.
                if entry is not None and not entry.used and self._ledger.has(*key):
                    entry.used = True
                    self.first_uses.append((entry.op, view.now_ps))

    def streamed(self, view: View, streams: Streams, runs: Ints) -> None:
        """Count parts that stream: each is loaded once, and run on every device that has tokens for it."""
        tally = self._tally(view)
        tally.runs += runs
        tally.loads += len(streams.expert)
        tally.loaded_bytes += int(self._ledger.part_bytes[streams.part].sum())

    def served(self, view: View, decision: Decision) -> None:
        """Count how what is served differs from what was routed."""
        tally = self._tally(view)
        tally.substituted += decision.substituted
        tally.dropped += decision.dropped
        tally.substituted_experts += decision.substituted_experts

    def after(self, view: View, loads: list[Load]) -> None:
        """Count the loads that a plan issued."""
        tally = self._tally(view)
        for load in loads:
            tally.loads += 1
            tally.loaded_bytes += int(self._ledger.part_bytes[load.part])
            self.at_home |= load.device in self._setting.machine.homes
            if load.prefetch:
                self.prefetch_issued += 1
                self._prefetched[load.device, load.moe, load.expert, load.part] = Prefetched(load.op)
            else:
                self._prefetched.pop((load.device, load.moe, load.expert, load.part), None)

    def prefetch(self, end_ps: Ints) -> dict[str, int]:
        """issued, useful (used), late (used, but arrived after the decision that used it), wasted (never used)."""
        late = sum(int(end_ps[op]) > at for op, at in self.first_uses)
        useful = len(self.first_uses)
        return {"issued": self.prefetch_issued, "useful": useful, "late": late,
                "wasted": self.prefetch_issued - useful}
