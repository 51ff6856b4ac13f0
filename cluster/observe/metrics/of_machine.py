"""The metrics of a served machine: what it is, how it is, and what it has counted."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.observe.metrics.catalogue import BOUNDS
from cluster.observe.metrics.families import Samples, Spread
from cluster.observe.metrics.load import fullest, tell_load
from emulation.units import PS_PER_S

if TYPE_CHECKING:
    from cluster.serve.contract import Machine, Status

STATES = ("starting", "ready", "stopping", "failed")
SPREADS = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "end_to_end": "end_to_end", "queueing": "queueing",
           "step": "step", "late": "late_real"}
COUNTED = {"hits": "experts_hits", "misses": "experts_misses", "loads": "experts_loads",
           "loaded_bytes": "loaded_bytes", "substituted": "experts_substituted", "dropped": "experts_dropped"}


def of_machine(machine: "Machine", named: list[tuple[int, int]]) -> Samples:
    """All metrics of a machine, as it is just now. named: the (row, expert) that are told by name, kept from scrape to
    scrape: more are added while there is room."""
    who, status = machine.identity, machine.status()
    out = Samples(who.run, who.policy)
    out.add("moelab_run_info", 1, machine=who.machine, model=machine.model, precision=who.precision,
            transport=who.transport, version=who.version)
    _tell_status(out, status)
    figures: Mapping[str, Any] = machine.figures()
    for device, capacity in (figures.get("memory") or {}).items():
        out.add("moelab_memory_capacity_bytes", capacity, device=device)
    _tell_figures(out, figures, named)
    return out


def _tell_status(out: Samples, status: "Status") -> None:
    out.each("moelab_machine_state", "state", {name: float(name == status.state) for name in STATES})
    out.add("moelab_emulated_seconds_total", status.emulated_ps / PS_PER_S)
    if status.dilation is not None:
        out.add("moelab_dilation_ratio", status.dilation)
    out.add("moelab_requests_running", status.running)
    out.add("moelab_requests_waiting", status.waiting)
    out.add("moelab_kv_blocks", status.kv_blocks)
    out.add("moelab_kv_blocks_used", status.kv_blocks_used)
    out.add("moelab_faults", len(status.faults))


def _tell_figures(out: Samples, figures: Mapping[str, Any], named: list[tuple[int, int]]) -> None:
    out.each("moelab_requests_total", "outcome", figures.get("requests") or {})
    out.each("moelab_tokens_total", "kind", figures.get("tokens") or {})
    out.each("moelab_steps_total", "phase", figures.get("steps_by_phase") or {})
    for key, name in SPREADS.items():
        if isinstance(spread := figures.get(key), Mapping):
            out.spread(f"moelab_{name}_seconds", Spread(list(spread["buckets"]), spread["sum_s"]))
    for phase, tally in (figures.get("phases") or {}).items():
        for key, name in COUNTED.items():
            out.add(f"moelab_{name}_total", tally[key], phase=phase)
    out.each("moelab_prefetches_total", "outcome", figures.get("prefetch") or {})
    out.each("moelab_lane_busy_seconds_total", "lane", figures.get("busy_s") or {})
    out.each("moelab_lane_servers", "lane", figures.get("servers") or {})
    for link, causes in (figures.get("links") or {}).items():
        for cause, moved in causes.items():
            out.add("moelab_link_bytes_total", moved, link=link, cause=cause)
    out.add("moelab_preemptions_total", figures.get("preempted", 0))
    if (load := figures.get("load")) is not None:
        tokens = np.array(load["prefill"], np.int64) + np.array(load["decode"], np.int64)
        named += [at for at in fullest(tokens) if at not in named][:BOUNDS["expert"] - len(named)]
        tell_load(out, load["layers"], tokens, named)
