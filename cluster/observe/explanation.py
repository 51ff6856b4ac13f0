"""What bound a run, in sentences: the critical path of each phase, who was on it, and what everybody waited for."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cluster.observe.hottest import hottest
from cluster.observe.result import Result
from cluster.observe.schema import DeviceUse, Phase
from cluster.observe.table import number_text, percent_text, time_text
from emulation.units import seconds

FIGURES = {"prefill": "ttft", "decode": "tpot"}
"""Phase -> the figure of a request that it decides."""

WORDS = {
    "expert": "routed experts", "head": "the head", "norm": "norms", "router": "routers", "shared": "shared experts",
    "dense": "dense layers", "dispatch": "sending tokens to experts", "return": "returning sums",
    "demand load": "loading experts on demand", "prefetch": "prefetching experts", "stream": "streaming experts",
    "behind prefetch": "demand loads that waited behind prefetches", "memory": "waiting for memory to be released",
    "lane": "waiting for another lane", "arrival": "waiting for requests", "no work": "having nothing left to do",
    "issue": "issuing kernels", "sync": "synchronising with the host", "place": "copies of the start",
    "recovery": "recovering from faults", "gather": "gathering tokens", "scatter": "scattering tokens",
    "reduce": "adding up", "copy": "other copies", "join": "joining", "sort": "sorting", "mask": "masks",
    "einsum": "einsums of masks", "unexplained": "what nothing explains"}
"""What a label of the critical path or of a stall reads like; others read as they are."""

LEAST = 0.02
"""Shares below this are not worth a sentence of their own."""


class Share(NamedTuple):
    """A part of a phase's critical path: its label, its share, and the lanes that do such work, busiest first."""

    label: str
    share: float
    lanes: tuple[str, ...]


def word(label: str) -> str:
    """A label as it reads in a sentence."""
    return WORDS.get(label, label)


def critical_path(result: Result, phase: Phase) -> list[Share]:
    """The phase's time by what the critical path spent it on, largest first."""
    shares = sorted(phase.latency_ps.items(), key=lambda item: (-item[1], item[0]))
    return [Share(label, ps / phase.time_ps, _doers(result, label)) for label, ps in shares if ps]


def _doers(result: Result, label: str) -> tuple[str, ...]:
    """Lanes that were busy with such work for at least half as long as the busiest of them, busiest first."""
    busy = {lane.lane: lane.busy.get(label, 0) for lane in result.lanes}
    most = max(busy.values(), default=0)
    return tuple(sorted((lane for lane, ps in busy.items() if ps and 2 * ps >= most),
                        key=lambda lane: (-busy[lane], lane)))


def verdict(result: Result) -> list[str]:
    """What bound each phase, and how far from its bound the run is: `explain` in two or three short sentences."""
    told = []
    for name, figure in FIGURES.items():
        if result.phases[name].time_ps:
            first, found = critical_path(result, result.phases[name])[0], getattr(result, figure)
            what = f"{figure.upper()} (P50 {time_text(found.p50_s)})" if found is not None else f"The time of {name}"
            who = f" on {listed(first.lanes)}" if first.lanes else ""
            told.append(f"{what} is bound by {word(first.label)}{who} ({percent_text(first.share)} of {name}).")
    bound = result.bound
    if bound is not None and bound.times:
        told.append(f"The run takes {number_text(bound.times)} times its lower bound of "
                    f"{time_text(seconds(bound.lb_ps))}: no other schedule on this machine saves more than "
                    f"{percent_text(1 - 1 / bound.times)}.")
    return told


def explain(result: Result) -> list[str]:
    """Sentences, the most important first."""
    told = [_phase(result, name, figure) for name, figure in FIGURES.items() if result.phases[name].time_ps]
    told += [*_mixed(result), *_serving(result), *_faults(result)]
    told += [sentence for devices in _alike(result.devices) if (sentence := _stall(devices))]
    return [*told, *_links(result), *_caches(result), *hottest(result), _bound(result)]


def _phase(result: Result, name: str, figure: str) -> str:
    """What a phase's time went to, and whom that names."""
    path, found = critical_path(result, result.phases[name]), getattr(result, figure)
    first, *rest = path
    who = f" on {listed(first.lanes)}" if first.lanes else ""
    what = f"{figure.upper()} (P50 {time_text(found.p50_s)})" if found is not None else f"The time of {name}"
    if figure == "ttft" and _queueing(result) > 1 / 2:
        what += " is mostly waiting in the queue; computing the prompts"
    others = [f"{word(share.label)} {percent_text(share.share)}" for share in rest if share.share >= LEAST]
    more = f"; then {', '.join(others)}" if others else ""
    return f"{what} is bound by {word(first.label)}{who}: {percent_text(first.share)} of {name}'s critical path{more}."


def _queueing(result: Result) -> float:
    """The share of the mean TTFT in which requests waited for their first step."""
    served = result.serving
    if served is None or served.queueing is None or result.ttft is None or not result.ttft.mean_s:
        return 0.0
    return served.queueing.mean_s / result.ttft.mean_s


def _mixed(result: Result) -> list[str]:
    """Whether decoding went on in steps that also compute prompts, which count as prefill."""
    mixed, alone = (result.phases[name].decode_tokens for name in FIGURES)
    if not mixed or mixed / (mixed + alone) < LEAST:
        return []
    return [f"{percent_text(mixed / (mixed + alone))} of decoded tokens come from steps that also compute prompts and "
            "count as prefill: TPOT has their time, too."]


