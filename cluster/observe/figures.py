"""Figures of a run, computed from what the scheduler and the journal kept. Exact where whole numbers allow it."""

from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from actors.scheduler import Scheduler
from cluster.observe import schema
from cluster.observe.attribution import LABELS, Use
from cluster.observe.flight import lane_owners
from cluster.observe.held import kv_peaks, puts
from cluster.observe.journal import Activity, Journal
from cluster.observe.requests import Service
from cluster.observe.submitted import Sliced
from emulation.lowering.dense import shares
from emulation.lowering.emit import CAUSES
from emulation.model import Model
from emulation.units import PS_PER_S

Ints = NDArray[np.int64]


def rate(amount: int, time_ps: int) -> float | None:
    """Amount a second; None of no time."""
    return float(Fraction(amount * PS_PER_S, time_ps)) if time_ps else None


class Dense:
    """What the dense part of a model amounts to in a step of the decoder (or encoder), summed over its layers once."""

    def __init__(self, model: Model, *, encoder: bool = False) -> None:
        layers = [model.layers[i] for i in model.stack(encoder)]
        parts = [part for layer in layers
                 for part in (layer.attention, layer.router, layer.dense, layer.shared, layer.cross)]
        parts += [layer.source for layer in model.layers if encoder]
        self._weight_bytes = sum(part.weight_bytes for part in parts)
        self._token_flops = sum(part.token_flops for part in parts)
        self._kv_bytes, self._source_bytes = (sum(getattr(layer, key) for layer in layers)
                                              for key in ("kv_bytes", "source_bytes"))
        self._context_flops = sum(layer.context_flops for layer in layers)
        self._head = model.head
        self._expert = model.expert_work(model.d_ff)

    def activated(self, activity: Activity) -> tuple[int, int]:
        """(bytes, flops) that a step's activated weights, its caches and its tokens amount to."""
        bytes_ = activity.shards * self._expert.weight_bytes
        flops = activity.pairs * self._expert.token_flops
        for share in shares(activity.step).values():
            bytes_ += self._weight_bytes + share.kept * self._kv_bytes + share.source_kept * self._source_bytes
            flops += share.tokens * self._token_flops + (share.attended + share.source) * self._context_flops
            if share.ends:
                bytes_ += self._head.weight_bytes
                flops += self._head.flops_for(share.ends)
        return bytes_, flops


class Timed(Protocol):
    """What is known of a run's operations: `Walked`, or a collector."""

    @property
    def horizon_ps(self) -> int: ...

    @property
    def end_ps(self) -> Ints: ...

    @property
    def latency_ps(self) -> Ints: ...

    @property
    def spans_digest(self) -> str: ...

    @property
    def slot_peaks(self) -> Ints: ...

    def use(self) -> Use: ...

    def sliced(self) -> Sliced: ...


def phases(scheduler: Scheduler, journal: Journal, timed: Timed) -> dict[str, schema.Phase]:
    """Prefill and decode apart. A step with any prefill token is a prefill step."""
    machine, model = scheduler.setting.machine, scheduler.setting.model
    kernels = [device.kernels.values() for device in machine.devices if device.computes and device.kernels]
    bytes_per_s = sum(max(kernel.bytes_per_s for kernel in each) for each in kernels)
    flops_per_s = sum(max(kernel.flops_per_s for kernel in each) for each in kernels)
    latency = timed.latency_ps
    out, dense = {}, (Dense(model), Dense(model, encoder=True))
    for name, tally in scheduler.counts.phases.items():
        which = [i for i, step in enumerate(scheduler.steps) if bool(step.prefill_tokens) == (name == "prefill")]
        steps = [scheduler.steps[i] for i in which]
        work = [dense[journal.activities[i].step.encoder].activated(journal.activities[i]) for i in which]
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


def load(scheduler: Scheduler) -> schema.Load:
    """Routed tokens by MoE layer and expert."""
    prefill, decode = (tuple(map(tuple, of.tolist())) for of in scheduler.counts.load)
    return schema.Load(layers=tuple(scheduler.setting.model.moe_layers), prefill=prefill, decode=decode)


def skew(load: Ints) -> schema.Skew:
    """Load of the fullest expert over the mean, by layer; load [moe_layers, experts]."""
    layers = [float(Fraction(int(row.max()) * len(row), int(row.sum()))) if row.sum() else None for row in load]
    known = [value for value in layers if value is not None]
    return schema.Skew(layers=tuple(layers), mean=float(sum(map(Fraction, known)) / len(known)) if known else None,
                       max=max(known, default=None))


def uses(scheduler: Scheduler, timed: Timed) -> tuple[list[schema.LaneUse], list[schema.DeviceUse]]:
    """Busy and stalled time of every lane, and of every computing device by its busiest lane."""
    machine, use = scheduler.setting.machine, timed.use()
    owners = lane_owners(machine)
    lanes = [schema.LaneUse(lane=lane.name, device=owners[i], servers=lane.servers,
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


def memory(scheduler: Scheduler, journal: Journal, service: Service | None, timed: Timed) -> list[schema.Memory]:
    """Peak memory by device: experts by the ledger and in slots, dense weights and caches where attention runs."""
    machine, model, ledger = scheduler.setting.machine, scheduler.setting.model, scheduler.ledger
    cache = np.zeros(len(machine.devices), np.int64)
    if service is None:
        decoded, sources = puts(journal)
        count = len(journal.activities)
        cache += kv_peaks(decoded, len(machine.devices), count) * model.kv_bytes_per_token
        cache += kv_peaks(sources, len(machine.devices), count) * model.source_bytes_per_token
    else:
        cache[list(machine.homes)] = service.kv_peak_blocks * service.block_bytes
    active = activation_peaks(journal, model, scheduler.gated_bytes)
    out, streamed = [], np.zeros(len(machine.devices), np.int64)
    for pool, slots in zip(machine.pools, timed.slot_peaks.tolist(), strict=False):
        streamed[machine.index[pool.name.rpartition(".")[0]]] += slots * int(ledger.part_bytes.max())
    for i, device in enumerate(machine.devices):
        if not (device.memory_bytes or ledger.peak_bytes[i]):
            continue
        attends = i in machine.homes and "attention" in device.kernels
        experts, dense = int(ledger.peak_bytes[i] + streamed[i]), model.dense_bytes if attends else 0
        kept = int(cache[i]) if attends else 0
        out.append(schema.Memory(device=device.name, capacity_bytes=device.memory_bytes,
                                 budget_bytes=int(ledger.budget_bytes[i]), experts_peak_bytes=experts,
                                 dense_bytes=dense, kv_peak_bytes=kept, peak_bytes=experts + dense + kept,
                                 activations_peak_bytes=int(active[i])))
    return out


def activation_peaks(journal: Journal, model: Model, gated_bytes: Ints) -> Ints:
    """The most bytes of activations on each device: peaks of the hidden state, and of the widest part beside it.

    gated_bytes [devices]: what gatings hold at most.
    """
    tokens, ends = np.zeros((2, len(gated_bytes)), np.int64)
    for activity in journal.activities:
        home = activity.step.home
        tokens = np.maximum(tokens, np.bincount(home, minlength=len(gated_bytes)))
        ends = np.maximum(ends, np.bincount(home[activity.step.ends], minlength=len(gated_bytes)))
    widest = max(part.token_bytes for layer in model.layers
                 for part in (layer.attention, layer.dense, layer.shared, layer.cross))
    beside = np.maximum.reduce([tokens * widest, ends * model.head.token_bytes, gated_bytes])
    peaks: Ints = tokens * model.token_row_bytes(1) + beside
    return peaks
