"""Figures of a run, computed from what the scheduler and the journal kept. Exact where whole numbers allow it."""

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from actors.scheduler import Scheduler
from cluster.observe import schema
from cluster.observe.attribution import LABELS, Walker, lane_use, step_latency
from cluster.observe.journal import Activity, Journal, Request
from emulation.lowering.dense import shares
from emulation.lowering.emit import CAUSES
from emulation.model import Model
from emulation.units import PS_PER_S
from emulation.view import PREFILL

Ints = NDArray[np.int64]


def quantiles(values_ps: Sequence[int] | Sequence[Fraction]) -> schema.Quantiles | None:
    """Mean and nearest-rank P50, P90 and P99; None of nothing."""
    if not values_ps:
        return None
    ordered: list[Fraction] = sorted(Fraction(value) for value in values_ps)
    n = len(ordered)
    ranked = [ordered[-(-n * percent // 100) - 1] for percent in (50, 90, 99)]
    whole = all(isinstance(value, int) for value in values_ps)
    p50_s, p90_s, p99_s = (float(value / PS_PER_S) for value in ranked)
    return schema.Quantiles(count=n, mean_s=math.fsum(ordered) / n / PS_PER_S, p50_s=p50_s, p90_s=p90_s, p99_s=p99_s,
                            exact_ps=(int(ranked[0]), int(ranked[1]), int(ranked[2])) if whole else None)


def rate(amount: int, time_ps: int) -> float | None:
    """Amount a second; None of no time."""
    return float(Fraction(amount * PS_PER_S, time_ps)) if time_ps else None


def token_times(scheduler: Scheduler, journal: Journal) -> tuple[dict[int, list[int]], set[int]]:
    """Instants at which each sequence got a token (ends of steps that wanted its logits); sequences with a prefill."""
    out: dict[int, list[int]] = {}
    prefilled: set[int] = set()
    for activity, times in zip(journal.activities, scheduler.steps, strict=True):
        step = activity.step
        for sequence in step.sequence[step.ends].tolist():
            out.setdefault(sequence, []).append(times.end_ps)
        prefilled.update(step.sequence[step.phase == PREFILL].tolist())
    return out, prefilled


def sequences(scheduler: Scheduler, journal: Journal, requests: Sequence[Request]) -> tuple[
        list[schema.Sequence], dict[str, schema.Quantiles | None]]:
    """Requests as served, and the quantiles of TTFT, TPOT and ITL.

    TTFT: from arrival to the end of the step that ended the prefill. TPOT: (last - first) / (tokens - 1). ITL: every
    gap between two tokens of a sequence.
    """
    times, prefilled = token_times(scheduler, journal)
    served = []
    first_ps: list[int] = []
    per_token_ps: list[Fraction] = []
    gaps_ps: list[int] = []
    for request in requests:
        at_ps = times.get(request.sequence, [])
        prompted = bool(at_ps) and request.sequence in prefilled
        served.append(schema.Sequence(
            sequence=request.sequence, arrival_ps=request.arrival_ps, prompt_tokens=request.prompt_tokens,
            output_tokens=request.output_tokens, emitted_tokens=len(at_ps),
            first_ps=at_ps[0] if prompted else None, last_ps=at_ps[-1] if at_ps else None))
        if prompted:
            first_ps.append(at_ps[0] - request.arrival_ps)
        if len(at_ps) > 1:
            per_token_ps.append(Fraction(at_ps[-1] - at_ps[0], len(at_ps) - 1))
            gaps_ps += [b - a for a, b in pairwise(at_ps)]
    return served, {"ttft": quantiles(first_ps), "tpot": quantiles(per_token_ps), "itl": quantiles(gaps_ps)}


def activated(model: Model, activity: Activity) -> tuple[int, int]:
    """(bytes, flops) that a step's activated weights, its caches and its tokens amount to."""
    expert = model.expert_work(model.d_ff)
    bytes_ = activity.shards * expert.weight_bytes
    flops = activity.pairs * expert.token_flops
    for share in shares(activity.step).values():
        for layer in model.layers:
            for part in (layer.attention, layer.router, layer.dense, layer.shared):
                bytes_ += part.weight_bytes
                flops += part.flops_for(share.tokens)
            bytes_ += share.kept * layer.kv_bytes
            flops += share.attended * layer.context_flops
        if share.ends:
            bytes_ += model.head.weight_bytes
            flops += model.head.flops_for(share.ends)
    return bytes_, flops


def phases(scheduler: Scheduler, journal: Journal, walker: Walker) -> dict[str, schema.Phase]:
    """Prefill and decode apart. A step with any prefill token is a prefill step."""
    machine, model = scheduler.setting.machine, scheduler.setting.model
    kernels = [device.kernels.values() for device in machine.devices if device.computes and device.kernels]
    bytes_per_s = sum(max(kernel.bytes_per_s for kernel in each) for each in kernels)
    flops_per_s = sum(max(kernel.flops_per_s for kernel in each) for each in kernels)
    latency = step_latency(walker, np.array([s.end_op for s in scheduler.steps], np.int64),
                           np.array([s.begin_ps for s in scheduler.steps], np.int64))
    out = {}
    for name, tally in scheduler.counts.phases.items():
        which = [i for i, step in enumerate(scheduler.steps) if bool(step.prefill_tokens) == (name == "prefill")]
        steps = [scheduler.steps[i] for i in which]
        work = [activated(model, journal.activities[i]) for i in which]
        time_ps = sum(step.end_ps - step.begin_ps for step in steps)
        prefill, decode = (sum(getattr(step, f"{key}_tokens") for step in steps) for key in ("prefill", "decode"))
        found = tally.hits + tally.misses
        out[name] = schema.Phase(
            steps=len(steps), prefill_tokens=prefill, decode_tokens=decode, time_ps=time_ps,
            tokens_per_s=rate(prefill + decode, time_ps), hits=tally.hits, misses=tally.misses,
            hit_rate=tally.hits / found if found and scheduler.counts.at_home else None,
            loads=tally.loads, loaded_bytes=tally.loaded_bytes, substituted=tally.substituted, dropped=tally.dropped,
            substituted_experts=tally.substituted_experts,
            runs={device.name: int(runs) for device, runs in zip(machine.devices, tally.runs, strict=True) if runs},
            latency_ps=_named(latency[which].sum(axis=0)),
            s_mbu=_share(sum(bytes_ for bytes_, _ in work), bytes_per_s, time_ps),
            s_mfu=_share(sum(flops for _, flops in work), flops_per_s, time_ps))
    return out


def _share(amount: int, rate_per_s: int, time_ps: int) -> float | None:
    return float(Fraction(amount * PS_PER_S, time_ps * rate_per_s)) if time_ps and rate_per_s else None


def _named(row: Ints) -> dict[str, int]:
    """The labels of a row that are not zero."""
    out: dict[str, int] = {}
    for label, ps in zip(LABELS, row.tolist(), strict=True):
        if ps:
            out[label] = out.get(label, 0) + ps
    return out


def traffic(scheduler: Scheduler) -> list[schema.Traffic]:
    """Bytes by link and cause."""
    machine, moved = scheduler.setting.machine, scheduler.emit.moved_bytes
    return [schema.Traffic(link=link.name, source=machine.devices[link.source].name,
                           target=machine.devices[link.target].name,
                           bytes={cause: int(b) for cause, b in zip(CAUSES, row, strict=True) if b},
                           total_bytes=int(row.sum()))
            for link, row in zip(machine.links, moved, strict=True)]


def skew(load: Ints) -> schema.Skew:
    """Load of the fullest expert over the mean, by layer; load [moe_layers, experts]."""
    layers = [float(Fraction(int(row.max()) * len(row), int(row.sum()))) if row.sum() else None for row in load]
    known = [value for value in layers if value is not None]
    return schema.Skew(layers=tuple(layers), mean=float(sum(map(Fraction, known)) / len(known)) if known else None,
                       max=max(known, default=None))


def uses(scheduler: Scheduler, walker: Walker) -> tuple[list[schema.LaneUse], list[schema.DeviceUse]]:
    """Busy and stalled time of every lane, and of every computing device by its busiest lane."""
    machine, use = scheduler.setting.machine, lane_use(walker, walker.flight.horizon_ps)
    lanes = [schema.LaneUse(lane=lane.name, device=walker.flight.owners[i], servers=lane.servers,
                            busy_ps=int(use.busy_ps[i].sum()), stall_ps=int(use.stall_ps[i].sum()),
                            busy=_named(use.busy_ps[i]), stall=_named(use.stall_ps[i]))
             for i, lane in enumerate(machine.lanes)]
    devices = []
    for device in machine.devices:
        if device.computes:
            most = max((lanes[i] for i in device.lanes), key=lambda lane: Fraction(lane.busy_ps, lane.servers))
            devices.append(schema.DeviceUse(device=device.name, kind=device.kind, lane=most.lane, busy_ps=most.busy_ps,
                                            stall_ps=most.stall_ps, stall=most.stall))
    return lanes, devices


def memory(scheduler: Scheduler, journal: Journal) -> list[schema.Memory]:
    """Peak memory by device: experts by the ledger, dense weights and caches on homes that run attention."""
    machine, model, ledger = scheduler.setting.machine, scheduler.setting.model, scheduler.ledger
    kv = _kv_peaks(journal, len(machine.devices))
    out = []
    for i, device in enumerate(machine.devices):
        if not (device.memory_bytes or ledger.peak_bytes[i]):
            continue
        attends = i in machine.homes and "attention" in device.kernels
        experts, dense = int(ledger.peak_bytes[i]), model.dense_bytes if attends else 0
        cache = int(kv[i]) * model.kv_bytes_per_token if attends else 0
        out.append(schema.Memory(device=device.name, capacity_bytes=device.memory_bytes,
                                 budget_bytes=int(ledger.budget_bytes[i]), experts_peak_bytes=experts,
                                 dense_bytes=dense, kv_peak_bytes=cache, peak_bytes=experts + dense + cache))
    return out


def _kv_peaks(journal: Journal, devices: int) -> Ints:
    """Most positions cached at once on each device; a sequence keeps its own until its last step."""
    last = {}
    for i, activity in enumerate(journal.activities):
        last.update(dict.fromkeys(activity.step.sequence.tolist(), i))
    now, peak = np.zeros(devices, np.int64), np.zeros(devices, np.int64)
    kept: dict[int, tuple[int, int]] = {}
    for i, activity in enumerate(journal.activities):
        step = activity.step
        rows = zip(step.sequence.tolist(), step.position.tolist(), step.home.tolist(), strict=True)
        for sequence, position, home in rows:
            before = kept.get(sequence, (0, home))[0]
            longest = max(before, position + 1)
            now[home] += longest - before
            kept[sequence] = (longest, home)
        peak = np.maximum(peak, now)
        for sequence in [s for s in dict.fromkeys(step.sequence.tolist()) if last[s] == i]:
            positions, home = kept.pop(sequence)
            now[home] -= positions
    return peak