def _faults(result: Result) -> list[str]:
    """What each fault did."""
    told = []
    for fault in result.faults or ():
        if fault.took_ps is None:
            told.append(f"The fault {fault.what} never took effect: the run was over before.")
            continue
        steps_s = [None if part is None else part.decode_step_s for part in (fault.before, fault.during)]
        change = ""
        if steps_s[0] and steps_s[1]:
            change = f"; a decode step took {time_text(steps_s[0])} before and {time_text(steps_s[1])} meanwhile"
        cost = f", and {time_text(seconds(fault.recovery_ps))} went into recovery" if fault.recovery_ps else ""
        told.append(f"From {time_text(seconds(fault.took_ps))} on, {fault.what}{cost}{change}.")
    return told


def listed(names: tuple[str, ...]) -> str:
    """Names in a row, cut behind the third."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _serving(result: Result) -> list[str]:
    """Whether requests waited for their turn longer than they were computed."""
    served, share = result.serving, _queueing(result)
    if share < LEAST:
        return []
    assert served is not None
    assert served.queueing is not None
    assert result.ttft is not None
    again = (f"{served.preemptions:,} pre-emptions computed {served.recomputed_tokens:,} positions again"
             if served.preemptions else "nobody was pre-empted")
    return [f"Requests queue for {time_text(served.queueing.mean_s)} of their mean TTFT of "
            f"{time_text(result.ttft.mean_s)} ({percent_text(share)}): KV memory peaked at "
            f"{sum(served.kv_peak_blocks):,} of {sum(served.kv_capacity_blocks):,} blocks, and {again}."]


def _alike(devices: Sequence[DeviceUse]) -> list[list[DeviceUse]]:
    """Devices of a kind together."""
    kinds: dict[str, list[DeviceUse]] = {}
    for device in devices:
        kinds.setdefault(device.kind, []).append(device)
    return list(kinds.values())


def _stall(devices: Sequence[DeviceUse]) -> str:
    """How busy devices of a kind are, and what they wait for, on the mean."""
    total_ps = sum(device.busy_ps + device.stall_ps for device in devices)
    if not total_ps:
        return ""
    stall: dict[str, int] = {}
    for device in devices:
        for label, ps in device.stall.items():
            stall[label] = stall.get(label, 0) + ps
    waits = sorted(stall.items(), key=lambda item: (-item[1], item[0]))
    told = [f"{percent_text(ps / total_ps)} for {word(label)}" for label, ps in waits if ps / total_ps >= LEAST]
    busy = [device.busy_ps / (device.busy_ps + device.stall_ps) for device in devices]
    if len(devices) == 1:
        rest = f"; it waits {', '.join(told)}" if told else "; it hardly waits"
        return f"{devices[0].device} ({devices[0].lane}) is busy {percent_text(busy[0])} of the run{rest}."
    rest = f"; on the mean they wait {', '.join(told)}" if told else "; they hardly wait"
    names = listed(tuple(device.device for device in devices))
    return (f"The {len(devices)} devices of kind {devices[0].kind} ({names}) are busy {percent_text(min(busy))} to "
            f"{percent_text(max(busy))} of the run{rest}.")


def _links(result: Result) -> list[str]:
    """The busiest link, with what crossed it."""
    used: list[tuple[float, str, Mapping[str, int]]] = [
        (lane.busy_ps / (lane.busy_ps + lane.stall_ps), lane.lane, lane.busy)
        for lane in result.lanes if lane.device == "links" and lane.busy_ps]
    if not used:
        return []
    share, lane, busy = max(used, key=lambda item: item[0])
    causes = ", ".join(word(cause) for cause, _ in sorted(busy.items(), key=lambda item: (-item[1], item[0])))
    return [f"The busiest link is {lane}, {percent_text(share)} of the run: {causes}."]


def _caches(result: Result) -> list[str]:
    """Hits and prefetches, where experts were loaded."""
    told, prefetch = [], result.prefetch
    for name, phase in ((name, result.phases[name]) for name in FIGURES):
        if phase.loads and phase.hit_rate is not None:
            told.append(f"In {name} {percent_text(phase.hit_rate)} of routed experts were there when their layer was "
                        f"decided; {phase.loads:,} loads brought {number_text(phase.loaded_bytes / 1e9)} GB.")
    if prefetch.issued:
        told.append(f"Of {prefetch.issued:,} prefetches {percent_text(prefetch.useful / prefetch.issued)} were used, "
                    f"{percent_text(prefetch.late / prefetch.issued)} of all arrived late, "
                    f"{percent_text(prefetch.wasted / prefetch.issued)} were wasted.")
    return told


def _bound(result: Result) -> str:
    """What any schedule could still gain on this machine."""
    if result.bound is None or result.bound.times is None:
        return "There is no lower bound for this run (see its approximations)."
    gain = 1 - 1 / result.bound.times
    return (f"The run takes {number_text(result.bound.times)} times its lower bound of "
            f"{time_text(seconds(result.bound.lb_ps))} ({result.bound.binds} binds): no other schedule on this machine "
            f"saves more than {percent_text(gain)}.")
