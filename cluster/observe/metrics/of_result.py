"""The metrics of a finished run, from its result: every value as it stands when the run is over."""

import math
from collections.abc import Sequence

import numpy as np

from cluster.observe import schema
from cluster.observe.metrics.families import Samples, Spread
from cluster.observe.metrics.load import tell_load
from cluster.observe.result import Result
from emulation.units import PS_PER_S


def of_result(result: Result, run: str, policy: str | None = None, dilation: float | None = None) -> Samples:
    """All metrics of a result. run, policy: the names that it goes by; by default the policy's own. dilation: of
    whoever shows it; by default that of the wall clock, where it was played."""
    out = Samples(run, result.policy if policy is None else policy)
    tell_who(out, result)
    out.add("moelab_emulated_seconds_total", result.makespan_ps / PS_PER_S)
    _tell_requests(out, result)
    _tell_phases(out, result)
    _tell_load(out, result.load)
    tell_machine(out, result)
    _tell_lanes(out, result)
    tell_memory(out, result, result.series.slices - 1)
    tell_host(out, result.host, dilation)
    _tell_faults(out, result.faults)
    out.add("moelab_done_ratio", 1.0)
    return out


def tell_who(out: Samples, result: Result) -> None:
    """What does not change while it runs."""
    host = result.host
    out.add("moelab_run_info", 1, machine=result.machine, model=result.model,
            precision=str(result.config.get("precision", "")), transport=host.transport,
            version=host.versions.get("moelab", ""))
    if result.bound is not None:
        out.add("moelab_bound_seconds", result.bound.lb_ps / PS_PER_S)


def _tell_requests(out: Samples, result: Result) -> None:
    asked = result.requests
    prefill, decode = (sum(getattr(phase, f"{kind}_tokens") for phase in result.phases.values())
                       for kind in ("prefill", "decode"))
    out.each("moelab_tokens_total", "kind", {"prompt": sum(asked.prompt_tokens), "output": result.emitted_tokens,
                                             "prefill": prefill, "decode": decode})
    finished = sum(finishes(asked))
    started = sum(at is not None for at in asked.started_ps)
    out.each("moelab_requests_total", "outcome", {"asked": len(asked.sequence), "length": finished})
    out.add("moelab_requests_running", started - finished)
    out.add("moelab_requests_waiting", len(asked.sequence) - started)
    out.add("moelab_preemptions_total", sum(asked.preemptions))
    for name, values_ps in durations(asked).items():
        out.spread(f"moelab_{name}_seconds", spread_of([ps for _, ps in values_ps]))
    for name, spread in result.spreads.items():
        out.spread(f"moelab_{name}_seconds", until(spread, result.series.slices))
    if result.serving is not None and (slo := result.serving.slo) is not None:
        out.each("moelab_slo_met_ratio", "of", {"ttft": slo.ttft_share, "tpot": slo.tpot_share, "both": slo.share})


def finishes(asked: schema.Requests) -> list[bool]:
    """Whether each request got all tokens that it asked for."""
    return [made >= wanted > 0 for made, wanted in zip(asked.emitted_tokens, asked.output_tokens, strict=True)]


def durations(asked: schema.Requests) -> dict[str, list[tuple[int, int]]]:
    """TTFT, end-to-end and queueing times of the requests that have one: the instant at which each was known, and its
    picoseconds."""
    out: dict[str, list[tuple[int, int]]] = {"ttft": [], "end_to_end": [], "queueing": []}
    rows = zip(asked.arrival_ps, asked.started_ps, asked.first_ps, asked.last_ps, finishes(asked), strict=True)
    for arrival_ps, started_ps, first_ps, last_ps, is_whole in rows:
        if started_ps is not None:
            out["queueing"].append((started_ps, started_ps - arrival_ps))
        if first_ps is not None:
            out["ttft"].append((first_ps, first_ps - arrival_ps))
        if last_ps is not None and is_whole:
            out["end_to_end"].append((last_ps, last_ps - arrival_ps))
    return out


def spread_of(values_ps: Sequence[float]) -> Spread:
    """Picoseconds as a histogram."""
    spread = Spread()
    for ps in values_ps:
        spread.add(ps / PS_PER_S)
    return spread


def until(spread: schema.Spread, slices: int) -> Spread:
    """A histogram as it stood at the end of so many slices."""
    out = Spread(sum_s=math.fsum(spread.sum_s[:slices]))
    for place, counts in spread.buckets.items():
        out.counts[int(place)] = sum(counts[:slices])
    return out


