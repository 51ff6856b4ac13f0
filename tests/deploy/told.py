"""What a result or a served machine tells, beside what the panels show: each figure is taken from where it stands."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.observe import schema
from cluster.observe.result import Result
from cluster.serve.contract import Machine

PS = 1e12
SHARE = 0.01
"""Of a figure: how far a panel may be off."""
BOUNDS_S = tuple(float(f"{digit}e{power}") for power in range(-6, 3) for digit in (1, 2, 5))
"""Of the buckets of every histogram."""
Key = tuple[str, ...]
"""Values of the labels beside run and policy, by the labels' names."""


@dataclass(frozen=True)
class Answer:
    """What one query must answer. values: by the values of its labels; labels: their names, sorted. low: where it is a
    percentile from buckets, the lower end of the bucket, values having the upper. most: so many of them at least, the
    largest."""

    values: Mapping[Key, float]
    labels: tuple[str, ...] = ()
    low: Mapping[Key, float] | None = None
    most: int | None = None


def one(value: float) -> Answer:
    """A single figure."""
    return Answer({(): value})


def by(label: str, values: Mapping[str, float]) -> Answer:
    """A figure for each value of a label."""
    return Answer({(key,): value for key, value in values.items()}, (label,))


@dataclass
class Told:
    """Figures since the beginning. spreads: name -> count, sum, P50, P99 of durations in seconds."""

    emulated_s: float
    tokens: dict[str, float]
    requests: dict[str, float]
    running: float
    waiting: float
    steps: dict[str, float]
    spreads: dict[str, tuple[float, float, float | None, float | None]]
    phases: dict[str, dict[str, float]]
    prefetch: dict[str, float]
    links: dict[tuple[str, str], float]
    busy_s: dict[str, float]
    servers: dict[str, float]
    layers: Sequence[int]
    load: Sequence[Sequence[int]]
    preempted: float
    result: Result | None = None
    more: dict[str, list[Answer]] = field(default_factory=dict)


def of_machine(machine: Machine) -> Told:
    """Of a served machine that has nothing to do just now."""
    figures: Any = machine.figures()
    status = machine.status()
    spreads = {name: (figures[name]["count"], figures[name]["sum_s"], figures[name].get("p50_s"),
                      figures[name].get("p99_s"))
               for name in ("ttft", "tpot", "itl", "end_to_end", "queueing", "step")}
    load = figures["load"]
    tokens = [[one_ + other for one_, other in zip(first, second, strict=True)]
              for first, second in zip(load["prefill"], load["decode"], strict=True)]
    return Told(
        status.emulated_ps / PS, dict(figures["tokens"]), dict(figures["requests"]), status.running, status.waiting,
        dict(figures["steps_by_phase"]), spreads, figures["phases"], dict(figures["prefetch"]),
        {(link, cause): moved for link, causes in figures["links"].items() for cause, moved in causes.items()},
        dict(figures["busy_s"]), dict(figures["servers"]), load["layers"], tokens,
        figures["preempted"])


def of_result(result: Result) -> Told:
    """Of a run, from its result.json."""
    asked, phases = result.requests, result.phases
    finished = [made >= wanted > 0 for made, wanted in zip(asked.emitted_tokens, asked.output_tokens, strict=True)]
    tokens = {"prompt": sum(asked.prompt_tokens), "output": result.emitted_tokens,
              "prefill": sum(phase.prefill_tokens for phase in phases.values()),
              "decode": sum(phase.decode_tokens for phase in phases.values())}
    serving = result.serving
    named = {"ttft": result.ttft, "tpot": result.tpot, "itl": result.itl,
             "end_to_end": serving and serving.end_to_end, "queueing": serving and serving.queueing}
    spreads = {name: (found.count, found.count * found.mean_s, found.p50_s, found.p99_s)
               for name, found in named.items() if found is not None}
    time_s, steps = (sum(getattr(phase, key) for phase in phases.values()) for key in ("time_ps", "steps"))
    spreads["step"] = (steps, time_s / PS, None, None)
    load = [[one_ + other for one_, other in zip(first, second, strict=True)]
            for first, second in zip(result.load.prefill, result.load.decode, strict=True)]
    return Told(
        result.makespan_ps / PS, tokens, {"asked": len(finished), "length": sum(finished)}, 0.0, 0.0,
        {name: phase.steps for name, phase in phases.items()}, spreads,
        {name: phase.model_dump() for name, phase in phases.items()}, result.prefetch.model_dump(),
        {(link.link, cause): moved for link in result.traffic for cause, moved in link.bytes.items()},
        {lane.lane: lane.busy_ps / PS for lane in result.lanes}, {lane.lane: lane.servers for lane in result.lanes},
        result.load.layers, load, sum(asked.preemptions), result)


