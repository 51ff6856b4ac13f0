"""The metrics of a run under way, from what its scheduler and journal hold: built between two steps, on the run's own
thread, and never while they change."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from actors.scheduler import Scheduler
from cluster.observe.attribution import LABELS
from cluster.observe.journal import Journal
from cluster.observe.metrics.catalogue import BOUNDS, BUCKETS_S
from cluster.observe.metrics.families import Samples, Spread
from cluster.observe.metrics.load import fullest, tell_load
from emulation.lowering.emit import CAUSES
from emulation.units import PS_PER_S
from emulation.view import PREFILL, Step

if TYPE_CHECKING:
    from cluster.observe.collect import Collector
    from workloads.serving import Serving

Ints = NDArray[np.int64]
NEVER = -1
_BOUNDS_S = np.array(BUCKETS_S)


class Watched(Protocol):
    """A run under way, as a watcher sees it. who: values of the labels of moelab_run_info. serving: of requests that
    are batched continuously."""

    scheduler: Scheduler
    journal: Journal
    collector: "Collector | None"

    @property
    def who(self) -> Mapping[str, str]: ...

    @property
    def serving(self) -> "Serving | None": ...

    @property
    def restarts(self) -> int: ...

    @property
    def dilation(self) -> float | None: ...


class Followed:
    """Times of requests and steps, taken up step by step: every step once. Arrays grow with the requests only."""

    def __init__(self) -> None:
        self.steps = {"prefill": 0, "decode": 0}
        self.tokens = {"prompt": 0, "output": 0, "prefill": 0, "decode": 0}
        self.spreads = {name: Spread() for name in ("ttft", "itl", "queueing", "step")}
        self._at = 0
        self.started_ps, self.first_ps, self.last_ps, self.made = (np.full(0, NEVER, np.int64) for _ in range(4))
        self.prefilled = np.zeros(0, np.bool_)

    def follow(self, scheduler: Scheduler, journal: Journal, arrival_ps: Ints | None) -> None:
        """Take up the steps that have ended since the last call. arrival_ps: of requests, by sequence; None: at 0."""
        while self._at < len(scheduler.steps):
            times, step = scheduler.steps[self._at], journal.activities[self._at].step
            self.steps["prefill" if times.prefill_tokens else "decode"] += 1
            self.tokens["prefill"] += times.prefill_tokens
            self.tokens["decode"] += times.decode_tokens
            self._spread("step", np.array([times.end_ps - times.begin_ps]))
            self._requests(step, times.begin_ps, times.end_ps, arrival_ps)
            self._at += 1

    def _requests(self, step: Step, begin_ps: int, end_ps: int, arrival_ps: Ints | None) -> None:
        who = np.unique(step.sequence)
        self._room(int(who[-1]) + 1 if len(who) else 0)
        new = who[self.started_ps[who] == NEVER]
        self.started_ps[new] = begin_ps
        self._spread("queueing", begin_ps - (arrival_ps[new] if arrival_ps is not None else np.zeros_like(new)))
        self.prefilled[step.sequence[step.phase == PREFILL]] = True
        ending = step.sequence[step.ends]
        self.tokens["output"] += len(ending)
        first = ending[self.first_ps[ending] == NEVER]
        self._spread("itl", end_ps - self.last_ps[ending[self.first_ps[ending] != NEVER]])
        self.first_ps[first] = self.last_ps[ending] = end_ps
        self.made[ending] += 1
        known = first[self.prefilled[first]]
        self._spread("ttft", end_ps - (arrival_ps[known] if arrival_ps is not None else np.zeros_like(known)))

    def _room(self, count: int) -> None:
        more = count - len(self.made)
        if more > 0:
            more = max(more, len(self.made))
            none = np.full(more, NEVER, np.int64)
            self.started_ps, self.first_ps, self.last_ps = (
                np.concatenate([column, none]) for column in (self.started_ps, self.first_ps, self.last_ps))
            self.made = np.concatenate([self.made, np.zeros(more, np.int64)])
            self.prefilled = np.concatenate([self.prefilled, np.zeros(more, np.bool_)])

    def _spread(self, name: str, values_ps: Ints) -> None:
        add_all(self.spreads[name], values_ps)

    def ended(self, asked: Ints, arrival_ps: Ints) -> tuple[int, Spread, Spread]:
        """How many requests have all their tokens, asked [requests]; their TPOT and their end-to-end times."""
        count = min(len(asked), len(self.made))
        done = np.flatnonzero(self.made[:count] >= asked[:count])
        tpot, whole = Spread(), Spread()
        several = done[self.made[done] > 1]
        add_all(tpot, (self.last_ps[several] - self.first_ps[several]) / (self.made[several] - 1))
        add_all(whole, self.last_ps[done] - arrival_ps[done])
        return len(done), tpot, whole


def add_all(spread: Spread, values_ps: NDArray[np.int64] | NDArray[np.float64]) -> None:
    """Put picoseconds into a histogram."""
    seconds = values_ps / PS_PER_S
    for place, count in zip(*np.unique(np.searchsorted(_BOUNDS_S, seconds), return_counts=True), strict=True):
        spread.counts[int(place)] += int(count)
    spread.sum_s += float(seconds.sum())


class Live:
    """The metrics of one policy of a run, from its first step on."""

    def __init__(self, run: str, policy: str, watched: Watched) -> None:
        self._run, self._policy, self._watched = run, policy, watched
        self._followed = Followed()
        self._scheduler: Scheduler | None = None
        self._named: list[tuple[int, int]] = []

    def samples(self, done: float) -> Samples:
        """Everything as it is now, between two steps. done: how far the run is."""
        watched, scheduler = self._watched, self._watched.scheduler
        if scheduler is not self._scheduler:  # taken up again from its beginning
            self._followed, self._scheduler = Followed(), scheduler
        serving, out = watched.serving, Samples(self._run, self._policy)
        self._followed.follow(scheduler, watched.journal, None if serving is None else serving.requests.arrival_ps)
        out.add("moelab_run_info", 1, **watched.who)
        now_ps = scheduler.steps[-1].end_ps if scheduler.steps else 0
        out.add("moelab_emulated_seconds_total", now_ps / PS_PER_S)
        if watched.dilation is not None:
            out.add("moelab_dilation_ratio", watched.dilation)
        self._tell_steps(out)
        self._tell_requests(out, serving, now_ps)
        self._tell_counts(out, scheduler)
        self._tell_machine(out, scheduler, watched.collector)
        out.add("moelab_faults", len(scheduler.faults.acting))
        out.add("moelab_restarts_total", watched.restarts)
        out.add("moelab_done_ratio", done)
        return out

    def _tell_steps(self, out: Samples) -> None:
        followed = self._followed
        out.each("moelab_steps_total", "phase", followed.steps)
        for name, spread in followed.spreads.items():
            out.spread(f"moelab_{name}_seconds", Spread(list(spread.counts), spread.sum_s))

    def _tell_requests(self, out: Samples, serving: "Serving | None", now_ps: int) -> None:
        followed = self._followed
        tokens, started = dict(followed.tokens), int((followed.started_ps != NEVER).sum())
        if serving is not None:
            asked = serving.requests
            came = int(np.searchsorted(asked.arrival_ps, now_ps, side="right"))
            finished, tpot, whole = followed.ended(asked.output_tokens, asked.arrival_ps)
            tokens["prompt"] = int(asked.prompt_tokens[:came].sum())
            out.each("moelab_requests_total", "outcome", {"asked": came, "length": finished})
            out.add("moelab_requests_running", started - finished)
            out.add("moelab_requests_waiting", came - started)
            out.add("moelab_preemptions_total", int(serving.preemptions.sum()))
            out.spread("moelab_tpot_seconds", tpot)
            out.spread("moelab_end_to_end_seconds", whole)
            out.add("moelab_kv_blocks", int(serving.cache.capacity.sum()))
        else:
            tokens["prompt"] = tokens["prefill"]
            out.each("moelab_requests_total", "outcome", {"asked": started})
        out.each("moelab_tokens_total", "kind", tokens)

    def _tell_counts(self, out: Samples, scheduler: Scheduler) -> None:
        so_far = scheduler.so_far()
        for phase, tally in so_far.phases.items():
            for figure in ("hits", "misses", "loads", "substituted", "dropped"):
                out.add(f"moelab_experts_{figure}_total", getattr(tally, figure), phase=phase)
            out.add("moelab_loaded_bytes_total", tally.loaded_bytes, phase=phase)
        out.each("moelab_prefetches_total", "outcome", {"issued": so_far.prefetch_issued,
                                                        "useful": so_far.prefetch_useful})
        load = so_far.load.sum(axis=0)
        room = BOUNDS["expert"] - len(self._named)
        self._named += [at for at in fullest(load) if at not in self._named][:room]
        tell_load(out, scheduler.setting.model.moe_layers, load, self._named)
        for link, row in zip(scheduler.setting.machine.links, so_far.moved_bytes.tolist(), strict=True):
            for cause, moved in zip(CAUSES, row, strict=True):
                if moved:
                    out.add("moelab_link_bytes_total", moved, link=link.name, cause=cause)

    def _tell_machine(self, out: Samples, scheduler: Scheduler, collector: "Collector | None") -> None:
        machine, ledger = scheduler.setting.machine, scheduler.ledger
        for i, device in enumerate(machine.devices):
            if device.memory_bytes or ledger.peak_bytes[i]:
                out.add("moelab_memory_capacity_bytes", device.memory_bytes, device=device.name)
                out.add("moelab_memory_bytes", int(ledger.used_bytes[i]), device=device.name, part="experts")
        busy_ps, stall_ps = _lanes(scheduler) if collector is None else collector.so_far()
        for lane, busy, stall in zip(machine.lanes, busy_ps.sum(axis=1).tolist(), stall_ps.tolist(), strict=True):
            out.add("moelab_lane_servers", lane.servers, lane=lane.name)
            out.add("moelab_lane_busy_seconds_total", busy / PS_PER_S, lane=lane.name)
            for label, ps in zip(LABELS, stall, strict=True):
                if ps:
                    out.add("moelab_lane_stall_seconds_total", ps / PS_PER_S, lane=lane.name, cause=label)


def _lanes(scheduler: Scheduler) -> tuple[Ints, Ints]:
    """Busy time of each lane where nobody collects it, [lanes, 1]; why it stalled is not known before the end."""
    lane, _, from_ps, to_ps = scheduler.engine.occupancy()
    busy_ps = np.zeros(len(scheduler.engine.lanes), np.int64)
    np.add.at(busy_ps, lane, to_ps - from_ps)
    return busy_ps[:, None], np.zeros((len(busy_ps), len(LABELS)), np.int64)