def _tell_phases(out: Samples, result: Result) -> None:
    for name, phase in result.phases.items():
        out.add("moelab_steps_total", phase.steps, phase=name)
        out.add("moelab_loaded_bytes_total", phase.loaded_bytes, phase=name)
        for figure in ("hits", "misses", "loads", "substituted", "dropped"):
            out.add(f"moelab_experts_{figure}_total", getattr(phase, figure), phase=name)
        for cause, ps in phase.latency_ps.items():
            out.add("moelab_critical_path_seconds_total", ps / PS_PER_S, phase=name, cause=cause)
    fetched = result.prefetch
    out.each("moelab_prefetches_total", "outcome", {"issued": fetched.issued, "useful": fetched.useful,
                                                    "late": fetched.late, "wasted": fetched.wasted})


def _tell_load(out: Samples, load: schema.Load) -> None:
    tell_load(out, load.layers, np.array(load.prefill, np.int64) + np.array(load.decode, np.int64))


def tell_machine(out: Samples, result: Result) -> None:
    """What the machine has, in its own order: so the first devices and lanes are those that are told by name."""
    for memory in result.memory:
        out.add("moelab_memory_capacity_bytes", memory.capacity_bytes, device=memory.device)
    for lane in result.lanes:
        out.add("moelab_lane_servers", lane.servers, lane=lane.lane)
    if result.serving is not None:
        out.add("moelab_kv_blocks", sum(result.serving.kv_capacity_blocks))


def _tell_lanes(out: Samples, result: Result) -> None:
    for lane in result.lanes:
        out.add("moelab_lane_busy_seconds_total", lane.busy_ps / PS_PER_S, lane=lane.lane)
        for cause, ps in lane.stall.items():
            out.add("moelab_lane_stall_seconds_total", ps / PS_PER_S, lane=lane.lane, cause=cause)
    for link in result.traffic:
        for cause, moved in link.bytes.items():
            out.add("moelab_link_bytes_total", moved, link=link.link, cause=cause)
    for memory in result.memory:
        for part, most in (("experts", memory.experts_peak_bytes), ("dense", memory.dense_bytes),
                           ("kv", memory.kv_peak_bytes), ("activations", memory.activations_peak_bytes)):
            out.add("moelab_memory_peak_bytes", most, device=memory.device, part=part)
    if result.energy is not None:
        for name, joules in (*result.energy.by_device.items(), *result.energy.by_link.items()):
            out.add("moelab_energy_joules_total", joules, device=name)


def tell_memory(out: Samples, result: Result, at: int) -> None:
    """What lies in memory at the end of a slice."""
    series, serving = result.series, result.serving
    if serving is not None and serving.block_bytes:
        cached = sum(held[at] for held in series.kv_bytes.values())
        out.add("moelab_kv_blocks_used", cached / serving.block_bytes)
    for part, held in (("experts", series.resident_bytes), ("kv", series.kv_bytes)):
        for device, bytes_ in held.items():
            out.add("moelab_memory_bytes", bytes_[at], device=device, part=part)


def tell_host(out: Samples, host: schema.Host, dilation: float | None) -> None:
    """How it was carried out."""
    shown = host.wall.dilation if dilation is None and host.wall is not None else dilation
    if shown is not None:
        out.add("moelab_dilation_ratio", shown)
    out.add("moelab_restarts_total", host.restarts)
    out.add("moelab_actors", host.workers)
    out.add("moelab_nodes", host.nodes)
    out.add("moelab_checkpoints_unpacked", host.checkpoints_unpacked)
    if (wall := host.wall) is not None:
        out.each("moelab_lag_seconds", "rank", {"p50": wall.lag_p50_s, "p99": wall.lag_p99_s})
        out.each("moelab_wall_verdict", "verdict", {word: float(wall.verdict == word) for word in ("OK", "VOID")})
        out.add("moelab_wall_error_ratio", wall.error)
        out.add("moelab_wall_late_operations_total", wall.late_ops)


def _tell_faults(out: Samples, faults: Sequence[schema.FaultEffect] | None) -> None:
    if faults is None:
        return
    taken = [fault for fault in faults if fault.took_ps is not None]
    out.add("moelab_faults", sum(fault.over_ps is None for fault in taken))
    for fault in taken:
        out.add("moelab_faults_taken_total", 1, kind=fault.fault)
        out.add("moelab_fault_recovery_seconds_total", fault.recovery_ps / PS_PER_S, kind=fault.fault)
    out.each("moelab_fault_bytes_total", "source", {"sent": sum(fault.sent_bytes for fault in faults),
                                                    "stored": sum(fault.stored_bytes for fault in faults)})