def expected(told: Told, groups: Sequence[str]) -> dict[str, list[Answer]]:
    """Board/panel -> what its queries must answer. groups: of layers, as they are called."""
    emulated_s, phases = told.emulated_s, told.phases
    each = {key: {name: float(phase[key]) for name, phase in phases.items()}
            for key in ("hits", "misses", "loads", "loaded_bytes", "substituted", "dropped")}
    hits, misses = (sum(each[key].values()) for key in ("hits", "misses"))
    steps = sum(told.steps.values())

    def rated(label: str, values: Mapping[str, float]) -> list[Answer]:
        return [by(label, {key: value / emulated_s for key, value in values.items()})]

    causes, links = summed(told.links, 1), summed(told.links, 0)
    answered = sum(count for outcome, count in told.requests.items() if outcome in {"stop", "length"})
    experts = {(str(expert), str(layer)): float(tokens) for layer, row in zip(told.layers, told.load, strict=True)
               for expert, tokens in enumerate(row) if tokens}
    top = min(16, len(experts))
    throughput = one(told.tokens["output"] / emulated_s)
    return {
        "overview/Output tokens per emulated second": [throughput],
        "overview/TTFT, mean": [mean_of(told, "ttft")], "overview/TPOT, mean": [mean_of(told, "tpot")],
        "overview/Requests answered": [one(answered)], "overview/Emulated time": [one(emulated_s)],
        "overview/Tokens per emulated second": rated("kind", told.tokens),
        "overview/Requests per emulated second": rated("outcome", told.requests),
        "overview/Steps per emulated second": rated("phase", told.steps),
        "overview/Requests running and waiting": [one(told.running), one(told.waiting)],
        **{f"overview/{title}": latency(told, name) for title, name in (
            ("TTFT", "ttft"), ("TPOT", "tpot"), ("ITL", "itl"), ("End to end", "end_to_end"), ("Queueing", "queueing"),
            ("Step", "step")) if name in told.spreads},
        "experts/Load by layer group": rated("group", of_groups(told, groups)),
        "experts/Load of the fullest experts": [
            Answer({key: tokens / emulated_s for key, tokens in experts.items()}, ("expert", "layer"), most=top)],
        "experts/Fullest experts": [Answer(experts, ("expert", "layer"), most=min(12, top))],
        "experts/Skew of load": [by("group", skews(told, groups))],
        "experts/Hit ratio": [one(hits / (hits + misses))],
        "experts/Hit ratio over time": [by("phase", {
            name: each["hits"][name] / both for name in phases
            if (both := each["hits"][name] + each["misses"][name])})],
        "experts/Hits and misses per step": [one(hits / steps), one(misses / steps)],
        "experts/Bytes loaded per emulated second": rated("phase", each["loaded_bytes"]),
        "experts/Loads per emulated second": rated("phase", each["loads"]),
        "experts/Substituted and dropped pairs": [*rated("phase", each["substituted"]),
                                                  *rated("phase", each["dropped"])],
        "experts/Prefetches per emulated second": rated("outcome", told.prefetch),
        **{f"experts/{name.capitalize()}, of issued": [one(told.prefetch[name] / told.prefetch["issued"])]
           for name in ("useful", "late") if told.prefetch["issued"]},
        **{f"machine/{title}": [by("lane", {lane: busy / emulated_s / told.servers[lane]
                                            for lane, busy in told.busy_s.items()})]
           for title in ("Lane utilisation", "Lane utilisation, since the run began")},
        "machine/Bytes by cause": rated("cause", causes), "machine/Bytes by link": rated("link", links),
        "machine/Bytes by link and cause, since the run began": [
            Answer({(cause, link): moved for (link, cause), moved in told.links.items()}, ("cause", "link"))],
        "machine/Pre-emptions": [one(told.preempted)],
        **({} if told.result is None else of_a_run(told.result))}


def of_a_run(result: Result) -> dict[str, list[Answer]]:
    """Panels of what only a run's result has."""
    span_s, lanes = result.makespan_ps / PS, result.lanes
    stalls = {(cause, lane.lane): ps / PS / span_s / lane.servers for lane in lanes for cause, ps in lane.stall.items()}
    causes: dict[str, float] = {}
    for lane in lanes:
        for cause, ps in lane.stall.items():
            causes[cause] = causes.get(cause, 0.0) + ps / PS / span_s
    path: dict[str, float] = {}
    for phase in result.phases.values():
        for cause, ps in phase.latency_ps.items():
            path[cause] = path.get(cause, 0.0) + ps / PS / span_s
    found = {
        "machine/Stalls by cause": [by("cause", causes)],
        "machine/Stalls of each lane, since the run began": [Answer(stalls, ("cause", "lane"))],
        "machine/What steps' time went into": [by("cause", path)],
        "machine/Peak of memory, of capacity": [by("device", {
            memory.device: memory.peak_bytes / memory.capacity_bytes for memory in result.memory
            if memory.capacity_bytes})],
        "machine/Memory in use": [Answer({
            (device, part): float(held[-1]) for part, devices in (
                ("experts", result.series.resident_bytes), ("kv", result.series.kv_bytes))
            for device, held in devices.items()}, ("device", "part"))],
        "cluster/Restarts": [one(result.host.restarts)], "cluster/Actors": [one(result.host.workers)],
        "cluster/Nodes": [one(result.host.nodes)], "cluster/Done": [one(1.0)],
        "overview/TTFT by bucket": [Answer({(le,): count for le, count in below(result).items()}, ("le",))],
        "overview/Runs": [Answer({(result.machine, result.model, str(result.config["precision"]), result.host.transport,
                                   result.host.versions["moelab"]): 1.0},
                                 ("machine", "model", "precision", "transport", "version"))]}
    if result.bound is not None:
        found["overview/Times the bound"] = [one(result.makespan_ps / result.bound.lb_ps)]
    if result.energy is not None:
        found["machine/Energy"] = [by("device", {**result.energy.by_device, **result.energy.by_link})]
    if result.serving is not None and (slo := result.serving.slo) is not None:
        shares = {"ttft": slo.ttft_share, "tpot": slo.tpot_share, "both": slo.share}
        found["overview/Objective met"] = [by("of", shares)]
    if result.faults:
        found |= of_faults(result.faults)
    if (wall := result.host.wall) is not None:
        found |= {"cluster/Verdict": [one(float(wall.verdict == "VOID"))], "cluster/Dilation": [one(wall.dilation)],
                  "cluster/Lag": [by("rank", {"p50": wall.lag_p50_s, "p99": wall.lag_p99_s})],
                  "cluster/Late operations": [one(wall.late_ops)], "cluster/Error": [one(wall.error)]}
    return found


def compared(a: Told, b: Told) -> dict[str, list[Answer]]:
    """What the comparison of run A and run B must answer."""
    def throughput(told: Told) -> float:
        return told.tokens["output"] / told.emulated_s

    def mean(name: str) -> Callable[[Told], float]:
        return lambda told: told.spreads[name][1] / told.spreads[name][0]

    def hit_ratio(told: Told) -> float:
        hits, misses = (sum(phase[key] for phase in told.phases.values()) for key in ("hits", "misses"))
        return hits / (hits + misses)

    def moved(told: Told) -> float:
        return sum(told.links.values())

    def of_bound(told: Told) -> float:
        assert told.result is not None
        assert told.result.bound is not None
        return told.emulated_s * PS / told.result.bound.lb_ps

    def rates(told: Told) -> tuple[Answer, Answer]:
        return (by("cause", {cause: moved / told.emulated_s for cause, moved in summed(told.links, 1).items()}),
                by("lane", {lane: busy / told.emulated_s for lane, busy in told.busy_s.items()}))

    ratios = {"tokens per emulated second": throughput, "TTFT": mean("ttft"), "TPOT": mean("tpot"),
              "emulated time": lambda told: told.emulated_s, "bytes over links": moved, "hit ratio": hit_ratio}
    sides = {"Output tokens per emulated second": throughput, "TTFT, mean": mean("ttft"), "TPOT, mean": mean("tpot"),
             **({"Times the bound": of_bound} if a.result and b.result and a.result.bound and b.result.bound else {}),
             "Hit ratio": hit_ratio, "Bytes over links": moved, "Step, mean": mean("step")}
    (a_bytes, a_busy), (b_bytes, b_busy) = rates(a), rates(b)
    return {**{f"compare/B over A: {title}": [one(ask(b) / ask(a))] for title, ask in ratios.items()},
            **{f"compare/{title}": [one(ask(a)), one(ask(b))] for title, ask in sides.items()},
            "compare/Bytes over links by cause": [a_bytes, b_bytes], "compare/Lane busy time": [a_busy, b_busy]}


def of_faults(faults: Sequence[schema.FaultEffect]) -> dict[str, list[Answer]]:
    """Panels of a run in which faults took effect."""
    taken = [fault for fault in faults if fault.took_ps is not None]
    kinds = sorted({fault.fault for fault in taken})
    return {"cluster/Faults that last": [one(sum(fault.over_ps is None for fault in taken))],
            "cluster/Faults that took effect": [by("kind", {
                kind: sum(fault.fault == kind for fault in taken) for kind in kinds})],
            "cluster/Recovery": [by("kind", {
                kind: sum(fault.recovery_ps for fault in taken if fault.fault == kind) / PS for kind in kinds})],
            "cluster/Bytes that faults cost": [by("source", {"sent": sum(fault.sent_bytes for fault in faults),
                                                             "stored": sum(fault.stored_bytes for fault in faults)})]}


def summed(values: Mapping[tuple[str, str], float], place: int) -> dict[str, float]:
    """Added up by one of the two parts of their keys."""
    out: dict[str, float] = {}
    for key, value in values.items():
        out[key[place]] = out.get(key[place], 0.0) + value
    return out


def of_groups(told: Told, groups: Sequence[str]) -> dict[str, float]:
    """Tokens of the layers that each group's name spans; the groups must share out all layers."""
    spans = {group: spanned(group) for group in groups}
    assert sorted(layer for layer in told.layers) == sorted(
        layer for layer in told.layers for low, high in spans.values() if low <= layer <= high)
    rows = {layer: float(sum(row)) for layer, row in zip(told.layers, told.load, strict=True)}
    return {group: sum(tokens for layer, tokens in rows.items() if low <= layer <= high)
            for group, (low, high) in spans.items()}


def skews(told: Told, groups: Sequence[str]) -> dict[str, float]:
    """The mean of the fullest expert's load over its layer's mean, by group."""
    out = {}
    for group in groups:
        low, high = spanned(group)
        found = [max(row) * len(row) / sum(row) for layer, row in zip(told.layers, told.load, strict=True)
                 if low <= layer <= high]
        out[group] = sum(found) / len(found)
    return out


def spanned(group: str) -> tuple[int, int]:
    """The first and the last layer of a group."""
    first, _, last = group.partition("-")
    return int(first), int(last or first)


def mean_of(told: Told, name: str) -> Answer:
    """A histogram's mean."""
    count, sum_s, *_ = told.spreads[name]
    return one(sum_s / count)


def latency(told: Told, name: str) -> list[Answer]:
    """A latency panel: the mean, and two percentiles to their buckets."""
    _, _, *ranks = told.spreads[name]
    return [mean_of(told, name), *(bucketed(exact) for exact in ranks)]


def below(result: Result) -> dict[str, float]:
    """How many first tokens came within the upper end of each bucket."""
    asked = result.requests
    seconds = [(first_ps - arrival_ps) / PS for arrival_ps, first_ps in zip(
        asked.arrival_ps, asked.first_ps, strict=True) if first_ps is not None]
    return {f"{bound:g}": float(sum(each <= bound for each in seconds)) for bound in BOUNDS_S} | {"+Inf": len(seconds)}


def bucketed(exact_s: float | None) -> Answer:
    """What a percentile from buckets of 1, 2 and 5 of each decade may be; anything positive where none is told."""
    if exact_s is None:
        return Answer({(): 500.0}, low={(): 0.0})
    high = next(bound for bound in BOUNDS_S if bound >= exact_s)
    return Answer({(): high}, low={(): max((bound for bound in BOUNDS_S if bound < exact_s), default=0.0)})


def complaint(wanted: Answer, found: Mapping[Key, float]) -> str:
    """How an answer differs from what must be; empty where it does not."""
    if not found:
        return "no answer"
    if wanted.most is not None:
        largest = sorted(wanted.values.values(), reverse=True)[:wanted.most]
        if not close_all(sorted(found.values(), reverse=True)[:wanted.most], largest):
            return f"{sorted(found.values())} instead of {largest}"
    elif set(found) != {key for key, value in wanted.values.items() if key in found or abs(value) > 0}:
        return f"labels {sorted(set(found) ^ set(wanted.values))} are in one of both only"
    for key, value in found.items():
        high = wanted.values[key]
        if wanted.low is not None:
            if not wanted.low[key] <= value <= high:
                return f"{key}: {value} is not from {wanted.low[key]} to {high}"
        elif not close(value, high):
            return f"{key}: {value} instead of {high}"
    return ""


def close(one_: float, other: float) -> bool:
    """Within a hundredth."""
    return abs(one_ - other) <= SHARE * abs(other)


def close_all(some: Sequence[float], others: Sequence[float]) -> bool:
    """As many, and each within a hundredth of its counterpart."""
    return len(some) == len(others) and all(close(a, b) for a, b in zip(some, others, strict=True))
